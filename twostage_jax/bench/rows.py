"""Rows of a benchmark, the table of speed rows, and the choice among them."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from twostage_jax.bench.processes import (
    Plan,
    recipe_flags,
    run_torch,
    run_twostage,
    torch_task,
    tune_threads,
)
from twostage_jax.bench.records import Measured, Tuning
from twostage_jax.errors import UserError

Measure = Callable[[Plan, int], Measured]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: its name for `--rows`.
        title: its name in the table.
        measure: `(plan, repetition) -> Measured`; the repetition is the seed.
        quick: True if it belongs to the quick version.
        threads: key of its number of threads in `Plan.threads`; empty if it is not tuned.
        tune: finds that number.
        most: maximum number of repetitions unless `--repeats` is given.
    """

    name: str
    title: str
    measure: Measure
    quick: bool = True
    threads: str = ""
    tune: Callable[[Plan], Tuning] | None = None
    most: int | None = None

    @property
    def needs_torch(self) -> bool:
        """True if the row runs a PyTorch program."""
        return self.name.startswith("torch")


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
            environment = {"TORCHINDUCTOR_CACHE_DIR": cache}
            output = run_torch("pytorch", task, plan, environment)
            measured: Measured = output.record()
            measured["cold"] = output.seconds
            measured["peak_bytes"] = output.peak_bytes
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


ROWS = (
    Row("torch-s0", "PyTorch S0 as printed", torch_row("printed", "placeholder"), quick=False),
    Row("torch-s1", "PyTorch S1 as printed", torch_row("printed")),
    Row("torch-tensors", "PyTorch S1 tensors", torch_row("tensors")),
    tuned_row("torch-best-eager", "PyTorch S1 best, eager", "eager"),
    tuned_row("torch-best-compiled", "PyTorch S1 best, compiled", "compiled"),
    Row("ours", "ours S1", run_row()),
    Row("ours-pretrain", "ours S1, stage 1 alone", stage_row("pretrain"), quick=False),
    Row("ours-head", "ours S1, stage 2 alone", stage_row("head"), quick=False),
    Row(
        "ours-256",
        "ours S1, batch 256 in stage 1",
        run_row("--pretrain.batch-size", "256", warm=False),
    ),
    Row(
        "ours-loop",
        "ours S1, encoder in every step",
        run_row("--head.encode", "loop", warm=False),
        quick=False,
    ),
    Row(
        "ours-s0",
        "ours S0",
        run_row("--pretrain.objective", "placeholder", warm=False),
        quick=False,
    ),
)


def choose_rows(names: Sequence[str], quick: bool, rows: Sequence[Row]) -> list[Row]:
    """Return the rows called `names`; by default all rows, or those of the quick version.

    Raises:
        UserError: if there is no row of a name.
    """
    by_name = {row.name: row for row in rows}
    for name in names:
        if name not in by_name:
            raise UserError(f"unknown row {name!r}: choose from {', '.join(by_name)}")
    if names:
        return [by_name[name] for name in names]
    return [row for row in rows if row.quick or not quick]


def with_threads(plan: Plan, rows: Sequence[Row]) -> tuple[Plan, dict[str, Tuning]]:
    """Return `plan` with the tuned numbers of threads, and the timings of all that were tried."""
    if plan.device != "cpu":
        return plan, {}
    # Rows of the same mode share one tuning.
    tuners = {row.threads: row.tune for row in rows if row.tune}
    tunings = {mode: tune(plan) for mode, tune in tuners.items()}
    threads = {mode: tuning["threads"] for mode, tuning in tunings.items()}
    return dataclasses.replace(plan, threads=threads), tunings
