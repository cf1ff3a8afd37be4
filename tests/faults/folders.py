"""What a run has left in its folder, read without the package."""

import hashlib
import json
from pathlib import Path
from typing import Any

STAGES = ("pretrain", "head")
CONFIG, METRICS, MANIFEST, RESULT = "config.json", "metrics.jsonl", "manifest.json", "result.json"


def canonical(value: Any) -> str:
    """One string for one value, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def records(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of `metrics.jsonl`; a last one without its end is not one yet."""
    path = folder / METRICS
    *lines, _ = path.read_text().split("\n") if path.is_file() else [""]
    return [json.loads(line) for line in lines]


def contents(folder: Path) -> dict[str, Any]:
    """What must be the same in every run of one config: all but times and the machine."""
    result = json.loads(text) if (text := _text(folder / RESULT)) else {}
    manifest = json.loads(_text(folder / MANIFEST) or "{}")
    return {
        "result": {k: v for k, v in result.items() if k not in ("seconds", "environment")},
        "groups": {k: v["sha256"] for k, v in manifest.get("groups", {}).items()},
        "metrics": [{k: v for k, v in r.items() if k != "seconds"} for r in records(folder)],
    }


def digest(values: dict[str, Any]) -> str:
    """The sha256 of `contents`."""
    return hashlib.sha256(canonical(values).encode()).hexdigest()


def differences(got: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Which parts of `contents` are not the same: `result/test`, `groups/head`, `metrics/2`."""
    wrong = []
    for part in wanted:
        pair = got[part], wanted[part]
        each = [dict(enumerate(x)) if isinstance(x, list) else x for x in pair]
        wrong += [
            f"{part}/{key}"
            for key in sorted(each[0].keys() | each[1].keys(), key=str)
            if canonical(each[0].get(key)) != canonical(each[1].get(key))
        ]
    return wrong


def names(folder: Path) -> set[str]:
    """Names in a run's folder and in those of its stages: what leftovers would add to."""
    found = {path.name for path in folder.iterdir()}
    for stage in STAGES:
        inside = {path.name for path in (folder / stage).glob("*")}
        # A signal makes a checkpoint in the middle of an epoch, which then is the older of the two.
        *older, _ = sorted(map(int, filter(str.isdecimal, inside))) or [-1]
        found |= {f"{stage}/{name}" for name in inside - set(map(str, older))}
        found |= {f"{stage}/older {number}" for number, _ in enumerate(older)}
    return found


def committed(folder: Path) -> dict[str, int]:
    """The newest checkpoint of each stage that says of itself that it is whole."""
    newest = {}
    for stage in STAGES:
        marks = (folder / stage).glob("*/commit_success.txt")
        steps = [int(mark.parent.name) for mark in marks if mark.parent.name.isdigit()]
        if steps:
            newest[stage] = max(steps)
    return newest


def covered(folder: Path, last: dict[str, int], epochs: dict[str, int]) -> list[dict[str, Any]]:
    """Records of epochs that a checkpoint holds, times included: no resumed run trains them again.

    `last` says which step each stage ends with and `epochs` after how many epochs; the steps of a
    checkpoint grow evenly, whether it counts those of one member or of all.
    """
    newest, kept = committed(folder), []
    for record in records(folder):
        stage = record["stage"]
        if record["epoch"] <= newest.get(stage, 0) * epochs[stage] // last[stage]:
            kept.append(record)
    return kept


def moment(folder: Path, epochs: dict[str, int], printed: str) -> str:
    """The phase in which a run was cut, by the files that are there."""
    if not (folder / CONFIG).is_file():
        return "reading data" if printed else "start, imports"
    if (folder / RESULT).is_file():
        return "after the result"
    # A stage's first checkpoint is made before its first epoch.
    stages = [stage for stage in STAGES if (folder / stage).is_dir()]
    if not stages:
        return "compiling"
    stage = stages[-1]
    steps = list((folder / stage).iterdir())
    if any(not (path / "commit_success.txt").is_file() for path in steps):
        return f"{stage}, saving"
    done = sum(record["stage"] == stage for record in records(folder))
    if done < epochs[stage]:
        return f"{stage}, training"
    return "hand-over" if stage == "pretrain" else "evaluation"


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
