"""Figures of a benchmark's tables: medians with their range, columns and paired ratios."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from twostage_jax.bench.records import Measured, Report

Values = Sequence[float | None]


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
    """A column of a table.

    Attributes:
        title: heading.
        digits: decimals.
        value: its value for one measurement of a row, None if the row has none.
    """

    title: str
    digits: int
    value: Callable[[Measured], float | None]


def summarise(values: Values) -> Figure | None:
    """Return the `Figure` of the values that are not None, or None if there is no such value."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    return Figure(statistics.median(present), min(present), max(present))


def warm_epoch(seconds: Sequence[float] | None) -> float | None:
    """Return the median of all epochs but the first, or the first if it is the only one."""
    if not seconds:
        return None
    # The first epoch fills caches and is slower than the others.
    return statistics.median(seconds[1:] or seconds)


def pretrain_epoch(measured: Measured) -> float | None:
    """Return the seconds of a warm epoch of stage 1."""
    return warm_epoch(measured.get("pretrain"))


def head_epoch(measured: Measured) -> float | None:
    """Return the seconds of a warm epoch of stage 2."""
    return warm_epoch(measured.get("head"))


def cold(measured: Measured) -> float | None:
    """Return the seconds of the whole program in a fresh process."""
    return measured.get("cold")


def peak_megabytes(measured: Measured) -> float | None:
    """Return the peak memory in MB."""
    peak = measured.get("peak_bytes")
    return None if peak is None else peak / 1e6


def accuracy_percent(measured: Measured) -> float | None:
    """Return the test accuracy in percent."""
    accuracy = measured.get("accuracy")
    return None if accuracy is None else 100 * accuracy


def table(report: Report, columns: Mapping[str, Column]) -> list[dict[str, str]]:
    """Return a dict of texts by column title for each row, in the order of the report."""
    rows = []
    for entry in report["rows"]:
        texts = {"row": entry["title"]}
        for column in columns.values():
            values = [column.value(measured) for measured in entry["repetitions"]]
            figure = summarise(values)
            texts[column.title] = figure.text(column.digits) if figure else "-"
        rows.append(texts)
    return rows


def column_values(report: Report, row: str, column: Column) -> Values | None:
    """Return the values of a column in all repetitions of a row, None if there is no such row."""
    for entry in report["rows"]:
        if entry["name"] == row:
            return [column.value(measured) for measured in entry["repetitions"]]
    return None


def paired_ratio(numerator: Values | None, denominator: Values | None) -> Figure | None:
    """Return the `Figure` of the ratios, computed repetition by repetition.

    The rows of one repetition are measured close together, so a ratio within a repetition is free
    of the slow changes in a machine's speed.
    """
    pairs = zip(numerator or (), denominator or (), strict=False)
    return summarise([a / b for a, b in pairs if a and b])
