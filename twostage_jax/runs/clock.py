"""Seconds that each phase of a run takes."""

import contextlib
import time
from collections.abc import Iterator, Sequence

from twostage_jax.store.epochs import EpochRecord

PHASES = ("import", "data", "compile", "pretrain", "encode", "head", "evaluate")
EARLIER = "earlier"


class Clock:
    """Adds up the seconds of each phase, for `result.json`."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._began = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as a part of phase `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - began

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase, and `total` since this clock was made; rounded to milliseconds."""
        total = time.perf_counter() - self._began
        return {name: round(s, 3) for name, s in {**self._seconds, "total": total}.items()}


def with_earlier(seconds: dict[str, float], epochs: Sequence[EpochRecord]) -> dict[str, float]:
    """Add `earlier`: seconds of the epochs before a run was resumed; nothing if there are none.

    Args:
        seconds: from `Clock.seconds`, of this process.
        epochs: all epochs of the run.

    >>> epochs = [EpochRecord("pretrain", epoch=n, loss=1.0, seconds=30.0) for n in (1, 2)]
    >>> with_earlier({"pretrain": 31.0, "head": 0.0, "total": 40.0}, epochs)["earlier"]
    29.0
    """
    total = sum(record.seconds for record in epochs)
    earlier = round(total - seconds["pretrain"] - seconds["head"], 3)
    return {**seconds, EARLIER: earlier} if earlier > 0 else seconds


class Alarm:
    """Timer for periodic checkpoints; monotonic, because the wall clock can jump."""

    def __init__(self, seconds: float) -> None:
        self._interval = seconds
        self.restart()

    def restart(self) -> None:
        """Start counting again."""
        self._end = time.monotonic() + self._interval

    @property
    def due(self) -> bool:
        """True once the time is over."""
        return time.monotonic() >= self._end
