"""The folder of a run: made once, written atomically, never overwritten."""

import json
import os
import time
from pathlib import Path
from typing import Any

from twostage_jax.errors import UserError

CONFIG, METRICS, MANIFEST, RESULT = "config.json", "metrics.jsonl", "manifest.json", "result.json"
REQUIRED = {
    CONFIG: ("data", "pretrain", "head"),
    MANIFEST: ("groups", "preprocessing", "classes", "data"),
    RESULT: ("data", "pretrain", "head", "frozen", "validation", "test", "seconds"),
}


def create(out: Path | None, name: str) -> Path:
    """Make the folder of a new run, by default `runs/NAME-TIME`.

    Raises:
        UserError: where it is taken, or cannot be made.
    """
    folder = out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        folder.mkdir(parents=True, exist_ok=out is not None)
        taken = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder}: {error.strerror}; give another --out"
        ) from error
    if CONFIG in taken:
        raise UserError(
            f"{folder} holds a run already: give a new --out, or --resume to go on with that one"
        )
    if taken:
        raise UserError(f"{folder} is not empty (it has {taken[0]}): give a new --out")
    return folder


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One of the JSON files of a run.

    Raises:
        UserError: where there is no such run, or the file is damaged.
    """
    path = folder / name
    if not path.is_file():
        what = "is no run" if not (folder / CONFIG).is_file() else f"has no {name}"
        raise UserError(f"{folder} {what}: give the folder that a run printed at its end")
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    lacking = [key for key in REQUIRED[name] if not isinstance(values, dict) or key not in values]
    if lacking:
        raise UserError(f"{path} is damaged: it lacks {', '.join(lacking)}; restore it")
    return values


def chunks(folder: Path) -> dict[str, int]:
    """How many members of each stage of a run train at a time; nothing if it had none."""
    return read_json(folder, MANIFEST).get("chunks", {}) if (folder / MANIFEST).is_file() else {}


def write_json(folder: Path, name: str, values: dict[str, Any]) -> None:
    """Write a JSON file so that it is either there whole or not at all."""
    path = folder / name
    part = path.with_suffix(".part")
    with part.open("w") as file:
        json.dump(values, file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def append_metrics(folder: Path, record: dict[str, Any]) -> None:
    """Add one line to `metrics.jsonl`."""
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl` in order; a last line that was cut off is left out."""
    path = folder / METRICS
    if not path.is_file():
        return []
    *lines, _ = path.read_text().split("\n")
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def trim_metrics(folder: Path, stage: str, epoch: int) -> None:
    """Forget the records of `stage` after `epoch`, which a resumed run will write again."""
    records = read_metrics(folder)
    kept = [r for r in records if r["stage"] != stage or r["epoch"] <= epoch]
    part = folder / f"{METRICS}.part"
    part.write_text("".join(json.dumps(record) + "\n" for record in kept))
    part.replace(folder / METRICS)


def last_loss(folder: Path, stage: str, rows: Any = None) -> float | None:
    """Loss of the last epoch of `stage`, of members the mean over `rows`; None if it had none."""
    records = [record for record in read_metrics(folder) if record["stage"] == stage]
    if not records:
        return None
    each = records[-1].get("members", {}).get("loss")
    if each is None or rows is None:
        return records[-1]["loss"]
    losses = [each[row] for row in rows if each[row] is not None]
    return sum(losses) / len(losses) if losses else None
