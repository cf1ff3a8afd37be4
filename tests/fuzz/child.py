"""One target in its own process: inputs guided by coverage, or by mutation alone."""

import argparse
import atexit
import importlib
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fuzz.watch import Watch

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

NAMES = ("idx", "gzip", "npz", "tfds", "config", "command", "manifest", "metrics", "run")
NEED_RUN = ("manifest", "metrics", "run")
# C++ code reads the inputs of the other targets, so the coverage of Python code is no guide.
GUIDED = {"idx", "gzip", "npz", "config", "command", "manifest", "metrics"}
LONGEST_INPUT = 8192
NO_LIMIT = 10**9


def mutate(source: random.Random, seeds: list[bytes]) -> bytes:
    """Change a seed in one to four places; its first byte, a selector, is mostly kept."""
    data = bytearray(source.choice(seeds))
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(data)) if data else 0
        size = min(source.choice((1, 2, 4, 8, 64)), len(data) - at)
        match source.randrange(7):
            case 0 if data:
                data[at] ^= 1 << source.randrange(8)
            case 1:
                data[at : at + size] = source.choice((b"\0", b"\xff", b"\x7f", b"9")) * size
            case 2:
                del data[max(at, 1) : at + size]
            case 3:
                data[at:at] = data[at : at + size] * source.choice((1, 2, 50))
            case 4 if source.random() < 0.3:
                del data[max(at, 1) :]
            case 5:
                data[at : at + size] = source.randbytes(size)
            case _:
                other = source.choice(seeds)
                start = source.randrange(len(other))
                data[at : at + size] = other[start : start + size]
    return bytes(data)


def make_target(name: str, work: Path, run: Path | None) -> "Target":
    """Make the target of a name in a folder; some targets need a finished run."""
    # Imported here because coverage is instrumented at import.
    from tests.fuzz.targets import TARGETS

    if name in NEED_RUN:
        from tests.fuzz.run_targets import RUN_TARGETS

        assert run
        return RUN_TARGETS[name](work, run)
    return TARGETS[name](work)


def run_child(args: argparse.Namespace) -> None:
    """Feed one target until its inputs or its seconds are used up."""
    if args.name in GUIDED:
        atheris: Any = importlib.import_module("atheris")
        with atheris.instrument_imports(include=["twostage_jax", "tests.fuzz", "zipfile"]):
            importlib.import_module("twostage_jax.data.npz")
            importlib.import_module("twostage_jax.data.tfds.prepared")
    work = Path(args.work)
    (work / "read").mkdir(exist_ok=True)
    target = make_target(args.name, work / "read", Path(args.run))
    watch = Watch(target.feed, work, Path(args.out))
    for seed in target.seeds:
        watch(seed)
    if args.name in GUIDED:
        _follow_coverage(args, watch, target.seeds)
    else:
        _mutate_seeds(args, watch, target.seeds)


def _follow_coverage(args: argparse.Namespace, watch: Watch, seeds: list[bytes]) -> None:
    atheris: Any = importlib.import_module("atheris")
    corpus = Path(args.work) / "corpus"
    corpus.mkdir(exist_ok=True)
    for index, seed in enumerate(seeds):
        (corpus / f"seed-{index}").write_bytes(seed)
    options = {
        "runs": max(1, args.inputs - watch.count),
        "max_total_time": args.seconds,
        "max_len": LONGEST_INPUT,
        "artifact_prefix": f"{args.out}/",
        "timeout": 60,
        "rss_limit_mb": 0,
        "verbosity": 0,
        "seed": args.seed,
    }
    # libFuzzer ends the process itself.
    atexit.register(watch.save)
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([args.name, *flags, str(corpus)], watch)
    atheris.Fuzz()


def _mutate_seeds(args: argparse.Namespace, watch: Watch, seeds: list[bytes]) -> None:
    source = random.Random(args.seed)
    end = time.monotonic() + (args.seconds or NO_LIMIT)
    for _ in range(max(1, args.inputs - watch.count)):
        if time.monotonic() >= end:
            break
        watch(mutate(source, seeds))
    watch.save()
