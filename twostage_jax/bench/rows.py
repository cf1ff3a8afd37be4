"""The rows of the benchmark: each is a program in a fresh process, measured from outside."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    return _last_line(run_process(["-m", "twostage_jax.bench.roofline"], setting)[0])


def _last_line(text: str) -> dict[str, Any]:
    return json.loads(text.strip().splitlines()[-1])


def pytorch(mode: str, objective: str = "autoencoder") -> Callable[[Setting, int], Measured]:
    """A row of the blog's program in PyTorch; see `bench.pytorch` for the modes."""

    def measure(setting: Setting, repetition: int) -> Measured:
        device = "cuda" if setting.device == "gpu" else setting.device
        job = {
            "mode": mode,
            "objective": objective,
            "device": device,
            "data": str(setting.arrays),
            "classes": setting.classes,
            "epochs": setting.epochs,
            "seed": repetition,
            "threads": setting.threads.get(mode),
        }
        with tempfile.TemporaryDirectory(dir=setting.scratch) as cache:
            fresh = {"TORCHINDUCTOR_CACHE_DIR": cache}
            text, seconds, peak = _run_job(job, setting, fresh)
            found = {**_last_line(text), "cold": seconds, "peak_bytes": peak}
            if mode == "compiled":
                again = _last_line(_run_job(job | {"epochs": 1}, setting, fresh)[0])
                found["compile_warm"] = again["compile"]
        return found

    return measure


def _run_job(job: dict[str, Any], setting: Setting, environment: dict[str, str]) -> Any:
    with tempfile.NamedTemporaryFile("w", dir=setting.scratch, suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        return run_process(["-m", "twostage_jax.bench.pytorch", file.name], setting, environment)


def tuned_threads(mode: str, setting: Setting) -> dict[str, Any]:
    """The number of threads with which PyTorch's stage 1 is fastest, and what each took."""
    cores = os.cpu_count() or 1
    candidates = sorted({1, 2, 4, cores // 2 or 1, cores} & set(range(1, cores + 1)))
    job = {"mode": mode, "data": str(setting.arrays), "candidates": candidates}
    return _last_line(_run_job(job, setting, {})[0])


def ours(*flags: str, warm: bool = True) -> Callable[[Setting, int], Measured]:
    """A row of `twostage run` with an empty compilation cache, then (`warm`) the same again."""

    def measure(setting: Setting, repetition: int) -> Measured:
        epochs = str(setting.epochs)
        arguments = [*_recipe(setting, repetition), "--head.epochs", epochs, *flags]
        with tempfile.TemporaryDirectory(dir=setting.scratch) as folder:
            found = _twostage("run", arguments, Path(folder), "cold", setting)
            if warm:
                again = _twostage("run", arguments, Path(folder), "warm", setting)
                found |= {"compile_warm": again["compile"], "warm_start": again["cold"]}
        return found

    return measure


def _recipe(setting: Setting, seed: int) -> list[str]:
    flags = {"data": setting.data, "preset": "blog", "validation": 0, "seed": seed}
    flags["pretrain.epochs"] = setting.epochs
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def stage_alone(stage: str) -> Callable[[Setting, int], Measured]:
    """A row of `twostage pretrain` or, on what that has left, of `twostage head`."""

    def measure(setting: Setting, repetition: int) -> Measured:
        with tempfile.TemporaryDirectory(dir=setting.scratch) as folder:
            here, recipe = Path(folder), _recipe(setting, repetition)
            first = _twostage("pretrain", recipe, here, "pretrain", setting)
            if stage == "pretrain":
                return first
            # A cache of its own, so that nothing is compiled already.
            head = ["--from", str(here / "pretrain"), "--head.epochs", str(setting.epochs)]
            head += ["--compile-cache", str(here / "cache-head")]
            return _twostage("head", head, here, "head", setting)

    return measure


def _twostage(
    command: str, flags: Sequence[str], folder: Path, name: str, setting: Setting
) -> Measured:
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
        found |= {"accuracy": record["test"]["accuracy"], "seconds": phases}
        found |= {"compile": phases["compile"], "encode": phases["encode"]}
        # Checkpoints and all.
        found["stage_2"] = phases["encode"] + phases["head"]
    return found


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: what `--rows` calls it.
        title: what the table calls it.
        measure: `(setting, repetition) -> what was measured`.
        quick: whether it is part of the quick version.
        batch_size: of stage 1.
    """

    name: str
    title: str
    measure: Callable[[Setting, int], Measured]
    quick: bool = True
    batch_size: int = 32

    @property
    def needs_torch(self) -> bool:
        """Whether PyTorch has to be installed."""
        return self.name.startswith("torch")


ROWS = (
    Row("torch-s0", "PyTorch S0 as printed", pytorch("printed", "placeholder"), quick=False),
    Row("torch-s1", "PyTorch S1 as printed", pytorch("printed")),
    Row("torch-tensors", "PyTorch S1 tensors", pytorch("tensors")),
    Row("torch-best-eager", "PyTorch S1 best, eager", pytorch("eager")),
    Row("torch-best-compiled", "PyTorch S1 best, compiled", pytorch("compiled")),
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


def chosen_rows(names: Sequence[str], quick: bool) -> list[Row]:
    """The rows called `names`, by default all, or those of the quick version.

    Raises:
        UserError: a name that is none.
    """
    known = {row.name: row for row in ROWS}
    for name in names:
        if name not in known:
            raise UserError(f"unknown row {name!r}: the rows are {', '.join(known)}")
    if names:
        return [known[name] for name in names]
    return [row for row in ROWS if row.quick or not quick]


def with_threads(setting: Setting, rows: Sequence[Row]) -> tuple[Setting, dict[str, Any]]:
    """`setting` with PyTorch's threads tuned for its best modes, and what each number took."""
    if setting.device != "cpu":
        return setting, {}
    modes = {"torch-best-eager": "eager", "torch-best-compiled": "compiled"}
    found = {
        modes[row.name]: tuned_threads(modes[row.name], setting)
        for row in rows
        if row.name in modes
    }
    threads = {mode: result["threads"] for mode, result in found.items()}
    return dataclasses.replace(setting, threads=threads), found
