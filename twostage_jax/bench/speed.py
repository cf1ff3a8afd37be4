"""The speed benchmark: one training of ours beside the blog's program in PyTorch."""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from twostage_jax.bench.harness import Benchmark, Measure, Row
from twostage_jax.bench.processes import (
    Plan,
    measured_torch,
    recipe_flags,
    run_torch,
    run_twostage,
    torch_task,
    tune_threads,
)
from twostage_jax.bench.records import Measured, Report
from twostage_jax.bench.report import (
    MACHINE_COLUMNS,
    Column,
    Comparison,
    Layout,
    conditions,
    stored,
    warm_epoch,
)

TASK = {"mode": "printed", "objective": "autoencoder", "batch": 32, "network": "mlp"}
CONV = "twostage_jax.bench.conv:ConvEncoder"
Task = Mapping[str, object]


def torch_row(name: str, title: str, quick: bool = False, most: int | None = None, **task: object):
    """Make a row of `bench.torch.pytorch`, the blog's program in PyTorch, with changes to `TASK`.

    The best modes get a tuned number of threads.
    """
    whole = {**TASK, **task}
    if whole["mode"] not in ("eager", "compiled"):
        return Row(name, title, _measure_torch(name, whole), quick, most=most)
    tune = partial(tune_threads, task=whole, program="pytorch")
    return Row(name, title, _measure_torch(name, whole), quick, name, tune, most)


def _measure_torch(name: str, task: Task) -> Measure:
    def measure(plan: Plan, repetition: int) -> Measured:
        whole = {**torch_task(plan, repetition), **task, "epochs": plan.epochs}
        whole["threads"] = plan.threads.get(name)
        with tempfile.TemporaryDirectory(dir=plan.scratch) as cache:
            # A cache of its own, because the user's may hold the compiled code already.
            environment = {"TORCHINDUCTOR_CACHE_DIR": cache}
            measured = measured_torch(run_torch("pytorch", whole, plan, environment))
            if task["mode"] == "compiled":
                # A second process finds the first one's compiled code in the cache.
                again = run_torch("pytorch", {**whole, "epochs": 1}, plan, environment)
                measured["compile_warm"] = again.record()["compile"]
        return measured

    return measure


def run_row(*flags: str, warm: bool = True) -> Measure:
    """Make the measurement of `twostage run` with an empty compilation cache.

    With `warm`, the same run is repeated with the cache that the first one filled.
    """

    def measure(plan: Plan, repetition: int) -> Measured:
        values = {"pretrain.epochs": plan.epochs, "head.epochs": plan.epochs}
        arguments = [*recipe_flags(plan, repetition, values), *flags]
        with tempfile.TemporaryDirectory(dir=plan.scratch) as folder:
            measured = run_twostage(arguments, Path(folder), "cold", plan)
            if warm:
                again = run_twostage(arguments, Path(folder), "warm", plan)
                measured["compile_warm"] = again.get("compile", 0.0)
                measured["warm_start"] = again.get("cold", 0.0)
        return measured

    return measure


LARGE_BATCH = run_row("--pretrain.batch-size", "256", warm=False)
CONV_RUN = run_row("--pretrain.encoder", CONV, warm=False)
LOOP = run_row("--head.encode", "loop", warm=False)
S0 = run_row("--pretrain.objective", "placeholder", warm=False)
# Rows that are compared stand near each other, so that they are measured close together.
ROWS = (
    torch_row("torch-s0", "PyTorch S0 as printed", most=1, objective="placeholder"),
    Row("ours-s0", "ours S0", S0, most=1),
    torch_row("torch-s1", "PyTorch S1 as printed", quick=True),
    torch_row("torch-workers", "PyTorch S1, DataLoader with workers", mode="workers"),
    torch_row("torch-best-eager", "PyTorch S1 best, eager", quick=True, mode="eager"),
    torch_row("torch-best-compiled", "PyTorch S1 best, compiled", mode="compiled"),
    Row("ours", "ours S1", run_row(), quick=True),
    Row("ours-loop", "ours S1, encoder in every step", LOOP),
    torch_row("torch-256-eager", "PyTorch S1 best, batch 256, eager", mode="eager", batch=256),
    torch_row("torch-256-compiled", "PyTorch batch 256, compiled", mode="compiled", batch=256),
    Row("ours-256", "ours S1, batch 256 in stage 1", LARGE_BATCH),
    torch_row("torch-conv-eager", "PyTorch convolutions, eager", mode="eager", network="conv"),
    torch_row(
        "torch-conv-compiled", "PyTorch convolutions, compiled", mode="compiled", network="conv"
    ),
    Row("ours-conv", "ours, convolutions", CONV_RUN),
)
# Stage 1 of S0 does nothing, so its speed has no meaning. Operations are counted for dense layers.
WITHOUT_SHARE = ("torch-s0", "ours-s0", "torch-conv-eager", "torch-conv-compiled", "ours-conv")


def stage_2_seconds(measured: Measured) -> float | None:
    """Return the seconds of stage 2 from the first encoded image to the last step.

    For our runs compilation is not included.
    """
    # Our runs also save checkpoints between the steps, so their epochs alone would flatter them.
    if "stage_2" in measured:
        return measured["stage_2"]
    head = measured.get("head")
    return measured.get("encode", 0.0) + sum(head) if head else None


COLUMNS = {
    "cold": Column("whole program, cold (s)", 1, stored("cold")),
    "pretrain": Column("stage-1 epoch (s)", 2, warm_epoch("pretrain")),
    "head": Column("stage-2 epoch (s)", 3, warm_epoch("head")),
    "stage_2": Column("stage 2 in all (s)", 2, stage_2_seconds),
    # Modes that do not compile report 0, which counts as not measured.
    "compile": Column("compile, cold (s)", 2, stored("compile")),
    "compile_warm": Column("compile, warm cache (s)", 2, stored("compile_warm")),
    "warm_start": Column("whole program, warm cache (s)", 1, stored("warm_start")),
    "peak": Column("peak memory (MB)", 0, stored("peak_bytes", 1e-6)),
    "accuracy": Column("test accuracy (%)", 2, stored("accuracy", 100)),
    "share": Column("share of matrix rate (%)", 0, stored("share")),
    **MACHINE_COLUMNS,
}
SHORT = {
    "cold": "whole",
    "pretrain": "epoch 1",
    "head": "epoch 2",
    "stage_2": "stage 2",
    "accuracy": "test %",
    "share": "rate %",
}
MAIN = ("cold", "warm_start", "pretrain", "stage_2", "accuracy")
# PyTorch's faster mode counts, in each repetition and for each column.
BEST = ("torch-best-eager", "torch-best-compiled")
BEST_256 = ("torch-256-eager", "torch-256-compiled")
BEST_CONV = ("torch-conv-eager", "torch-conv-compiled")
PRINTED = ("torch-s1",)
COMPARISONS = (
    Comparison("whole program, cold, S1 best / ours", BEST, "ours", "cold"),
    Comparison("stage 1, epoch, S1 best / ours", BEST, "ours", "pretrain"),
    Comparison("stage 2 in all, S1 best / ours (features once in both)", BEST, "ours", "stage_2"),
    Comparison("stage 1, epoch, batch 256, best / ours", BEST_256, "ours-256", "pretrain"),
    Comparison("stage 1, epoch, convolutions, best / ours", BEST_CONV, "ours-conv", "pretrain"),
    Comparison("whole program, cold, convolutions, best / ours", BEST_CONV, "ours-conv", "cold"),
    Comparison(
        "whole program, cold, DataLoader with workers / ours", ("torch-workers",), "ours", "cold"
    ),
    Comparison("whole program, cold, S1 as printed / ours", PRINTED, "ours", "cold"),
    Comparison("stage 1, epoch, S1 as printed / ours", PRINTED, "ours", "pretrain"),
    Comparison(
        "stage 2 in all, S1 as printed / ours (features once in ours alone)",
        PRINTED,
        "ours",
        "stage_2",
    ),
    Comparison(
        "stage 2 in all, ours, encoder in every step / features once",
        ("ours-loop",),
        "ours",
        "stage_2",
    ),
    Comparison(
        "compile time, warm cache / cold",
        ("ours",),
        "ours",
        "compile_warm",
        "compile",
        digits=0,
        scale=100,
        unit=" %",
    ),
)


def header(report: Report) -> list[str]:
    """Return lines with the conditions of the measurement and the work of an epoch."""
    work = report["operations"]["pretrain"] / 1e9
    epochs = report["epochs"]
    return [
        *conditions(report, f"{epochs}+{epochs} epochs"),
        f"matrix products in an epoch of stage 1, without convolutions: {work:,.1f} GFLOP",
    ]


def note(report: Report, row: Row, measured: Measured) -> Measured:
    """Return `share`, the percentage of the matrix rate, for rows whose operations are counted."""
    seconds = COLUMNS["pretrain"].value(measured)
    if row.name in WITHOUT_SHARE or not seconds:
        return {}
    operations = report["operations"]["pretrain"]
    return {"share": 100 * operations / seconds / measured.get("matrix_rate", 0.0)}


SPEED = Benchmark(
    name="bench",
    rows=lambda quick, epochs: ROWS,  # their epochs are those of the plan
    epochs=(5, 2),
    layout=Layout(
        COLUMNS, MAIN, SHORT, ("medians, in seconds", "ours against PyTorch"), COMPARISONS, header
    ),
    note=note,
    # PyTorch trains on all examples, so ours must not set any aside.
    validation=0,
)
