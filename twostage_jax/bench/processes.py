"""Programs in fresh processes, measured from outside: ours and those in PyTorch."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from twostage_jax.bench.records import Measured, Rate, Tuning

PLATFORM = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}  # names used by jax and PyTorch


@dataclass(frozen=True)
class Plan:
    """The conditions that all rows of a benchmark share."""

    data: str  # SPEC that our programs read
    arrays: Path  # npz file with the same data, so that PyTorch does not need our readers
    pixels: int  # values in an image
    classes: int
    count: int  # training examples
    epochs: int  # of each stage
    device: str  # `cpu`, `gpu` or `tpu`
    scratch: Path
    threads: dict[str, int] = field(default_factory=dict)  # of each tuned PyTorch mode
    validation: int = 0  # examples that are set aside; PyTorch does not see them either


class Output(NamedTuple):
    """Standard output, duration and peak memory of a process that ended well."""

    text: str
    seconds: float  # from its start to its exit, imports included
    peak_bytes: int

    def record(self) -> Any:
        """Return the JSON value of the last line; libraries may print other lines before it."""
        return json.loads(self.text.strip().splitlines()[-1])


def run_process(
    arguments: Sequence[str], plan: Plan, environment: Mapping[str, str] | None = None
) -> Output:
    """Run Python with `arguments` to its end.

    Raises:
        RuntimeError: if the process failed, with the last line that it wrote.
    """
    variables = {
        **os.environ,
        "JAX_PLATFORMS": PLATFORM[plan.device],  # an error instead of a silent fall-back
        "PYTHONWARNINGS": "ignore",
        **(environment or {}),
    }
    command = [sys.executable, *arguments]
    # Files instead of pipes: a full pipe would make the process wait for us.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=variables)
        try:
            # wait4 reports the memory of this process alone.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            messages = _content(err).strip().splitlines() or ["no message"]
            raise RuntimeError(
                f"{' '.join(arguments)} ended with {process.returncode}: {messages[-1]}"
            )
        # ru_maxrss is in KiB on Linux and in bytes on macOS.
        unit = 1 if sys.platform == "darwin" else 1024
        return Output(_content(out), seconds, usage.ru_maxrss * unit)


def _content(stream: BinaryIO) -> str:
    stream.seek(0)
    return stream.read().decode()


def matrix_rate(plan: Plan) -> Rate:
    """Measure the rate of large matrix products on the plan's device."""
    return run_process(["-m", "twostage_jax.bench.roofline"], plan).record()


def run_torch(
    program: str,
    task: Mapping[str, object],
    plan: Plan,
    environment: Mapping[str, str] | None = None,
) -> Output:
    """Run a program of `bench.torch` on a task, which it reads from a file."""
    # In a file: as an argument, the whole task would stand in every error message.
    with tempfile.NamedTemporaryFile("w", dir=plan.scratch, suffix=".json") as file:
        json.dump(task, file)
        file.flush()
        module = f"twostage_jax.bench.torch.{program}"
        return run_process(["-m", module, file.name], plan, environment)


def measured_torch(output: Output) -> Measured:
    """Return the record that a PyTorch program printed, with its time and memory from outside."""
    measured: Measured = output.record()
    measured["cold"] = output.seconds
    measured["peak_bytes"] = output.peak_bytes
    return measured


def torch_task(plan: Plan, repetition: int) -> dict[str, object]:
    """Return the part of a task that all PyTorch programs share."""
    return {
        "device": "cuda" if plan.device == "gpu" else plan.device,
        "data": str(plan.arrays),
        "classes": plan.classes,
        "seed": repetition,
    }


def tune_threads(plan: Plan, task: Mapping[str, object], program: str) -> Tuning:
    """Find the number of threads with which a PyTorch program is fastest."""
    # PyTorch takes all cores by default; for these small layers fewer are often faster.
    cores = os.cpu_count() or 1
    candidates = sorted({1, 2, 4, cores // 2 or 1, cores} & set(range(1, cores + 1)))
    whole_task = {**torch_task(plan, 0), **task, "candidates": candidates}
    return run_torch(program, whole_task, plan).record()


def recipe_flags(plan: Plan, seed: int, values: Mapping[str, object]) -> list[str]:
    """Return the flags of the blog's recipe on the plan's data, and of `values`."""
    flags = {
        "data": plan.data,
        "preset": "blog",
        "validation": plan.validation,
        "seed": seed,
        **values,
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def run_twostage(flags: Sequence[str], folder: Path, name: str, plan: Plan) -> Measured:
    """Run `twostage run FLAGS --out FOLDER/NAME` in a fresh process and read its records.

    Runs in one folder share a compilation cache.
    """
    out = folder / name
    # A cache of its own, because the user's may hold the compiled programs already.
    cache = ("--compile-cache", str(folder / "cache"))
    arguments = ["-m", "twostage_jax", "run", *flags, "--out", str(out), *cache]
    output = run_process(arguments, plan)
    measured: Measured = {"cold": output.seconds, "peak_bytes": output.peak_bytes}
    lines = (out / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    measured["pretrain"] = [e["seconds"] for e in epochs if e["stage"] == "pretrain"]
    measured["head"] = [e["seconds"] for e in epochs if e["stage"] == "head"]
    result = json.loads((out / "result.json").read_text())
    measured["accuracy"] = mean_accuracy(result)
    phases = result["seconds"]
    measured["seconds"] = phases
    measured["compile"] = phases["compile"]
    measured["encode"] = phases["encode"]
    measured["stage_2"] = phases["encode"] + phases["head"]
    return measured


def mean_accuracy(result: Mapping[str, Any]) -> float:
    """Return the test accuracy of a run, or the mean over its members.

    The accuracy of an ensemble is not comparable with that of single trainings.
    """
    scores = result.get("member_test", result["test"])
    accuracy = scores["accuracy"]
    if not isinstance(accuracy, list):
        return accuracy
    return statistics.mean(value for value in accuracy if value is not None)
