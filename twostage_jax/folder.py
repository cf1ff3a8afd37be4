"""The folder of a run: made once, written atomically, sealed, never overwritten."""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from twostage_jax import reading
from twostage_jax.errors import Damaged, UserError

CONFIG, METRICS, MANIFEST, RESULT = "config.json", "metrics.jsonl", "manifest.json", "result.json"
SUMS = "SHA256SUMS"  # as sha256sum writes and checks it
SUMMED = (CONFIG, METRICS, MANIFEST, RESULT, "*.png", "predictions-*.npz")
LOCK = "lock"
PART = ".part"  # the end of the name of what is not yet whole
SEAL = "sha256"
# What a file has at least, and of which type.
REQUIRED: dict[str, dict[str, type]] = {
    CONFIG: {"data": str, "pretrain": dict, "head": dict},
    MANIFEST: {
        **dict.fromkeys(("groups", "preprocessing", "config", "data", "versions", "machine"), dict),
        **dict.fromkeys(("classes", "allowed"), list),
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
    for pattern in (*SUMMED, SUMS):
        for path in folder.glob(f"{pattern}{PART}"):
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
        Damaged: where the file is not what was written.
    """
    path = folder / name
    if name == CONFIG and not path.is_file() and (folder / MANIFEST).is_file():
        raise Damaged(f"{path} is missing: --resume puts it back")
    if not path.is_file():
        what = "is no run" if not (folder / CONFIG).is_file() else f"has no {name}"
        raise UserError(f"{folder} {what}: give the folder that a run printed at its end")
    try:
        values = reading.read_json(path)
    except UserError as error:
        raise Damaged(f"{error}; restore it") from error
    lacking = [
        key
        for key, kind in REQUIRED[name].items()
        if not isinstance(values, dict) or not isinstance(values.get(key), kind)
    ]
    if lacking:
        raise Damaged(
            f"{path} is damaged, or of an older version: it lacks {', '.join(lacking)}; restore it"
        )
    if SEAL in REQUIRED[name] and not is_whole(values):
        raise Damaged(f"{path} is damaged: it has changed since it was written; restore it")
    return values


@contextlib.contextmanager
def meant(path: Path) -> Iterator[None]:
    """Turn what a file leads to that is JSON, and whole, but not as we write it, into `Damaged`.

    Seals find accidents; a stranger can seal anything.
    """
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{path} does not hold what a run writes there: {error!r}") from error


def chunks(folder: Path) -> dict[str, int]:
    """How many members of each stage of a run train at a time; nothing if it had none."""
    return read_json(folder, MANIFEST).get("chunks", {}) if (folder / MANIFEST).is_file() else {}


def write_json(folder: Path, name: str, values: Mapping[str, Any]) -> None:
    """Write a JSON file so that it is either there whole or not at all."""
    if SEAL in REQUIRED.get(name, ()):
        values = sealed(values)
    write_text(folder / name, as_text(values))


def as_text(values: Mapping[str, Any]) -> str:
    """JSON as our files have it."""
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def finish(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `result.json`, and before it the checksums of all files; the run is then complete.

    It may be there already: whatever the moment at which the process is killed, the file that is
    there is one of those that the checksums know.
    """
    text = as_text(result)
    now = _sums(folder)
    known = [line for line in now if line.endswith(f"  {RESULT}")]
    rest = [line for line in now if line not in known]
    new = f"{hashlib.sha256(text.encode()).hexdigest()}  {RESULT}"
    write_text(folder / SUMS, "\n".join([*rest, *known, new, ""]))
    write_text(folder / RESULT, text)
    write_text(folder / SUMS, "\n".join([*rest, new, ""]))


def _sums(folder: Path) -> list[str]:
    """A line for each file of a run that is not Orbax's: its sha256, two spaces, its name."""
    paths = sorted(path for pattern in SUMMED for path in folder.glob(pattern))
    return [f"{_digest(path)}  {path.name}" for path in paths]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sums(folder: Path) -> dict[str, set[str]]:
    """`{name: sha256s, any of which will do}` of the files of a complete run.

    Raises:
        Damaged: if it cannot be read.
    """
    try:
        lines = reading.read_text(folder / SUMS).splitlines()
    except UserError as error:
        raise Damaged(f"{error}; without it nothing tells whether {folder} is whole") from error
    known: dict[str, set[str]] = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        known.setdefault(name, set()).add(digest)
    return known


def check_sums(folder: Path, everything: bool = False) -> None:
    """Hold the files of a complete run against their checksums.

    Args:
        folder: of the run.
        everything: pictures and predictions, too, which somebody may have removed.

    Raises:
        Damaged: for the first file that is not what it was when the run was complete.
    """
    known, needed = read_sums(folder), (CONFIG, METRICS, MANIFEST, RESULT)
    for name in {*needed, *known} if everything else needed:
        if name not in known or "/" in name or not (folder / name).is_file():
            raise Damaged(f"{folder / name} is missing, or is not in {SUMS}")
        if _digest(folder / name) not in known[name]:
            raise Damaged(f"{folder / name} is damaged: it is not what {SUMS} says")


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is either there whole or not at all, on the disk too."""
    part = path.with_name(path.name + PART)
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def append_metrics(folder: Path, record: Mapping[str, Any]) -> None:
    """Add one line to `metrics.jsonl`."""
    with (folder / METRICS).open("a") as file:
        file.write(_line(record))


def metrics_are(folder: Path, records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether `metrics.jsonl` holds these records and nothing else."""
    path, expected = folder / METRICS, "".join(map(_line, records)).encode()
    if not path.is_file() or path.stat().st_size != len(expected):
        return not records and not path.exists()
    return path.read_bytes() == expected


def write_metrics(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Make `metrics.jsonl` hold these records and nothing else."""
    if not metrics_are(folder, records):
        write_text(folder / METRICS, "".join(map(_line, records)))


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
