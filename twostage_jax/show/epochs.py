"""Lines of the epochs of a stage, and a bar while they are computed."""

import math
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

# A dataclass of `store`, `scores` or `runs`; each docstring names the one that it reads.
Record: TypeAlias = Any

PAUSE = 1.0  # an epoch is printed if the last line is older than this, in seconds
TENTH = 10  # of short epochs, about every tenth is printed
GAP = 2  # spaces between columns
DIGITS = 6  # of a figure, for instance 0.9712
WIDTH = 80  # characters of a row
COLUMNS = ("loss", "accuracy")  # figures that always have a column, in this order
# Figures of an encoder have a line of their own: names, and words with a format.
ENCODER = {
    "probe": "linear probe {:.4f}",
    "knn": "nearest neighbours {:.4f}",
    "rank": "effective rank {:.1f}",
}
ENDING = len(" (0.0000 to 0.0000)")  # the range of members; the column of seconds is narrower
HIDDEN = (*ENCODER, "spread")  # no columns


class EpochLines:
    """Rows of figures, one for an epoch, under a header that names them.

    The first and the last epoch have a row, and each epoch that ends at least a second after the
    row before. Of shorter epochs, about every tenth has one. Figures that do not fit into a row are
    printed if `verbose` is true. `metrics.jsonl` contains all of them.

    Args:
        stage: `pretrain` or `head`.
        epochs: number of epochs of the stage.
        verbose: True for a row for every epoch.
        line: prints a line.
    """

    def __init__(
        self, stage: str, epochs: int, verbose: bool, line: Callable[[str], object]
    ) -> None:
        self._stage = stage
        self._epochs = epochs
        self._verbose = verbose
        self._every = 1 if verbose else max(TENTH, round(epochs / TENTH))
        self._line = line
        self._printed = -math.inf

    def add(self, record: Record) -> None:
        """Print the row of `store.EpochRecord`, if it is due."""
        now = time.monotonic()
        is_first = self._printed == -math.inf
        in_turn = record.epoch in (1, self._epochs) or record.epoch % self._every == 0
        if not (is_first or in_turn or now - self._printed >= PAUSE):
            return
        label = f"{self._stage}  epoch {record.epoch}/{self._epochs}"
        left = len(f"{self._stage}  epoch {self._epochs}/{self._epochs}")
        columns, more_figures = _in_columns(figures(record), WIDTH - left - ENDING)
        texts = [_decimal(value).rjust(_width(name)) for name, value in columns.items()]
        spread = member_range(record, list(columns)[-1])
        if spread:
            texts.append(" ({:.4f} to {:.4f})".format(*spread))
        else:
            # With a range, a row of 80 columns is full.
            columns["seconds"] = record.seconds
            texts.append(f"{record.seconds:.1f}".rjust(_width("seconds")))
        if is_first:
            self._header(left, list(columns), _member_count(record))
        self._line(f"{label.ljust(left)}{''.join(texts)}")
        if self._verbose:
            encoder = describe_encoder({**record.metrics, **record.validation})
            for text in filter(None, (more_figures, encoder)):
                for part in textwrap.wrap(text, WIDTH - GAP):
                    self._line(f"  {part}")
        self._printed = now

    def _header(self, left: int, names: Sequence[str], members: int) -> None:
        self._line("")
        if members:
            self._line(f"{self._stage}: mean of {members:,} members (lowest to highest)")
        above = "".join(name.rpartition(" ")[0].rjust(_width(name)) for name in names)
        below = "".join(name.rpartition(" ")[2].rjust(_width(name)) for name in names)
        self._line((" " * left + above).rstrip())
        self._line(" " * left + below)


def describe_encoder(values: Mapping[str, float | None]) -> str:
    """Return `linear probe 0.9012, nearest neighbours 0.9500, effective rank 34.2`."""
    finite = {name: values.get(name) for name in ENCODER}
    texts = [ENCODER[name].format(x) for name, x in finite.items() if x is not None]
    return ", ".join(texts)


def figures(record: Record) -> dict[str, float | None]:
    """Figures of `store.EpochRecord` by name, such as `train loss` and `validation accuracy`."""
    train = _without_encoder({"loss": record.loss, **record.metrics})
    values = {f"train {name}": train[name] for name in sorted(train, key=_rank)}
    held_out = _without_encoder(record.validation)
    return values | {f"validation {name}": held_out[name] for name in sorted(held_out, key=_rank)}


def _without_encoder(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: value for name, value in values.items() if name not in HIDDEN}


def _in_columns(values: dict[str, float | None], width: int) -> tuple[dict[str, float | None], str]:
    """Split figures into those of the row and a text with the rest, often empty."""
    if sum(map(_width, values)) <= width:
        return values, ""
    columns = {name: x for name, x in values.items() if name.endswith(COLUMNS)}
    more_figures = [f"{name} {_decimal(x)}" for name, x in values.items() if name not in columns]
    return columns, ", ".join(more_figures)


def member_range(record: Record, name: str) -> tuple[float, float] | None:
    """Lowest and highest value of a figure among the members; None for one member."""
    key = name.removeprefix("train ").replace(" ", "_")
    finite = [value for value in record.members.get(key, ()) if value is not None]
    return (min(finite), max(finite)) if finite else None


def _rank(name: str) -> int:
    # The loss comes first, because a stage of any kind has one.
    return COLUMNS.index(name) if name in COLUMNS else len(COLUMNS)


def _member_count(record: Record) -> int:
    return len(record.members.get("loss", ()))


def _width(name: str) -> int:
    """Width of a column under a name of several lines."""
    words = name.rpartition(" ")
    return GAP + max(DIGITS, len(words[0]), len(words[2]))


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
