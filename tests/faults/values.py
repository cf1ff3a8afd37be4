"""Wrong values: losses that diverge, NaN in images, and a clock that jumps."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults import folders
from tests.faults.processes import Outcome
from tests.faults.session import KINDS, Session, compare_with_reference, steps
from tests.faults.table import Record

GROUPS = re.compile(r"\b(encoder|decoder|projector|head)\b")

# Changes the clock of Python's standard library by up to a day, in one of three ways.
CLOCK = """
import random, time
_time, _time_ns, _now, _choice = time.time, time.time_ns, time.monotonic, random.Random({seed})
_often, _at, _off = {often}, _now() + _choice.uniform(0, {seconds}), 0.0

def _offset():
    global _off
    if _choice.random() < _often if _often else _off == 0 and _now() > _at:
        _off = _choice.uniform(-86400, 86400)
    return _off

time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + int(1e9 * _offset())
"""
CLOCKS = {"one jump": 0, "a jump in 50 readings": 0.02, "a jump at every reading": 1}

FINITE = """
import sys, jax, numpy as np
from orbax.checkpoint import v1 as ocp
leaves = jax.tree.leaves(ocp.load_checkpointables(sys.argv[1])["params"])
print(len(leaves), all(bool(np.isfinite(leaf).all()) for leaf in leaves))
"""

IMAGES = """
import sys, numpy as np
image = np.random.RandomState(0).uniform(0, 255, (60, 8, 8)).astype(np.float32)
image[17, 3, 3] = np.nan
np.savez(sys.argv[1], image=image, label=np.arange(60) % 3)
"""


def clock(session: Session, index: int, base: Path) -> Record:
    """Let the clock jump once, sometimes, or at every reading: the results must not change."""
    name = list(CLOCKS)[index % len(CLOCKS)]
    place = base / "clock"
    place.mkdir()
    seconds = session.duration("plain")
    code = CLOCK.format(seed=session.seed + index, often=CLOCKS[name], seconds=seconds)
    (place / "sitecustomize.py").write_text(code)
    env = session.env()
    env["PYTHONPATH"] = f"{place}:{env['PYTHONPATH']}"
    argv = steps(KINDS["plain"], base)[0].argv
    outcome = session.start(argv, base, env).finish(60)
    if outcome.status is None:
        failures = ["is stuck"]
    elif outcome.status != 0:
        failures = [f"ended with {outcome.status}"]
    else:
        failures = compare_with_reference(session, "plain", base)
    return Record([f"{name}: {reason}" for reason in failures], outcome.summary, {name: 1})


class Divergence(NamedTuple):
    """A learning rate that makes a stage diverge, alone or in one of two members."""

    stage: str
    rate: str
    swept: bool


# The rate that always diverges comes first; a quick session has only those cases.
DIVERGENCES = [
    Divergence(stage, rate, swept)
    for rate in ("1e30", "1e6")
    for swept in (False, True)
    for stage in folders.STAGES
]
CASES = len(DIVERGENCES) + 1
QUICK_CASES = 5


def nan(session: Session, index: int, base: Path) -> Record:
    """Train on an image with NaN, or let a stage diverge, alone or in one of two members."""
    if index % CASES == 0:
        return _nan_image(session, base)
    case = DIVERGENCES[index % CASES - 1]
    flag = f"{case.stage}.learning-rate"
    argv = steps(KINDS["plain"], base)[0].argv
    more = ["--sweep", f"{flag}=1e-3,{case.rate}"] if case.swept else [f"--{flag}", case.rate]
    outcome = session.command([*argv, *more], base)
    details = {**case._asdict(), **outcome.summary}
    folder = base / "run"
    if case.swept:
        return _one_of_two(outcome, folder, case, details)
    name = f"{case.stage} {case.rate}"
    if outcome.status == 0 and case.rate == "1e6":
        # A step of Adam is at most as long as the rate, so this rate need not suffice.
        return Record([], details, {f"{name} stays finite": 1})
    failures = _check_message(outcome, case.stage)
    failures += _check_finite(session, folder / case.stage, details)
    return Record([f"{name}: {reason}" for reason in failures], details, {f"{name} diverges": 1})


def _check_message(outcome: Outcome, stage: str) -> list[str]:
    """List the parts that the message about a divergence lacks."""
    if not outcome.is_one_line_error:
        return [f"status {outcome.status}, {len(outcome.error_lines)} lines on stderr"]
    line = outcome.error_lines[0]
    failures = []
    if stage not in line:
        failures.append(f"does not name stage {stage}")
    if not re.search(r"epoch \d", line):
        failures.append("does not name the epoch")
    # The name of the stage and the flag to change do not count as a parameter group.
    rest = re.sub(r"stage \w+|--[\w.-]+", "", line)
    if not GROUPS.search(rest):
        failures.append("does not name a parameter group")
    return failures


def _check_finite(session: Session, folder: Path, details: dict[str, Any]) -> list[str]:
    """Check that a stage has a checkpoint and that the newest one has finite parameters."""
    newest = folders.committed(folder.parent).get(folder.name)
    details["checkpoint"] = newest
    if newest is None:
        return [f"no checkpoint is left in {folder.name}"]
    command = [sys.executable, "-c", FINITE, str(folder / str(newest))]
    done = subprocess.run(command, capture_output=True, text=True, env=session.env())
    words = done.stdout.split()
    if done.returncode or words[-1:] != ["True"] or int(words[0]) == 0:
        return [f"checkpoint {folder.name}/{newest} is not finite: {done.stdout.strip()}"]
    return []


def _one_of_two(
    outcome: Outcome, folder: Path, case: Divergence, details: dict[str, Any]
) -> Record:
    name = f"{case.stage} {case.rate} in one of two members"
    if outcome.status != 0:
        return Record([f"{name}: ended with {outcome.status}"], details)
    result = json.loads((folder / folders.RESULT).read_text())
    diverged = result.get("ensemble", {}).get("diverged")
    accuracy = result["test"]["accuracy"]
    details["diverged"] = diverged
    details["test"] = accuracy
    if not diverged and case.rate == "1e6":
        return Record([], details, {f"{name} stays finite": 1})
    failures = [] if diverged else [f"{name}: no member is reported as diverged"]
    if not accuracy > 0.5:
        failures.append(f"{name}: the other member is affected")
    return Record(failures, details, {f"{name} diverges": 1})


def _nan_image(session: Session, base: Path) -> Record:
    path = base / "images.npz"
    subprocess.run([sys.executable, "-c", IMAGES, str(path)], check=True)
    outcome = session.command(["run", "--data", f"npz:{path}", "--out", str(base / "run")], base)
    failures = []
    if not outcome.is_one_line_error:
        failures.append(f"NaN in an image: status {outcome.status}")
    if (base / "run").exists():
        failures.append("NaN in an image: a folder was created")
    return Record(failures, outcome.summary, {"NaN in an image": 1})
