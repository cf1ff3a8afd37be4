"""What is wrong is a value: losses that explode, images that are no numbers, a clock that jumps."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from torture import folders
from torture.session import KINDS, Session, judge, steps
from torture.table import Record

GROUPS = re.compile(r"\b(encoder|decoder|projector|head)\b")

# The clock of Python's standard library: up to a day off, by how much changes now and then.
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
CLOCKS = {"one jump": 0, "a jump in 50 looks": 0.02, "a jump at every look": 1}

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
    """A clock that jumps changes nothing: once, now and then, and whenever it is looked at."""
    place, name = base / "clock", list(CLOCKS)[index % len(CLOCKS)]
    place.mkdir()
    seconds = session.duration("plain")
    code = CLOCK.format(seed=session.seed + index, often=CLOCKS[name], seconds=seconds)
    (place / "sitecustomize.py").write_text(code)
    env = session.env()
    env["PYTHONPATH"] = ":".join(filter(None, (str(place), env.get("PYTHONPATH"))))
    argv = steps(KINDS["plain"], base)[0].argv
    outcome = session.start(argv, base, env).finish(60)
    wrong = judge(session, "plain", base) if outcome.status == 0 else []
    if outcome.status != 0:
        wrong = ["hangs" if outcome.status is None else f"ended with {outcome.status}"]
    return Record([f"{name}: {reason}" for reason in wrong], outcome.seen, {name: 1})


class Divergence(NamedTuple):
    """A learning rate at which a training cannot stay finite, alone or for one of two members."""

    stage: str
    rate: str
    swept: bool


# What always diverges comes first, and is all that a quick session does.
DIVERGENCES = [
    Divergence(stage, rate, swept)
    for rate in ("1e30", "1e6")
    for swept in (False, True)
    for stage in folders.STAGES
]
CASES, QUICK_CASES = len(DIVERGENCES) + 1, 5


def nan(session: Session, index: int, base: Path) -> Record:
    """In turns: a NaN in an image; each stage alone and as one of two members, at two rates."""
    if index % CASES == 0:
        return _nan_image(session, base)
    case = DIVERGENCES[index % CASES - 1]
    flag, argv = f"{case.stage}.learning-rate", steps(KINDS["plain"], base)[0].argv
    more = ["--sweep", f"{flag}=1e-3,{case.rate}"] if case.swept else [f"--{flag}", case.rate]
    outcome = session.command([*argv, *more], base)
    seen = {**case._asdict(), **outcome.seen}
    folder = base / "run"
    if case.swept:
        return _one_of_two(outcome, folder, case, seen)
    name = f"{case.stage} {case.rate}"
    if outcome.status == 0 and case.rate == "1e6":
        # Adam's steps are bounded by the rate: that one need not be enough.
        return Record([], seen, {f"{name} stays finite": 1})
    wrong = _told(outcome, case.stage) + _finite(session, folder / case.stage, seen)
    return Record([f"{name}: {reason}" for reason in wrong], seen, {f"{name} diverges": 1})


def _told(outcome: Any, stage: str) -> list[str]:
    """What the message of a divergence lacks."""
    if not outcome.in_one_line:
        return [f"status {outcome.status}, {len(outcome.error_lines)} lines on stderr"]
    line, wrong = outcome.error_lines[0], []
    if stage not in line:
        wrong.append(f"does not name stage {stage}")
    if not re.search(r"epoch \d", line):
        wrong.append("does not name the epoch")
    # Neither the stage nor the flag to change is a group.
    rest = re.sub(r"stage \w+|--[\w.-]+", "", line)
    if not GROUPS.search(rest):
        wrong.append("does not name a parameter group")
    return wrong


def _finite(session: Session, folder: Path, seen: dict[str, Any]) -> list[str]:
    """Whether the newest checkpoint of a stage is there and has finite parameters."""
    newest = folders.committed(folder.parent).get(folder.name)
    seen["checkpoint"] = newest
    if newest is None:
        return [f"no checkpoint is left in {folder.name}"]
    command = [sys.executable, "-c", FINITE, str(folder / str(newest))]
    done = subprocess.run(command, capture_output=True, text=True, env=session.env())
    words = done.stdout.split()
    if done.returncode or words[-1:] != ["True"] or int(words[0]) == 0:
        return [f"checkpoint {folder.name}/{newest} is not finite: {done.stdout.strip()}"]
    return []


def _one_of_two(outcome: Any, folder: Path, case: Divergence, seen: dict[str, Any]) -> Record:
    name = f"{case.stage} {case.rate} as one of two"
    if outcome.status != 0:
        return Record([f"{name}: ended with {outcome.status}"], seen)
    record = json.loads((folder / folders.RESULT).read_text())
    diverged = seen["diverged"] = record.get("ensemble", {}).get("diverged")
    seen["test"] = record["test"]["accuracy"]
    if not diverged and case.rate == "1e6":
        return Record([], seen, {f"{name} stays finite": 1})
    wrong = [] if diverged else [f"{name}: no member is named as diverged"]
    if not record["test"]["accuracy"] > 0.5:
        wrong.append(f"{name}: the others were spoilt")
    return Record(wrong, seen, {f"{name} diverges": 1})


def _nan_image(session: Session, base: Path) -> Record:
    path = base / "images.npz"
    subprocess.run([sys.executable, "-c", IMAGES, str(path)], check=True)
    outcome = session.command(["run", "--data", f"npz:{path}", "--out", str(base / "run")], base)
    wrong = [] if outcome.in_one_line else [f"NaN in an image: status {outcome.status}"]
    if (base / "run").exists():
        wrong.append("NaN in an image: a folder was made")
    return Record(wrong, outcome.seen, {"NaN in an image": 1})
