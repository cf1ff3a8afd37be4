"""The folder of a run: made once; each of its files is there whole or not at all, and sealed."""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from twostage_jax import files as reading
from twostage_jax.errors import Corrupted, UserError

CONFIG, METRICS, MANIFEST, RESULT = "config.json", "metrics.jsonl", "manifest.json", "result.json"
SUMS = "SHA256SUMS"  # as sha256sum writes and checks it
OUTPUTS = ("*.png", "predictions-*.npz")
LOCK = "lock"
PART = ".part"  # the end of the name of what is not yet whole
SEAL = "sha256"
# What code that expects our own values does with others.
MEANT = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
# What a file has at least, and of which type: `[str]` is a list, `{str: int}` has any names.
REQUIRED: dict[str, dict[str, Any]] = {
    CONFIG: {"data": str, "pretrain": dict, "head": dict},
    MANIFEST: {
        **dict.fromkeys(("groups", "versions", "machine"), dict),
        "config": {"data": str, "pretrain": dict, "head": dict},
        "preprocessing": {"image": list},
        "classes": [str],
        "data": {"name": str, "fingerprint": str, "order": str, "parts": {str: str}},
        "chunks": {str: int},
        "allowed": [str],
        "save_predictions": bool,
        "test_reads": int,
        SEAL: str,
    },
    RESULT: {
        **dict.fromkeys(("data", "pretrain", "head", "frozen", "validation", "test"), dict),
        **{"seconds": dict, "test_reads": int},
    },
}


def create(out: Path | None, name: str) -> Path:
    """Make the folder of a new run, by default `runs/NAME-TIME`.

    Raises:
        UserError: where it is taken, or cannot be made.
    """
    folder = out or Path("runs") / f"{as_name(name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        folder.mkdir(parents=True, exist_ok=out is not None)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder}: {error.strerror}; give another --out"
        ) from error
    return folder


def as_name(text: str) -> str:
    """The name of a data set as part of the name of a file: nothing in it leads elsewhere."""
    return re.sub(r"[^\w-]+", "-", text)


def check_free(folder: Path) -> None:
    """Raise `UserError` where a folder holds a run already, or anything else that is not ours."""
    try:
        taken = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder}: {error.strerror}; give another --out"
        ) from error
    if CONFIG in taken:
        raise UserError(
            f"{folder} holds a run already: give a new --out, or --resume to go on with that one"
        )
    # What a run leaves that was killed before it had begun to be one.
    strangers = [one for one in taken if one not in (LOCK, CONFIG + PART)]
    if strangers:
        raise UserError(f"{folder} is not empty (it has {strangers[0]}): give a new --out")


def check_run(folder: Path) -> None:
    """Raise `UserError` where there is no run in a folder."""
    if not any((folder / name).is_file() for name in (CONFIG, MANIFEST)):
        raise UserError(f"{folder} is no run: give the folder that a run printed at its end")


def clean(folder: Path) -> None:
    """Remove what was being written when an earlier process on this folder ended."""
    for pattern in (CONFIG, METRICS, MANIFEST, RESULT, SUMS, *OUTPUTS):
        for path in folder.glob(f"{pattern}{PART}"):
            path.unlink()


def remove_output(folder: Path, name: str) -> None:
    """Remove a picture or predictions from a run's folder; nothing else, whatever it is called."""
    for pattern in OUTPUTS:
        for path in folder.glob(pattern):
            if path.name == name:
                path.unlink()


def checksum(values: Any) -> str:
    """`sha256:…` of values as JSON, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with their own checksum beside them."""
    bare = {name: value for name, value in values.items() if name != SEAL}
    return {**bare, SEAL: checksum(bare)}


def is_whole(values: Mapping[str, Any]) -> bool:
    """Whether `values` are what was sealed."""
    return values.get(SEAL) == sealed(values)[SEAL]


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One of the JSON files of a run.

    Raises:
        UserError: where there is no such run.
        Corrupted: where the file is not what was written.
    """
    path = folder / name
    if name == CONFIG and not path.is_file() and (folder / MANIFEST).is_file():
        raise Corrupted(f"{path} is missing: --resume puts it back")
    if not path.is_file():
        what = "is no run" if not (folder / CONFIG).is_file() else f"has no {name}"
        raise UserError(f"{folder} {what}: give the folder that a run printed at its end")
    known = name == CONFIG and (folder / MANIFEST).is_file()
    restore = "remove it, and --resume puts it back" if known else "restore it"
    try:
        values = reading.read_json(path, regular=True)
    except UserError as error:
        raise Corrupted(f"{error}; {restore}") from error
    with meant(path):  # nested too deep to be written again, for one
        required = REQUIRED[name].items()
        shaped = isinstance(values, dict)
        lacking = [key for key, kind in required if not (shaped and _fits(values.get(key), kind))]
        whole = lacking or SEAL not in REQUIRED[name] or is_whole(values)
    if lacking:
        raise Corrupted(
            f"{path} is damaged, or of an older version: it lacks {', '.join(lacking)}; {restore}"
        )
    if not whole:
        raise Corrupted(f"{path} is damaged: it has changed since it was written; {restore}")
    return values


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of a JSON file is what `REQUIRED` says."""
    if isinstance(kind, list):
        return isinstance(value, list) and all(_fits(each, kind[0]) for each in value)
    if isinstance(kind, dict):
        expected = dict.fromkeys(value, kind[str]) if str in kind and value else kind
        return isinstance(value, dict) and all(
            name is str or _fits(value.get(name), each) for name, each in expected.items()
        )
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


@contextlib.contextmanager
def meant(path: Path) -> Iterator[None]:
    """Turn what a file leads to that is JSON, and whole, but not as we write it, into `Corrupted`.

    Seals find accidents; a stranger can seal anything.
    """
    try:
        yield
    except UserError:
        raise
    except MEANT as error:
        raise Corrupted(f"{path} does not hold what a run writes there: {error!r}") from error


def chunks(folder: Path) -> dict[str, int]:
    """How many members of each stage of a run train at a time; nothing if it had none."""
    if not (folder / MANIFEST).is_file():
        return {}
    found = read_json(folder, MANIFEST)["chunks"]
    if any(count < 1 for count in found.values()):
        raise Corrupted(
            f"{folder / MANIFEST} does not hold what a run writes there: chunks {found}"
        )
    return found


def write_json(folder: Path, name: str, values: Mapping[str, Any]) -> None:
    """Write a JSON file so that it is either there whole or not at all."""
    write_bytes(folder / name, packed(name, values))


def packed(name: str, values: Mapping[str, Any]) -> bytes:
    """What the JSON file `name` has to hold; `values` are sealed where that belongs to it."""
    values = sealed(values) if SEAL in REQUIRED.get(name, ()) else values
    return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either there whole or not at all, on the disk too.

    Raises:
        UserError: a full disk, a folder that is gone or that cannot be written to.
    """
    part = path.with_name(path.name + PART)
    with _written(path):
        # A link in a stranger's folder must not lead us to another file.
        part.unlink(missing_ok=True)
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            path.with_name(path.name + PART).unlink(missing_ok=True)
        kept = "what it held before is whole" if path.is_file() else "nothing else is lost"
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; {kept}: make room, or make the "
            "folder writable, and go on"
        ) from error


def append_metrics(folder: Path, record: Mapping[str, Any]) -> None:
    """Add one line to `metrics.jsonl`."""
    with _written(folder / METRICS), (folder / METRICS).open("a") as file:
        file.write(_line(record))


def as_metrics(records: Sequence[Mapping[str, Any]]) -> bytes:
    """What `metrics.jsonl` holds where these are its records."""
    return "".join(map(_line, records)).encode()


def write_metrics(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Make `metrics.jsonl` hold these records and nothing else."""
    path, expected = folder / METRICS, as_metrics(records)
    if not path.exists() and not records:
        return
    if not path.is_file() or path.stat().st_size != len(expected) or path.read_bytes() != expected:
        write_bytes(path, expected)


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def last_loss(records: Sequence[Mapping[str, Any]], rows: Any = None) -> float | None:
    """Loss of the last epoch, of members the mean over `rows`; None if there was none."""
    if not records:
        return None
    each = records[-1].get("members", {}).get("loss")
    if each is None or rows is None:
        return records[-1]["loss"]
    losses = [each[row] for row in rows if each[row] is not None]
    return sum(losses) / len(losses) if losses else None
