"""Output on standard output: lines, notices, tables and progress bars."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from twostage_jax.errors import UserError, printable

NARROWEST = 80  # columns


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error. Rich would end the program with status 1, and ours is 141."""
        raise BrokenPipeError


class Epoch(Protocol):
    """Figures of a completed epoch."""

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 1."""
        ...

    @property
    def loss(self) -> float | None:
        """Mean training loss."""
        ...

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Other training metrics by name."""
        ...

    @property
    def validation(self) -> Mapping[str, float | None]:
        """Loss and metrics on the validation split."""
        ...

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        ...


class ProgressBar:
    """Progress of one stage: a bar between epochs, and a line after each epoch."""

    def __init__(self, terminal: "Terminal", stage: str, epochs: int, bar: Progress) -> None:
        self._terminal = terminal
        self._stage = stage
        self._epochs = epochs
        self._bar = bar
        self._task = bar.add_task(stage, total=epochs)

    def advance(self, epochs: float) -> None:
        """Move the bar to a number of epochs, which may be a fraction."""
        self._bar.update(self._task, completed=epochs)

    def epoch(self, record: Epoch) -> None:
        """Print the line of a completed epoch, for instance `loss 0.0656  accuracy 0.9712`."""
        values = _figures({**record.metrics, "loss": record.loss})
        if record.validation:
            values += f"  validation {_figures(record.validation)}"
        progress = f"epoch {record.epoch}/{self._epochs}"
        self._terminal.line(f"{self._stage}  {progress}  {values}  {record.seconds:.1f} s")


def _figures(metrics: Mapping[str, float | None]) -> str:
    return "  ".join(
        f"{name} not finite" if value is None else f"{name} {value:.4f}"
        for name, value in sorted(metrics.items())
    )


class Terminal:
    """Printer on standard output. With `quiet` it prints nothing and still keeps its notices.

    Attributes:
        notices: every text passed to `notice`.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.notices: list[str] = []
        self._console = _Console(quiet=quiet, highlight=False)
        # On a narrow terminal, a wrapped line is easier to read than a table without its numbers.
        self._console.width = max(self._console.width, NARROWEST)
        # Animations need a terminal: a file or a pipe gets complete lines only.
        self._animated = self._console.is_terminal and not quiet

    def line(self, text: str = "") -> None:
        """Print text without wrapping it. Control codes are printed as `\\x1b`."""
        lines = map(printable, text.split("\n"))
        self._print("\n".join(lines), soft_wrap=True)

    def notice(self, text: str) -> None:
        """Print an event that the user should know about, and add it to `notices`."""
        notice = " ".join(text.split())
        self.notices.append(notice)
        self.line(f"notice: {notice}")

    def table(
        self, title: str, columns: Iterable[str], rows: Iterable[Iterable[str | int]]
    ) -> None:
        """Print a table. The first column is text on the left; the others are on the right."""
        table = Table(title=_literal(title), title_justify="left", title_style="bold")
        for index, column in enumerate(columns):
            # A long value is folded into two lines, because a cut number is a wrong number.
            table.add_column(column, justify="right" if index else "left", overflow="fold")
        for row in rows:
            texts = (value if isinstance(value, str) else f"{value:,}" for value in row)
            table.add_row(*map(_literal, texts))
        self._print(table)

    @contextlib.contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Show what the program is doing, until the block ends."""
        with self._console.status(text) if self._animated else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def progress(self, stage: str, epochs: int) -> Iterator[ProgressBar]:
        """Show the progress of a stage, until the block ends."""
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        off = not self._animated
        with Progress(*columns, console=self._console, transient=True, disable=off) as bar:
            yield ProgressBar(self, stage, epochs, bar)

    def _print(self, content: RenderableType, soft_wrap: bool = False) -> None:
        try:
            # Text can hold brackets of anybody's file names, which are not rich's markup.
            self._console.print(content, markup=False, soft_wrap=soft_wrap)
        except BrokenPipeError:
            raise  # the reader has closed the pipe: the command ends quietly
        except OSError as error:
            raise UserError(
                f"cannot print to standard output: {error.strerror}; redirect it to another place"
            ) from error


def _literal(text: str) -> Text:
    # Names of classes and files can come from anybody: show rich's markup and control codes.
    return Text(printable(text))
