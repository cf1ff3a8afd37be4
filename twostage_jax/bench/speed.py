"""The speed benchmark: one training of ours beside the blog's program in PyTorch."""

import tempfile
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
    Column,
    Figure,
    Layout,
    Ratios,
    Values,
    column_values,
    conditions,
    paired_ratio,
    stored,
    warm_epoch,
)

# Stage 1 of S0 does nothing, so its speed has no meaning.
WITHOUT_STAGE_1 = ("torch-s0", "ours-s0")
BEST_TORCH = ("torch-best-eager", "torch-best-compiled")


def torch_row(mode: str, objective: str = "autoencoder") -> Measure:
    """Make the measurement of `bench.torch.pytorch`, the blog's program in PyTorch, in a mode."""

    def measure(plan: Plan, repetition: int) -> Measured:
        task = {
            **torch_task(plan, repetition),
            "mode": mode,
            "objective": objective,
            "epochs": plan.epochs,
            "threads": plan.threads.get(mode),
        }
        with tempfile.TemporaryDirectory(dir=plan.scratch) as cache:
            # A cache of its own, because the user's may hold the compiled code already.
            environment = {"TORCHINDUCTOR_CACHE_DIR": cache}
            measured = measured_torch(run_torch("pytorch", task, plan, environment))
            if mode == "compiled":
                # A second process finds the first one's compiled code in the cache.
                again = run_torch("pytorch", {**task, "epochs": 1}, plan, environment)
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
            measured = run_twostage("run", arguments, Path(folder), "cold", plan)
            if warm:
                again = run_twostage("run", arguments, Path(folder), "warm", plan)
                measured["compile_warm"] = again.get("compile", 0.0)
                measured["warm_start"] = again.get("cold", 0.0)
        return measured

    return measure


def stage_row(stage: str) -> Measure:
    """Make the measurement of `twostage pretrain` or, on its result, of `twostage head`."""

    def measure(plan: Plan, repetition: int) -> Measured:
        with tempfile.TemporaryDirectory(dir=plan.scratch) as name:
            folder = Path(name)
            flags = recipe_flags(plan, repetition, {"pretrain.epochs": plan.epochs})
            first = run_twostage("pretrain", flags, folder, "pretrain", plan)
            if stage == "pretrain":
                return first
            head = ["--from", str(folder / "pretrain"), "--head.epochs", str(plan.epochs)]
            # An empty cache, so that no program is compiled already.
            head += ["--compile-cache", str(folder / "cache-head")]
            return run_twostage("head", head, folder, "head", plan)

    return measure


def tuned_row(name: str, title: str, mode: str) -> Row:
    """Make a row of one of PyTorch's best modes, with a tuned number of threads."""
    tune = partial(tune_threads, task={"mode": mode}, program="pytorch")
    return Row(name, title, torch_row(mode), threads=mode, tune=tune)


LARGE_BATCH = run_row("--pretrain.batch-size", "256", warm=False)
LOOP = run_row("--head.encode", "loop", warm=False)
S0 = run_row("--pretrain.objective", "placeholder", warm=False)
ROWS = (
    Row("torch-s0", "PyTorch S0 as printed", torch_row("printed", "placeholder"), quick=False),
    Row("torch-s1", "PyTorch S1 as printed", torch_row("printed")),
    Row("torch-tensors", "PyTorch S1 tensors", torch_row("tensors")),
    tuned_row("torch-best-eager", "PyTorch S1 best, eager", "eager"),
    tuned_row("torch-best-compiled", "PyTorch S1 best, compiled", "compiled"),
    Row("ours", "ours S1", run_row()),
    Row("ours-pretrain", "ours S1, stage 1 alone", stage_row("pretrain"), quick=False),
    Row("ours-head", "ours S1, stage 2 alone", stage_row("head"), quick=False),
    Row("ours-256", "ours S1, batch 256 in stage 1", LARGE_BATCH),
    Row("ours-loop", "ours S1, encoder in every step", LOOP, quick=False),
    Row("ours-s0", "ours S0", S0, quick=False),
)


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
    rows = [column_values(report, name, column) for name in BEST_TORCH]
    # A mode without a measurement leaves the other one.
    pairs = zip(*filter(None, rows), strict=False)
    return [min(filter(None, pair), default=None) for pair in pairs]


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
    seconds = COLUMNS["pretrain"].value(measured)
    if row.name in WITHOUT_STAGE_1 or not seconds:
        return {}
    operations = report["operations"]["pretrain"]
    return {"share": 100 * operations / seconds / measured.get("matrix_rate", 0.0)}


SPEED = Benchmark(
    name="bench",
    rows=lambda quick, epochs: ROWS,  # their epochs are those of the plan
    epochs=(5, 2),
    layout=Layout(COLUMNS, SHORT, ("medians, in seconds", "ours against PyTorch"), ratios, header),
    note=note,
    # PyTorch trains on all examples, so ours must not set any aside.
    validation=0,
)
