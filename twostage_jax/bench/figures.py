"""From what was measured to the figures of the table: medians with their range, and ratios."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Repetitions = Mapping[str, Sequence[Mapping[str, Any]]]


class Figure(NamedTuple):
    """Median, minimum and maximum over the repetitions."""

    median: float
    low: float
    high: float

    def text(self, digits: int, unit: str = "") -> str:
        """`1.62 [1.58, 1.71] s`, or the median alone where there was one repetition."""
        if self.low == self.high:
            return f"{self.median:.{digits}f}{unit}"
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]{unit}"


def figure(values: Sequence[float | None]) -> Figure | None:
    """The `Figure` of those values that are there, None where none is."""
    found = [value for value in values if value is not None]
    return Figure(statistics.median(found), min(found), max(found)) if found else None


def epoch_seconds(measured: Mapping[str, Any], stage: str) -> float | None:
    """A warm epoch: the median of all but the first, or the first where there is no other."""
    seconds = measured.get(stage)
    return statistics.median(seconds[1:] or seconds) if seconds else None


def stage_2_seconds(measured: Mapping[str, Any]) -> float | None:
    """Stage 2 from the first encoded image to the last step, compilation apart for ours."""
    if "stage_2" in measured:
        return measured["stage_2"]
    return measured["encode"] + sum(measured["head"]) if measured.get("head") else None


def accuracy(measured: Mapping[str, Any]) -> float | None:
    """In percent."""
    return 100 * measured["accuracy"] if "accuracy" in measured else None


class Column(NamedTuple):
    """A column of the table: its title, decimals, and its value for what a row measured."""

    title: str
    digits: int
    value: Callable[[Mapping[str, Any]], float | None]


COLUMNS = {
    "cold": Column("whole program, cold (s)", 1, lambda m: m.get("cold")),
    "pretrain": Column("stage-1 epoch (s)", 2, lambda m: epoch_seconds(m, "pretrain")),
    "head": Column("stage-2 epoch (s)", 3, lambda m: epoch_seconds(m, "head")),
    "stage_2": Column("stage 2 in all (s)", 2, stage_2_seconds),
    "compile": Column("compile, cold (s)", 2, lambda m: m.get("compile") or None),
    "compile_warm": Column("compile, warm cache (s)", 2, lambda m: m.get("compile_warm")),
    "warm_start": Column("whole program, warm cache (s)", 1, lambda m: m.get("warm_start")),
    "peak": Column("peak memory (MB)", 0, lambda m: m["peak_bytes"] / 1e6),
    "accuracy": Column("test accuracy (%)", 2, accuracy),
    "share": Column("of matrix rate (%)", 0, lambda m: m.get("share")),
}


def share(measured: Mapping[str, Any], operations: int, rate: float) -> float | None:
    """The share (%) of the matrix-product rate that a stage-1 epoch reaches."""
    seconds = epoch_seconds(measured, "pretrain")
    return 100 * operations / seconds / rate if seconds else None


def table(
    report: Mapping[str, Any], columns: Mapping[str, Column] = COLUMNS
) -> list[dict[str, str]]:
    """A dict of texts per row of the table, in the order of the report."""
    rows = []
    for row in report["rows"]:
        repetitions = row["repetitions"]
        texts = {"row": row["title"]}
        for column in columns.values():
            found = figure([column.value(measured) for measured in repetitions])
            texts[column.title] = found.text(column.digits) if found else "-"
        rows.append(texts)
    return rows


def paired(
    numerator: Sequence[float | None] | None, denominator: Sequence[float | None] | None
) -> Figure | None:
    """Ratios, repetition by repetition, as rows are interleaved and machines drift."""
    pairs = zip(numerator or (), denominator or (), strict=False)
    return figure([a / b for a, b in pairs if a and b])


def ratios(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What ours wins against each baseline: `(what, "6.4 [6.1, 6.6] x")`."""
    values: dict[tuple[str, str], list[float | None]] = {}
    for row in report["rows"]:
        for name, column in COLUMNS.items():
            values[row["name"], name] = [column.value(m) for m in row["repetitions"]]
    best = {}
    for name in ("cold", "pretrain", "stage_2"):
        both = [
            values[row, name]
            for row in ("torch-best-eager", "torch-best-compiled")
            if (row, name) in values
        ]
        # Whichever of the two is faster, repetition by repetition.
        best[name] = [min(filter(None, each), default=None) for each in zip(*both, strict=False)]
    printed = {name: values.get(("torch-s1", name)) for name in best}
    mine = {name: values.get(("ours", name)) for name in COLUMNS}
    lines = [
        ("whole program, cold, S1 as printed / ours", paired(printed["cold"], mine["cold"])),
        ("whole program, cold, S1 best / ours", paired(best["cold"], mine["cold"])),
        (
            "stage 1, epoch, S1 as printed / ours",
            paired(printed["pretrain"], mine["pretrain"]),
        ),
        ("stage 1, epoch, S1 best / ours", paired(best["pretrain"], mine["pretrain"])),
        ("stage 2 in all, S1 as printed / ours", paired(printed["stage_2"], mine["stage_2"])),
        ("stage 2 in all, S1 best / ours", paired(best["stage_2"], mine["stage_2"])),
    ]
    texts = [(what, found.text(1, " x")) for what, found in lines if found]
    compiled = paired(mine["compile_warm"], mine["compile"])
    if compiled:
        percent = Figure(*(100 * value for value in compiled))
        texts.append(("compile time, warm cache / cold", percent.text(0, " %")))
    return texts
