"""Readers of a run's folder as functions of bytes; see `targets`."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.targets import Target
from twostage_jax.config.groups import HeadConfig, PretrainConfig
from twostage_jax.config.schema import Config
from twostage_jax.runs.evaluate import evaluate
from twostage_jax.runs.open import open_run
from twostage_jax.runs.run import run
from twostage_jax.show.terminal import Terminal
from twostage_jax.store import checksums
from twostage_jax.store.layout import CONFIG, MANIFEST, METRICS, RESULT
from twostage_jax.store.records import json_bytes, read_manifest, seal
from twostage_jax.trees import digest


def make_run(out: Path) -> Path:
    """Train the smallest run and return its folder."""
    config = Config(
        out=out,
        pretrain=PretrainConfig(epochs=1, widths=(4,), batch_size=512),
        head=HeadConfig(epochs=1, widths=(4,), batch_size=512),
    )
    return run(config, terminal=Terminal(quiet=True)).folder


def manifest_target(work: Path, run: Path) -> Target:
    """The first byte selects a JSON file of a run, and if a stranger has sealed it.

    A run that can still be opened is evaluated on its validation split.
    """
    names = (MANIFEST, RESULT, CONFIG)
    shutil.copytree(run, work / "run")
    valid = {path: path.read_bytes() for path in (work / "run").iterdir() if path.is_file()}
    seeds = [bytes([n]) + valid[work / "run" / names[n % 3]] for n in range(2 * len(names))]

    def feed(data: bytes) -> None:
        first = data[0] if data else 0
        name = names[first % len(names)]
        (work / "run" / name).write_bytes(data[1:])
        try:
            if first // len(names) % 2:
                _forge(work / "run", name, data[1:])
            read_manifest(work / "run")
            opened = open_run(work / "run")
            evaluate(opened, Terminal(quiet=True), split="validation")
            assert str(opened)  # printing must work for every run that could be opened
        finally:
            for path, content in valid.items():
                path.write_bytes(content)

    return Target(seeds, feed)


def _forge(run: Path, name: str, data: bytes) -> None:
    """Seal a file and compute its checksum, as a stranger can."""
    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(data)
        if isinstance(values, dict):
            content = seal(values) if name == MANIFEST else values
            checksums.write_files(run, {name: json_bytes(content)})


def metrics_target(work: Path, run: Path) -> Target:
    """A `metrics.jsonl`: every change of it is detected."""
    shutil.copytree(run, work / "run")
    path = work / "run" / METRICS
    valid = path.read_bytes()

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        try:
            checksums.check(work / "run")
            assert data == valid
        finally:
            path.write_bytes(valid)

    return Target([valid], feed)


def run_target(work: Path, run: Path) -> Target:
    """The first byte selects any file of a run's folder, checkpoints included."""
    files = [path for path in run.rglob("*") if path.is_file() and path.stat().st_size]
    # Orbax names array files by random numbers, so they are sorted by size.
    files = sorted(files, key=lambda path: (str(path.parent), path.stat().st_size))[:256]
    seeds = [bytes([index]) + path.read_bytes() for index, path in enumerate(files)]
    expected = digest(open_run(run).params)

    def feed(data: bytes) -> None:
        copy = work / "run"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        selected = (data[0] if data else 0) % len(files)
        (copy / files[selected].relative_to(run)).write_bytes(data[1:])
        assert digest(open_run(copy).params) == expected

    return Target(seeds, feed)


RUN_TARGETS: dict[str, Callable[[Path, Path], Target]] = {
    "manifest": manifest_target,
    "metrics": metrics_target,
    "run": run_target,
}
