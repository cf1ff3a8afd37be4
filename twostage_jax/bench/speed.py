"""The speed benchmark: one training of ours beside the blog's program in PyTorch."""

from collections.abc import Sequence

from twostage_jax.bench.figures import (
    Column,
    Figure,
    Values,
    accuracy_percent,
    cold,
    column_values,
    head_epoch,
    paired_ratio,
    peak_megabytes,
    pretrain_epoch,
)
from twostage_jax.bench.harness import Benchmark
from twostage_jax.bench.records import Measured, Report
from twostage_jax.bench.report import Layout, Ratios, conditions
from twostage_jax.bench.rows import ROWS, Row

EPOCHS = 5
QUICK_EPOCHS = 2
# Stage 1 of S0 does nothing, so its speed has no meaning.
WITHOUT_STAGE_1 = ("torch-s0", "ours-s0")
BEST_TORCH = ("torch-best-eager", "torch-best-compiled")


def stage_2_seconds(measured: Measured) -> float | None:
    """Return the seconds of stage 2 from the first encoded image to the last step.

    For our runs compilation is not included.
    """
    if "stage_2" in measured:
        return measured["stage_2"]
    head = measured.get("head")
    return measured.get("encode", 0.0) + sum(head) if head else None


def share_percent(measured: Measured, operations: int, rate: float) -> float | None:
    """Return the percentage of the matrix-product rate that a stage-1 epoch reaches."""
    seconds = pretrain_epoch(measured)
    return 100 * operations / seconds / rate if seconds else None


def _cold_compile(measured: Measured) -> float | None:
    return measured.get("compile") or None  # modes that do not compile report 0


COLUMNS = {
    "cold": Column("whole program, cold (s)", 1, cold),
    "pretrain": Column("stage-1 epoch (s)", 2, pretrain_epoch),
    "head": Column("stage-2 epoch (s)", 3, head_epoch),
    "stage_2": Column("stage 2 in all (s)", 2, stage_2_seconds),
    "compile": Column("compile, cold (s)", 2, _cold_compile),
    "compile_warm": Column("compile, warm cache (s)", 2, lambda m: m.get("compile_warm")),
    "warm_start": Column("whole program, warm cache (s)", 1, lambda m: m.get("warm_start")),
    "peak": Column("peak memory (MB)", 0, peak_megabytes),
    "accuracy": Column("test accuracy (%)", 2, accuracy_percent),
    "share": Column("share of matrix rate (%)", 0, lambda m: m.get("share")),
}
SHORT = {
    "cold": "whole",
    "pretrain": "epoch 1",
    "head": "epoch 2",
    "stage_2": "stage 2",
    "accuracy": "test %",
    "share": "rate %",
}
COMPARED = {
    "cold": "whole program, cold",
    "pretrain": "stage 1, epoch",
    "stage_2": "stage 2 in all",
}


def ratios(report: Report) -> Ratios:
    """Return the speed-up of ours over each PyTorch baseline: `(title, "6.4 [6.1, 6.6] x")`."""
    texts = []
    for name, title in COMPARED.items():
        column = COLUMNS[name]
        ours = column_values(report, "ours", column)
        printed = paired_ratio(column_values(report, "torch-s1", column), ours)
        best = paired_ratio(_fastest(report, column), ours)
        if printed:
            texts.append((f"{title}, S1 as printed / ours", printed.text(1, " x")))
        if best:
            texts.append((f"{title}, S1 best / ours", best.text(1, " x")))
    warm = column_values(report, "ours", COLUMNS["compile_warm"])
    compiled = paired_ratio(warm, column_values(report, "ours", COLUMNS["compile"]))
    if compiled:
        percent = Figure(*(100 * value for value in compiled))
        texts.append(("compile time, warm cache / cold", percent.text(0, " %")))
    return texts


def _fastest(report: Report, column: Column) -> Values:
    """Return the faster of PyTorch's best modes in each repetition."""
    values = [column_values(report, row, column) for row in BEST_TORCH]
    present = [row for row in values if row is not None]
    return [min(filter(None, pair), default=None) for pair in zip(*present, strict=False)]


def header(report: Report) -> list[str]:
    """Return lines with the conditions of the measurement and the machine's matrix rate."""
    rates = [m.get("matrix_rate", 0.0) / 1e9 for e in report["rows"] for m in e["repetitions"]]
    work = report["operations"]["pretrain"] / 1e9
    epochs = report["epochs"]
    return [
        *conditions(report, f"{epochs}+{epochs} epochs"),
        f"large matrix products: {min(rates):,.0f} to {max(rates):,.0f} GFLOP/s; an epoch of stage "
        f"1 is {work:,.1f} GFLOP",
    ]


def note(report: Report, row: Row, measured: Measured) -> Measured:
    """Return `share`, the percentage of the matrix rate, for rows whose stage 1 trains."""
    if row.name in WITHOUT_STAGE_1:
        return {}
    operations = report["operations"]["pretrain"]
    share = share_percent(measured, operations, measured.get("matrix_rate", 0.0))
    return {} if share is None else {"share": share}


def _rows(quick: bool, epochs: int | None) -> Sequence[Row]:
    return ROWS


def _epochs(quick: bool) -> int:
    return QUICK_EPOCHS if quick else EPOCHS


SPEED = Benchmark(
    name="bench",
    rows=_rows,
    epochs=_epochs,
    layout=Layout(COLUMNS, SHORT, ("medians, in seconds", "ours against PyTorch"), ratios, header),
    note=note,
    validation=0,
)
