"""What a run shows: phases with their times, progress bars, a line per epoch, tables."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from twostage_jax.errors import UserError, printable

PHASES = ("import", "data", "compile", "pretrain", "encode", "head", "evaluate")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise what rich would make an exit with status 1 of."""
        raise BrokenPipeError


class Terminal:
    """Prints to standard output unless `quiet`, and keeps the seconds of each phase.

    Attributes:
        seconds: `{phase: seconds}` for `PHASES`, and `total` since this object was made.
        notices: what `notice` was told.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = _Console(quiet=quiet, highlight=False)
        # Rather lines that a narrow terminal breaks than figures that a table cuts off.
        self.console.width = max(self.console.width, 80)
        self.notices: list[str] = []
        self._seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._began = time.perf_counter()

    @property
    def seconds(self) -> dict[str, float]:
        """Rounded to milliseconds."""
        total = time.perf_counter() - self._began
        return {name: round(s, 3) for name, s in {**self._seconds, "total": total}.items()}

    def line(self, text: str = "") -> None:
        """Print lines as they are, however long; what else a terminal would obey is escaped."""
        shown = "\n".join(map(printable, text.split("\n")))
        self._print(shown, markup=False, soft_wrap=True)

    def notice(self, text: str) -> None:
        """Print what has to be known of how a run went, and keep it."""
        self.notices.append(" ".join(text.split()))
        self.line(f"notice: {self.notices[-1]}")

    def table(self, title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
        """Print a table; the first column is text, the others are numbers."""
        table = Table(title=_plain(title), title_justify="left", title_style="bold")
        for index, column in enumerate(columns):
            # Rather broken than cut off.
            table.add_column(column, justify="right" if index else "left", overflow="fold")
        for row in rows:
            texts = (value if isinstance(value, str) else f"{value:,}" for value in row)
            table.add_row(*map(_plain, texts))
        self._print(table)

    def _print(self, what: Any, **options: Any) -> None:
        try:
            self.console.print(what, **options)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(
                f"cannot print to standard output: {error.strerror}; send it elsewhere"
            ) from error

    @contextlib.contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        """Time a phase and show what is going on."""
        status = self.console.status(text) if self._live else contextlib.nullcontext()
        with status, self._timed(name):
            yield

    @contextlib.contextmanager
    def training(self, stage: str, epochs: int) -> Iterator["Training"]:
        """A progress bar over the epochs of a stage, where there is a terminal to show it."""
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=self.console, transient=True, disable=not self._live)
        with self._timed(stage), bar as progress:
            yield Training(self, stage, epochs, progress)

    @property
    def _live(self) -> bool:
        return self.console.is_terminal and not self.console.quiet

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            self._seconds[name] = self._seconds.get(name, 0.0) + spent


def _plain(text: str) -> Text:
    # Names of classes and files come from strangers: neither rich's markup nor control codes.
    return Text(printable(text))


class Training:
    """The progress of one stage."""

    def __init__(self, terminal: Terminal, stage: str, epochs: int, progress: Progress) -> None:
        self._terminal, self._stage, self._epochs = terminal, stage, epochs
        self._progress, self._task = progress, progress.add_task(stage, total=epochs)

    def advance(self, epochs: float) -> None:
        """Move the bar to `epochs`, fractions included."""
        self._progress.update(self._task, completed=epochs)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Print the line of a completed epoch."""
        figures = "  ".join(
            f"{name} {value:.4f}"
            for name, value in record.items()
            if name not in ("stage", "epoch", "seconds", "members")
        )
        self._terminal.line(
            f"{self._stage}  epoch {record['epoch']}/{self._epochs}  {figures}  "
            f"{record['seconds']:.1f} s"
        )
