"""The rows of the benchmark: each is a program in a fresh process, measured from outside."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from twostage_jax.errors import UserError

PLATFORM = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}  # as jax and torch call them
Measured = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all rows share.

    Attributes:
        data: the SPEC that ours reads.
        arrays: npz file with the same data, for PyTorch.
        pixels: values of an image.
        classes: number of classes.
        count: training examples.
        epochs: of each stage.
        device: `cpu`, `gpu` or `tpu`.
        scratch: folder for what is thrown away.
        threads: for each of PyTorch's best modes, the number of threads.
        validation: examples that ours holds out of train; PyTorch does not see them either.
    """

    data: str
    arrays: Path
    pixels: int
    classes: int
    count: int
    epochs: int
    device: str
    scratch: Path
    threads: dict[str, int] = field(default_factory=dict)
    validation: int = 0


def run_process(
    arguments: Sequence[str], setting: Setting, environment: dict[str, str] | None = None
) -> tuple[str, float, int]:
    """Run Python with `arguments` to its end: its output, seconds from start to exit, peak bytes.

    Raises:
        RuntimeError: with the last line it wrote, where it failed.
    """
    platform = PLATFORM[setting.device]
    variables = {**os.environ, "JAX_PLATFORMS": platform, "PYTHONWARNINGS": "ignore"}
    variables |= environment or {}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=out, stderr=err, env=variables
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    if process.returncode:
        last = (texts[1].strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}: {last}")
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return texts[0], seconds, usage.ru_maxrss * unit


def matrix_rate(setting: Setting) -> dict[str, Any]:
    """`rate` of large matrix products in operations per second, and the `device`."""
    return last_line(run_process(["-m", "twostage_jax.bench.roofline"], setting)[0])


def last_line(text: str) -> dict[str, Any]:
    """What a process of ours says: JSON in its last line, whatever libraries print before."""
    return json.loads(text.strip().splitlines()[-1])


def pytorch(mode: str, objective: str = "autoencoder") -> Callable[[Setting, int], Measured]:
    """A row of the blog's program in PyTorch; see `bench.pytorch` for the modes."""

    def measure(setting: Setting, repetition: int) -> Measured:
        job = {
            **torch_job(setting, repetition),
            "mode": mode,
            "objective": objective,
            "epochs": setting.epochs,
            "threads": setting.threads.get(mode),
        }
        with tempfile.TemporaryDirectory(dir=setting.scratch) as cache:
            fresh = {"TORCHINDUCTOR_CACHE_DIR": cache}
            text, seconds, peak = run_job(job, setting, environment=fresh)
            found = {**last_line(text), "cold": seconds, "peak_bytes": peak}
            if mode == "compiled":
                once = job | {"epochs": 1}
                again = last_line(run_job(once, setting, environment=fresh)[0])
                found["compile_warm"] = again["compile"]
        return found

    return measure


def torch_job(setting: Setting, repetition: int) -> dict[str, Any]:
    """What every program in PyTorch is told."""
    return {
        "device": "cuda" if setting.device == "gpu" else setting.device,
        "data": str(setting.arrays),
        "classes": setting.classes,
        "seed": repetition,
    }


def run_job(
    job: Mapping[str, Any],
    setting: Setting,
    program: str = "pytorch",
    environment: dict[str, str] | None = None,
) -> tuple[str, float, int]:
    """`run_process` of one of the programs in PyTorch beside this file, on a job."""
    with tempfile.NamedTemporaryFile("w", dir=setting.scratch, suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        return run_process(["-m", f"twostage_jax.bench.{program}", file.name], setting, environment)


def tuned_threads(
    setting: Setting, job: Mapping[str, Any], program: str = "pytorch"
) -> dict[str, Any]:
    """The number of threads with which a program in PyTorch is fastest, and what each took."""
    cores = os.cpu_count() or 1
    candidates = sorted({1, 2, 4, cores // 2 or 1, cores} & set(range(1, cores + 1)))
    task = {"data": str(setting.arrays), **job, "candidates": candidates}
    return last_line(run_job(task, setting, program)[0])


def ours(*flags: str, warm: bool = True) -> Callable[[Setting, int], Measured]:
    """A row of `twostage run` with an empty compilation cache, then (`warm`) the same again."""

    def measure(setting: Setting, repetition: int) -> Measured:
        epochs = str(setting.epochs)
        arguments = [*_recipe(setting, repetition), "--head.epochs", epochs, *flags]
        with tempfile.TemporaryDirectory(dir=setting.scratch) as folder:
            found = twostage("run", arguments, Path(folder), "cold", setting)
            if warm:
                again = twostage("run", arguments, Path(folder), "warm", setting)
                found |= {"compile_warm": again["compile"], "warm_start": again["cold"]}
        return found

    return measure


def _recipe(setting: Setting, seed: int) -> list[str]:
    return recipe(setting, seed, {"pretrain.epochs": setting.epochs})


def recipe(setting: Setting, seed: int, values: Mapping[str, Any]) -> list[str]:
    """Flags of the blog's recipe on the data of `setting`, and of `values`."""
    flags = {"data": setting.data, "preset": "blog", "validation": setting.validation}
    flags |= {"seed": seed, **values}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def stage_alone(stage: str) -> Callable[[Setting, int], Measured]:
    """A row of `twostage pretrain` or, on what that has left, of `twostage head`."""

    def measure(setting: Setting, repetition: int) -> Measured:
        with tempfile.TemporaryDirectory(dir=setting.scratch) as folder:
            here, flags = Path(folder), _recipe(setting, repetition)
            first = twostage("pretrain", flags, here, "pretrain", setting)
            if stage == "pretrain":
                return first
            # A cache of its own, so that nothing is compiled already.
            head = ["--from", str(here / "pretrain"), "--head.epochs", str(setting.epochs)]
            head += ["--compile-cache", str(here / "cache-head")]
            return twostage("head", head, here, "head", setting)

    return measure


def twostage(
    command: str, flags: Sequence[str], folder: Path, name: str, setting: Setting
) -> Measured:
    """`twostage COMMAND FLAGS --out FOLDER/NAME` in a fresh process, and what its run says."""
    out, arguments = folder / name, ["-m", "twostage_jax", command, *flags]
    if "--compile-cache" not in flags:
        arguments += ["--compile-cache", str(folder / "cache")]
    _, seconds, peak = run_process([*arguments, "--out", str(out)], setting)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found: Measured = {"cold": seconds, "peak_bytes": peak}
    for stage in ("pretrain", "head"):
        found[stage] = [line["seconds"] for line in lines if line["stage"] == stage]
    if (out / "result.json").is_file():
        record = json.loads((out / "result.json").read_text())
        phases = record["seconds"]
        found |= {"accuracy": _accuracy(record), "seconds": phases}
        found |= {"compile": phases["compile"], "encode": phases["encode"]}
        # Checkpoints and all.
        found["stage_2"] = phases["encode"] + phases["head"]
    return found


def _accuracy(record: Mapping[str, Any]) -> float:
    """Of one run, or the mean of its members: what an ensemble gains on them is another matter."""
    each = record.get("member_test", record["test"])["accuracy"]
    found = [one for one in each if one is not None] if isinstance(each, list) else [each]
    return statistics.mean(found)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: what `--rows` calls it.
        title: what the table calls it.
        measure: `(setting, repetition) -> what was measured`.
        quick: whether it is part of the quick version.
        batch_size: of stage 1.
        threads: what `Setting.threads` calls its number of threads, where that is tuned.
        tune: how it is.
        most: repetitions, where `--repeats` does not say.
    """

    name: str
    title: str
    measure: Callable[[Setting, int], Measured]
    quick: bool = True
    batch_size: int = 32
    threads: str = ""
    tune: Callable[[Setting], dict[str, Any]] | None = None
    most: int | None = None

    @property
    def needs_torch(self) -> bool:
        """Whether PyTorch has to be installed."""
        return self.name.startswith("torch")


def best(name: str, title: str, mode: str) -> Row:
    """A row of one of PyTorch's best modes, with threads tuned."""
    tune = partial(tuned_threads, job={"mode": mode})
    return Row(name, title, pytorch(mode), threads=mode, tune=tune)


ROWS = (
    Row("torch-s0", "PyTorch S0 as printed", pytorch("printed", "placeholder"), quick=False),
    Row("torch-s1", "PyTorch S1 as printed", pytorch("printed")),
    Row("torch-tensors", "PyTorch S1 tensors", pytorch("tensors")),
    best("torch-best-eager", "PyTorch S1 best, eager", "eager"),
    best("torch-best-compiled", "PyTorch S1 best, compiled", "compiled"),
    Row("ours", "ours S1", ours()),
    Row("ours-pretrain", "ours S1, stage 1 alone", stage_alone("pretrain"), quick=False),
    Row("ours-head", "ours S1, stage 2 alone", stage_alone("head"), quick=False),
    Row(
        "ours-256",
        "ours S1, batch 256 in stage 1",
        ours("--pretrain.batch-size", "256", warm=False),
        batch_size=256,
    ),
    Row(
        "ours-loop",
        "ours S1, encoder in every step",
        ours("--head.encode", "loop", warm=False),
        quick=False,
    ),
    Row(
        "ours-s0",
        "ours S0",
        ours("--pretrain.objective", "placeholder", warm=False),
        quick=False,
    ),
)


def chosen_rows(names: Sequence[str], quick: bool, rows: Sequence[Row] = ROWS) -> list[Row]:
    """Those of `rows` called `names`, by default all, or those of the quick version.

    Raises:
        UserError: a name that is none.
    """
    known = {row.name: row for row in rows}
    for name in names:
        if name not in known:
            raise UserError(f"unknown row {name!r}: the rows are {', '.join(known)}")
    if names:
        return [known[name] for name in names]
    return [row for row in rows if row.quick or not quick]


def with_threads(setting: Setting, rows: Sequence[Row]) -> tuple[Setting, dict[str, Any]]:
    """`setting` with PyTorch's threads tuned for its best modes, and what each number took."""
    if setting.device != "cpu":
        return setting, {}
    tuned = {row.threads: row.tune for row in rows if row.tune}
    found = {name: tune(setting) for name, tune in tuned.items()}
    threads = {mode: result["threads"] for mode, result in found.items()}
    return dataclasses.replace(setting, threads=threads), found
