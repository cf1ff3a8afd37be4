"""Output on standard output: lines, notices, tables and progress bars."""

import contextlib
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.text import Text

from twostage_jax.errors import UserError, printable
from twostage_jax.show.epochs import EpochLines, Record, figures

if TYPE_CHECKING:  # only commands that train import it
    from rich.progress import Progress

NARROWEST = 40  # columns that a line is wrapped to at least
TABLE = 80  # columns that a table has at least
# A number and its unit stay on one line.
UNIT = re.compile(r"(?<=\d) (?=(?:%|s|MB)(?:\W|$))")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error. Rich would end the program with status 1, and ours is 141."""
        raise BrokenPipeError


class ProgressBar:
    """Progress of one stage: a bar with the latest figure, and lines of the epochs."""

    def __init__(self, lines: EpochLines, stage: str, epochs: int, bar: "Progress | None") -> None:
        self._lines = lines
        self._stage = stage
        self._epochs = epochs
        self._latest = ""
        self._bar = bar
        if bar is not None:
            self._task = bar.add_task(stage, total=epochs)

    def advance(self, epochs: float) -> None:
        """Move the bar to a number of epochs, which may be a fraction."""
        if self._bar is not None:
            current = min(int(epochs) + 1, self._epochs)
            text = f"{self._stage}  epoch {current}/{self._epochs}{self._latest}"
            self._bar.update(self._task, completed=epochs, description=text)

    def epoch(self, record: Record) -> None:
        """Print the line of a completed epoch, from `store.EpochRecord`; see `EpochLines`."""
        name, value = list(figures(record).items())[-1]
        self._latest = f"  {name} {value:.4f}" if value is not None else ""
        self._lines.add(record)


class Terminal:
    """Printer on standard output. With `quiet` it prints nothing, but still keeps its notices.

    A command whose result is on standard output prints on standard error (`stderr`).

    A terminal gets lines that fit its width. A file or a pipe gets every line in one piece.

    Attributes:
        notices: every text passed to `notice`.
        verbose: True to show every epoch, the parameter groups and all figures.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False, stderr: bool = False) -> None:
        self.notices: list[str] = []
        self.verbose = verbose
        self._console = _Console(quiet=quiet, highlight=False, stderr=stderr)
        terminal = self._console.is_terminal
        self._width = max(self._console.width, NARROWEST) if terminal else None
        # On a narrow terminal, a wrapped line is easier to read than a table without its numbers.
        self._console.width = max(self._console.width, TABLE) if terminal else TABLE
        # Animations need a terminal: a file or a pipe gets complete lines only.
        self._animated = terminal and not self._console.is_dumb_terminal and not quiet

    def line(self, text: str = "", hang: int = 0, bold: bool = False) -> None:
        """Print text. Control codes are printed as `\\x1b`.

        Args:
            text: one or more lines. A line that is too long for the terminal is wrapped between
                two words; a longer word, such as a path, stays whole.
            hang: number of spaces before the second and later parts of a wrapped line.
            bold: True for text that stands out on a terminal.
        """
        lines = [self._wrap(printable(line), hang) for line in text.split("\n")]
        self._print(Text("\n".join(lines), style="bold" if bold else ""), soft_wrap=True)

    def notice(self, text: str) -> None:
        """Print an event that the user should know about, and add it to `notices`."""
        notice = " ".join(text.split())
        self.notices.append(notice)
        self.line(f"notice: {notice}", hang=8)

    def warn(self, text: str) -> None:
        """Print a fact that makes a result wrong, louder than all else, and add it to `notices`."""
        warning = " ".join(text.split())
        self.notices.append(warning)
        self.line()
        lines = self._wrap(printable(f"WARNING: {warning}"), 9)
        self._print(Text(lines, style="bold white on red"), soft_wrap=True)
        self.line()

    def table(
        self, title: str, columns: Iterable[str], rows: Iterable[Iterable[str | int]]
    ) -> None:
        """Print a table. The first column is text on the left; the others are on the right."""
        from rich.table import Table

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
    def reading(self, text: str) -> Iterator[Callable[[int, int], None]]:
        """Show that data are read; the yielded function shows how many images are decoded."""
        if not self._animated:
            yield lambda done, total: None
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (SpinnerColumn(), TextColumn("{task.description}"))
        left = (TimeRemainingColumn(), TextColumn("left"))
        counted = (BarColumn(), MofNCompleteColumn(), *left)
        with Progress(*columns, *counted, console=self._console, transient=True) as bar:
            task = bar.add_task(text, total=None)

            def advance(done: int, total: int) -> None:
                bar.update(task, description="decoding images", completed=done, total=total)

            yield advance

    @contextlib.contextmanager
    def progress(self, stage: str, epochs: int) -> Iterator[ProgressBar]:
        """Show the progress of a stage, until the block ends."""
        lines = EpochLines(stage, epochs, self.verbose, self.line)
        if not self._animated:
            yield ProgressBar(lines, stage, epochs, None)
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        left = (TimeRemainingColumn(), TextColumn("left"))
        columns = (TextColumn("{task.description}"), BarColumn(), *left)
        with Progress(*columns, console=self._console, transient=True) as bar:
            yield ProgressBar(lines, stage, epochs, bar)

    def _wrap(self, line: str, hang: int) -> str:
        if self._width is None:
            return line
        parts = textwrap.wrap(
            UNIT.sub("\N{NO-BREAK SPACE}", line),
            self._width,
            subsequent_indent=" " * hang,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return "\n".join(parts).replace("\N{NO-BREAK SPACE}", " ")

    def _print(self, content: RenderableType, soft_wrap: bool = False) -> None:
        try:
            # Brackets in file names must not be read as markup of rich.
            self._console.print(content, markup=False, soft_wrap=soft_wrap)
        except BrokenPipeError:
            raise  # the reader has closed the pipe: the command ends quietly
        except OSError as error:
            raise UserError(
                f"cannot print to standard output: {error.strerror}; redirect it to another place"
            ) from error


def _literal(text: str) -> Text:
    # Names of classes and files are not trusted: print markup and control codes as text.
    return Text(printable(text))
