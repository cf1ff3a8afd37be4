"""Reports of a benchmark: medians with their range, paired ratios, tables and files."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from twostage_jax.bench.records import Measured, Ratio, Report
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.atomic import write_bytes

Value = Callable[[Measured], float | None]
Values = Sequence[float | None]
# A ratio is withheld if its two sides saw matrix rates that differ by a larger factor, or if other
# processes used a larger percentage of the processors.
RATE_LIMIT = 1.15
OTHERS_LIMIT = 20.0
WITHHELD = (
    "A ratio is withheld if the matrix rates beside its two rows differ by more than "
    f"{100 * (RATE_LIMIT - 1):.0f} %, or if other processes used more than {OTHERS_LIMIT:.0f} % of "
    "the processors meanwhile."
)


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


class Comparison(NamedTuple):
    """Ratio of a column between two rows."""

    title: str
    above: Sequence[str]  # rows; in each repetition, the one with the smallest value counts
    below: str  # row
    column: str
    below_column: str = ""  # if it is another one
    digits: int = 1
    scale: float = 1.0
    unit: str = " x"


@dataclass(frozen=True)
class Layout:
    """Tables of a benchmark."""

    columns: Mapping[str, Column]
    main: Sequence[str]  # keys of the columns in the first table of `bench.md`
    short: Mapping[str, str]  # headings on the terminal, which has room for some columns
    titles: tuple[str, str]  # of the table and of the ratios on the terminal
    comparisons: Sequence[Comparison]
    header: Callable[[Report], list[str]]  # lines with the conditions of the measurement


MACHINE_COLUMNS = {
    "rate": Column("matrix rate (GFLOP/s)", 0, lambda m: m.get("matrix_rate", 0) / 1e9 or None),
    "others": Column("used by other processes (%)", 0, lambda m: m.get("other_load")),
}


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


def ratios(report: Report, layout: Layout) -> list[Ratio]:
    """Compute all ratios whose rows were measured, repetition by repetition.

    The rows of one repetition are measured close together, so a ratio within a repetition is free
    of the slow changes in a machine's speed.
    """
    rows = {entry["name"]: entry["repetitions"] for entry in report["rows"]}
    results = []
    for comparison in layout.comparisons:
        value = layout.columns[comparison.column].value
        below = layout.columns[comparison.below_column or comparison.column].value
        values = []
        withheld = []
        # Slow rows have fewer repetitions.
        for index, measured in enumerate(rows.get(comparison.below, [])):
            sides = [
                rows[name][index] for name in comparison.above if len(rows.get(name, [])) > index
            ]
            numbers = [(number, side) for side in sides if (number := value(side))]
            divisor = below(measured)
            if not numbers or not divisor:
                continue
            number, side = min(numbers, key=lambda pair: pair[0])
            reason = distrust(side, measured)
            if reason:
                withheld.append(reason)
            else:
                values.append(comparison.scale * number / divisor)
        if values or withheld:
            text = _ratio_text(comparison, values, withheld)
            results.append(
                Ratio(title=comparison.title, values=values, withheld=withheld, text=text)
            )
    return results


def distrust(above: Measured, below: Measured) -> str | None:
    """Return the reason why two measurements cannot be compared, or None."""
    loads = [load for side in (above, below) if (load := side.get("other_load")) is not None]
    rates = [rate for side in (above, below) if (rate := side.get("matrix_rate"))]
    if len(rates) == 2 and max(rates) > RATE_LIMIT * min(rates):
        percent = 100 * (max(rates) / min(rates) - 1)
        return (
            f"matrix rates of {rates[0] / 1e9:,.0f} and {rates[1] / 1e9:,.0f} GFLOP/s differ by "
            f"{percent:.0f} %"
        )
    if loads and max(loads) > OTHERS_LIMIT:
        return f"other processes used {max(loads):.0f} % of the processors"
    return None


def _ratio_text(comparison: Comparison, values: Values, withheld: Sequence[str]) -> str:
    figure = summarise(values)
    if figure is None:
        return f"withheld: {withheld[0]}"
    text = figure.text(comparison.digits, comparison.unit)
    if withheld:
        count = len(values) + len(withheld)
        text += f" ({len(withheld)} of {count} withheld: {withheld[0]})"
    return text


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
    """Return lines with data and epochs; processor, threads and date; load and rate; versions."""
    machine = report["machine"]
    data = report["data"]
    device = "" if machine["device"] == "cpu" else f", {machine['device']}"
    frequency = f"{machine['mhz']:,.0f} MHz" if machine["mhz"] else "unknown frequency"
    repeats = max(len(entry["repetitions"]) for entry in report["rows"])
    threads = {name: tuning["threads"] for name, tuning in report["threads"].items()}
    tuned = ", ".join(f"{name} {count}" for name, count in threads.items())
    return [
        f"{data['name']}, {data['train']:,} training images, {epochs}, repetitions: {repeats}; "
        "median [minimum, maximum]",
        f"{machine['cores']} cores, {machine['cpu']}, {frequency}{device}; {report['date']}",
        f"threads: all cores; tuned for PyTorch: {tuned or 'none'}",
        *load_lines(report),
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
    ]


def load_lines(report: Report) -> list[str]:
    """Return lines about the load of the machine and its matrix rates, lowest to highest."""
    measured = [m for entry in report["rows"] for m in entry["repetitions"]]
    load = report["machine"]["load"]
    start = "unknown" if load is None else f"{load:.1f}"
    elsewhere = _range([m.get("other_load") for m in measured], 1.0, " % of the processors")
    rates = [rate for m in measured for rate in m.get("matrix_rates", ())]
    return [
        f"load average at the start: {start}; other processes used {elsewhere}",
        f"matrix products before and after the rows: {_range(rates, 1e-9, ' GFLOP/s')}",
    ]


def _range(values: Values, scale: float, unit: str) -> str:
    figure = summarise(values)
    if figure is None:
        return "unknown"
    return f"{scale * figure.low:,.0f} to {scale * figure.high:,.0f}{unit}"


def write(report: Report, folder: Path, layout: Layout) -> None:
    """Write `bench.json` with every repetition and `bench.md` with the tables."""
    # Strict JSON has no NaN, so a broken measurement is an error here and not for a reader.
    text = json.dumps(report, indent=1, allow_nan=False)
    write_bytes(folder / "bench.json", f"{text}\n".encode())
    write_bytes(folder / "bench.md", markdown(report, layout).encode())


def markdown(report: Report, layout: Layout) -> str:
    """Return conditions, main table, ratios and table of the other columns in Markdown."""
    main = {name: layout.columns[name] for name in layout.main}
    further = {name: column for name, column in layout.columns.items() if name not in main}
    lines = [f"- {line}" for line in layout.header(report)]
    lines += ["", *_markdown_table(report, main), ""]
    if report["ratios"]:
        lines += ["| ratio | |", "| --- | --- |"]
        lines += [f"| {ratio['title']} | {ratio['text']} |" for ratio in report["ratios"]]
        lines += ["", WITHHELD, ""]
    lines += ["Further figures of the same rows:", "", *_markdown_table(report, further)]
    return "\n".join(lines) + "\n"


def _markdown_table(report: Report, columns: Mapping[str, Column]) -> list[str]:
    rows = table(report, columns)
    # Columns without a figure, as those of rows that were not chosen, are left out.
    titles = [title for title in rows[0] if any(row[title] != "-" for row in rows)]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    return lines + [f"| {' | '.join(row[title] for title in titles)} |" for row in rows]


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
    if report["ratios"]:
        lines = [(ratio["title"], ratio["text"]) for ratio in report["ratios"]]
        terminal.line()
        terminal.table(layout.titles[1], ("ratio", ""), lines)
    terminal.line(f"bench     {folder}")
