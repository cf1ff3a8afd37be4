"""Reports of a benchmark: medians with their range, paired ratios, tables and files."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from twostage_jax.bench.records import Measured, Report
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.atomic import write_bytes

Value = Callable[[Measured], float | None]
Values = Sequence[float | None]
Ratios = list[tuple[str, str]]  # titles, and texts such as "6.4 [6.1, 6.6] x"


class Figure(NamedTuple):
    """Median, minimum and maximum over the repetitions."""

    median: float
    low: float
    high: float

    def text(self, digits: int, unit: str = "") -> str:
        """Format as `1.62 [1.58, 1.71] s`, or as the median alone if all values are equal."""
        median = f"{self.median:.{digits}f}"
        if self.low == self.high:
            return f"{median}{unit}"
        return f"{median} [{self.low:.{digits}f}, {self.high:.{digits}f}]{unit}"


class Column(NamedTuple):
    """Column of a table: heading, decimals, and value of a measurement (None if it has none)."""

    title: str
    digits: int
    value: Value


@dataclass(frozen=True)
class Layout:
    """Tables of a benchmark."""

    columns: Mapping[str, Column]
    short: Mapping[str, str]  # headings on the terminal, which has room for some columns
    titles: tuple[str, str]  # of the table and of the ratios on the terminal
    ratios: Callable[[Report], Ratios]
    header: Callable[[Report], list[str]]  # lines with the conditions of the measurement


def stored(key: str, scale: float = 1.0) -> Value:
    """Make the value of a key of `Measured`, in another unit; a 0 counts as not measured."""

    def value(measured: Measured) -> float | None:
        number = measured.get(key)
        return scale * number if number else None

    return value


def warm_epoch(stage: str) -> Value:
    """Make the seconds of an epoch of a stage: the median of all epochs but the first."""

    def value(measured: Measured) -> float | None:
        seconds: Sequence[float] = measured.get(stage) or ()
        # The first epoch fills caches and is slower than the others. It counts if it is alone.
        return statistics.median(seconds[1:] or seconds) if seconds else None

    return value


def summarise(values: Values) -> Figure | None:
    """Return the `Figure` of the values that are not None, or None if there is no such value."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    # The median, because a pause of the machine makes single repetitions much slower.
    return Figure(statistics.median(present), min(present), max(present))


def column_values(report: Report, row: str, column: Column) -> Values:
    """Return the values of a column in all repetitions of a row; empty without the row."""
    for entry in report["rows"]:
        if entry["name"] == row:
            return [column.value(measured) for measured in entry["repetitions"]]
    return []


def paired_ratio(numerator: Values, denominator: Values) -> Figure | None:
    """Return the `Figure` of the ratios, computed repetition by repetition.

    The rows of one repetition are measured close together, so a ratio within a repetition is free
    of the slow changes in a machine's speed.
    """
    # A row with fewer repetitions is compared over those that it has.
    pairs = zip(numerator, denominator, strict=False)
    return summarise([a / b for a, b in pairs if a and b])


def table(report: Report, columns: Mapping[str, Column]) -> list[dict[str, str]]:
    """Return a dict of texts by column title for each row, in the order of the report."""
    rows = []
    for entry in report["rows"]:
        texts = {"row": entry["title"]}
        for column in columns.values():
            figure = summarise([column.value(measured) for measured in entry["repetitions"]])
            texts[column.title] = figure.text(column.digits) if figure else "-"
        rows.append(texts)
    return rows


def conditions(report: Report, epochs: str) -> list[str]:
    """Return three lines: data, epochs and repetitions; machine and date; versions."""
    machine = report["machine"]
    data = report["data"]
    device = "" if machine["device"] == "cpu" else f", {machine['device']}"
    repeats = max(len(entry["repetitions"]) for entry in report["rows"])
    return [
        f"{data['name']}, {data['train']:,} training images, {epochs}, repetitions: {repeats}; "
        "median [minimum, maximum]",
        f"{machine['cores']} cores, {machine['cpu']}{device}; {report['date']}",
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
    ]


def write(report: Report, folder: Path, layout: Layout) -> None:
    """Write `bench.json` with every repetition and `bench.md` with the tables."""
    # Strict JSON has no NaN, so a broken measurement is an error here and not for a reader.
    text = json.dumps(report, indent=1, allow_nan=False)
    write_bytes(folder / "bench.json", f"{text}\n".encode())
    write_bytes(folder / "bench.md", markdown(report, layout).encode())


def markdown(report: Report, layout: Layout) -> str:
    """Return the header and the tables in Markdown."""
    rows = table(report, layout.columns)
    lines = [f"- {line}" for line in layout.header(report)]
    lines += ["", f"| {' | '.join(rows[0])} |", f"|{' --- |' * len(rows[0])}"]
    lines += [f"| {' | '.join(row.values())} |" for row in rows]
    ratios = layout.ratios(report)
    if ratios:
        lines += ["", "| ratio | |", "| --- | --- |"]
        lines += [f"| {title} | {text} |" for title, text in ratios]
    return "\n".join(lines) + "\n"


def show(report: Report, folder: Path, terminal: Terminal, layout: Layout) -> None:
    """Print the medians; the ranges are in `bench.md`."""
    terminal.line()
    for line in layout.header(report):
        terminal.line(line)
    # All columns with their ranges would need 250 characters.
    shown = {name: layout.columns[name] for name in layout.short}
    rows = []
    for entry, texts in zip(report["rows"], table(report, shown), strict=True):
        # The text in front of the bracket is the median.
        medians = [texts[column.title].partition(" [")[0] for column in shown.values()]
        rows.append([entry["name"], *medians])
    terminal.line()
    terminal.table(layout.titles[0], ("row", *layout.short.values()), rows)
    ratios = layout.ratios(report)
    if ratios:
        terminal.line()
        terminal.table(layout.titles[1], ("ratio", ""), ratios)
    terminal.line(f"bench     {folder}")
