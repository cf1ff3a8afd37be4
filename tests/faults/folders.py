"""The content of a run's folder, read without the package."""

import hashlib
import json
from pathlib import Path
from typing import Any

STAGES = ("pretrain", "head")
CONFIG = "config.json"
METRICS = "metrics.jsonl"
MANIFEST = "manifest.json"
RESULT = "result.json"
COMMITTED = "commit_success.txt"  # Orbax writes it last


def canonical(value: Any) -> str:
    """Convert a value to JSON that does not depend on the order of keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def records(folder: Path) -> list[dict[str, Any]]:
    """Read the complete lines of `metrics.jsonl`; a last line without its end does not count."""
    path = folder / METRICS
    *lines, _ = path.read_text().split("\n") if path.is_file() else [""]
    return [json.loads(line) for line in lines]


def contents(folder: Path) -> dict[str, Any]:
    """Read what every run of a config must have in common: all but times and the machine."""
    result = _read_json(folder / RESULT)
    manifest = _read_json(folder / MANIFEST)
    varying = ("seconds", "environment")
    return {
        "result": {k: v for k, v in result.items() if k not in varying},
        "groups": {k: v["sha256"] for k, v in manifest.get("groups", {}).items()},
        "metrics": [{k: v for k, v in r.items() if k != "seconds"} for r in records(folder)],
    }


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text() or "{}") if path.is_file() else {}


def digest(values: dict[str, Any]) -> str:
    """Compute the sha256 of `contents`."""
    return hashlib.sha256(canonical(values).encode()).hexdigest()


def differences(values: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """List the parts of two `contents` that differ: `result/test`, `groups/head`, `metrics/2`."""
    different = []
    for part in expected:
        mine = _as_dict(values[part])
        theirs = _as_dict(expected[part])
        for key in sorted(mine.keys() | theirs.keys(), key=str):
            if canonical(mine.get(key)) != canonical(theirs.get(key)):
                different.append(f"{part}/{key}")
    return different


def _as_dict(values: dict | list) -> dict:
    return dict(enumerate(values)) if isinstance(values, list) else values


def names(folder: Path) -> set[str]:
    """List the names in a run's folder and its stages, so that leftover files are noticed."""
    listed = {path.name for path in folder.iterdir()}
    for stage in STAGES:
        inside = {path.name for path in (folder / stage).glob("*")}
        # A signal saves a checkpoint in the middle of an epoch; its step number differs from that
        # of an undisturbed run, so the older checkpoints are only counted.
        *older, _ = sorted(map(int, filter(str.isdecimal, inside))) or [-1]
        listed |= {f"{stage}/{name}" for name in inside - set(map(str, older))}
        listed |= {f"{stage}/older {number}" for number, _ in enumerate(older)}
    return listed


def committed(folder: Path) -> dict[str, int]:
    """Find the newest committed checkpoint of each stage."""
    newest = {}
    for stage in STAGES:
        marks = (folder / stage).glob(f"*/{COMMITTED}")
        steps = [int(mark.parent.name) for mark in marks if mark.parent.name.isdigit()]
        if steps:
            newest[stage] = max(steps)
    return newest


def covered(folder: Path, last: dict[str, int], epochs: dict[str, int]) -> list[dict[str, Any]]:
    """List the records of epochs that a checkpoint contains: no resumed run trains them again.

    The steps of checkpoints grow by the same number in each epoch, whether they count one member or
    all members.

    Args:
        folder: folder of the run.
        last: final step of each stage.
        epochs: number of epochs of each stage.
    """
    newest = committed(folder)
    kept = []
    for record in records(folder):
        stage = record["stage"]
        if record["epoch"] <= newest.get(stage, 0) * epochs[stage] // last[stage]:
            kept.append(record)
    return kept


def phase(folder: Path, epochs: dict[str, int], printed: str) -> str:
    """Name the phase in which a run was stopped, judging by its files."""
    if not (folder / MANIFEST).is_file():
        return "reading data" if printed else "start, imports"
    if (folder / RESULT).is_file():
        return "after the result"
    # The first checkpoint of a stage is saved before its first epoch.
    stages = [stage for stage in STAGES if (folder / stage).is_dir()]
    if not stages:
        return "compiling"
    stage = stages[-1]
    steps = list((folder / stage).iterdir())
    if any(not (path / COMMITTED).is_file() for path in steps):
        return f"{stage}, saving"
    done = sum(record["stage"] == stage for record in records(folder))
    if done < epochs[stage]:
        return f"{stage}, training"
    return "hand-over" if stage == "pretrain" else "evaluation"
