"""The parent process of a campaign: starts a child for each target and prints the table."""

import argparse
import collections
import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.child import GUIDED, NO_LIMIT

ROOT = Path(__file__).resolve().parents[2]
MOST_CRASHES = 50
PACKAGES = ("atheris", "numpy", "pillow", "array-record", "orbax-checkpoint", "jax")


@dataclass
class Row:
    """Result of one target."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    crashes: int = 0  # of processes
    findings: collections.Counter[str] = field(default_factory=collections.Counter)


def fuzz_target(name: str, args: argparse.Namespace, out: Path, run: Path) -> Row:
    """Feed all inputs to one target; after a crash, a new process continues."""
    row = Row(name)
    out.mkdir(parents=True, exist_ok=True)
    while row.inputs < args.inputs and row.seconds < (args.seconds or NO_LIMIT):
        with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as work:
            began = time.monotonic()
            status = _run_child(row, args, Path(work), out, run)
            row.seconds += time.monotonic() - began
            count, findings = _read_counts(Path(work))
            row.inputs += count
            row.findings.update(findings)
            if status in (0, 2) and count:
                break
            row.crashes += 1
            row.findings[f"crash with status {status}"] += 1
            with contextlib.suppress(OSError):
                last = (Path(work) / "last").read_bytes()
                (out / f"crash-{row.crashes}.input").write_bytes(last)
            if not count or row.crashes > MOST_CRASHES:
                break
    return row


def _run_child(row: Row, args: argparse.Namespace, work: Path, out: Path, run: Path) -> int:
    seconds = int(args.seconds - row.seconds) + 1 if args.seconds else 0
    options = {
        "name": row.target,
        "inputs": args.inputs - row.inputs,
        "seconds": seconds,
        # Another seed after a crash, or the same input would crash again.
        "seed": args.seed + row.crashes,
        "work": os.path.realpath(work),
        "out": out,
        "run": run,
    }
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "tests.fuzz", "--child", *flags]
    with (out / "log").open("ab") as log:
        done = subprocess.run(command, stdout=log, stderr=log, cwd=work, env=_environment(work))
    return done.returncode


def _environment(work: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": path, "TMPDIR": str(work), "HOME": str(work)}


def _read_counts(work: Path) -> tuple[int, dict[str, int]]:
    try:
        count, findings = json.loads((work / "count").read_text())
        return count, findings
    except (OSError, ValueError):
        return 0, {}


def table(rows: list[Row]) -> str:
    """Return the results in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in installed().items())
    lines = [
        f"{time.strftime('%Y-%m-%d')}, Python {sys.version.split()[0]}, {versions}.",
        "",
        "| target | inputs | seconds | inputs by | findings |",
        "|---|---:|---:|---|---|",
    ]
    for row in rows:
        listed = "; ".join(f"{title} ({n:,})" for title, n in row.findings.items()) or "none"
        guide = "coverage" if row.target in GUIDED else "mutation"
        lines.append(f"| {row.target} | {row.inputs:,} | {row.seconds:.0f} | {guide} | {listed} |")
    inputs = sum(row.inputs for row in rows)
    seconds = sum(row.seconds for row in rows)
    kinds = sum(len(row.findings) for row in rows)
    return "\n".join([*lines, f"| all | {inputs:,} | {seconds:.0f} | | {kinds} kinds |"])


def installed() -> dict[str, str]:
    """Return the versions of all `PACKAGES` that are installed."""
    versions = {}
    for name in PACKAGES:
        # Readers in C++ need no atheris.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
