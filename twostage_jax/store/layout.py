"""Names of the files in a run's folder; new, free and leftover folders."""

import re
import time
from pathlib import Path

from twostage_jax.errors import UserError

CONFIG = "config.json"  # a copy of the manifest's config, for people and for `--config`
METRICS = "metrics.jsonl"
MANIFEST = "manifest.json"  # the source of truth: a folder with this file is a run
RESULT = "result.json"
SUMS = "SHA256SUMS"  # in the format of sha256sum
LOCK = "lock"
BROKEN = "broken.csv"  # files of the source that were left out
DUPLICATES = "duplicates.csv"
REJECTION = "rejection.npz"
REPORT = "report.html"
MATERIAL = "report.npz"  # pictures and points of the report
PROGRESS = "progress.jsonl"  # predictions for the same images after each epoch of stage 2
OUTPUTS = (
    "*.png",
    "predictions-*.npz",
    DUPLICATES,
    REJECTION,
    REPORT,
    MATERIAL,
    PROGRESS,
)
LONGEST_NAME = 255  # bytes of a file name on common file systems
PART = ".part"  # suffix of a file that is being written


def create_folder(out: Path | None, name: str) -> Path:
    """Create the folder of a new run, by default `runs/NAME-TIME`.

    Raises:
        UserError: if the default folder exists or the folder cannot be created.
    """
    folder = out or Path("runs") / f"{as_file_name(name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        # Two runs that start in the same second must not share a default folder.
        folder.mkdir(parents=True, exist_ok=out is not None)
    except OSError as error:
        raise UserError(_cannot_create(folder, error)) from error
    return folder


def check_name(folder: Path) -> None:
    """Check that Orbax can write checkpoints into a folder of this name.

    Raises:
        UserError: if it has characters that Orbax rejects, more than 255 bytes, or is not UTF-8.
    """
    full = str(folder.absolute())
    try:
        parts = [part.encode() for part in folder.absolute().parts]
    except UnicodeEncodeError as error:
        raise UserError(f"the folder {folder} has bytes that are not UTF-8: rename it") from error
    # Orbax reads these characters as a pattern, and `gs:` as a bucket in the cloud.
    special = sorted(set(full) & set("[]*?\\\0"))
    if special or b"gs:" in parts:
        raise UserError(
            f"cannot write checkpoints to {full}, because of {' '.join(special) or 'gs:'} in it: "
            "give another --out"
        )
    longest = max(map(len, parts))
    if longest > LONGEST_NAME:
        raise UserError(
            f"{folder} has a name of {longest} bytes, the limit is {LONGEST_NAME}: give a shorter "
            "--out"
        )


def _cannot_create(folder: Path, error: OSError) -> str:
    return f"cannot create the folder {folder}: {error.strerror}; give another --out"


def as_file_name(text: str) -> str:
    """Name of a data set as part of a file name, without slashes and other special characters."""
    return re.sub(r"[^\w-]+", "-", text)


def check_free(folder: Path) -> None:
    """Check that a new run can use a folder.

    Raises:
        UserError: if the folder contains a run or foreign files, or cannot be read.
    """
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise UserError(_cannot_create(folder, error)) from error
    if MANIFEST in names:
        raise UserError(
            f"{folder} already contains a run: give a new --out, or resume the run with --resume"
        )
    # A process that was killed before its run began leaves only these.
    foreign = [name for name in names if name not in (LOCK, MANIFEST + PART)]
    if foreign:
        raise UserError(f"{folder} is not empty (it contains {foreign[0]}): give a new --out")


def check_run(folder: Path) -> None:
    """Check that a folder contains a run.

    Raises:
        UserError: if it has no manifest.
    """
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"{folder} is not a run folder, it has no {MANIFEST}: give the folder that `twostage "
            "run` printed"
        )


def clean(folder: Path) -> None:
    """Remove unfinished files that a killed process has left in a run's folder."""
    for pattern in (CONFIG, METRICS, MANIFEST, RESULT, SUMS, BROKEN, *OUTPUTS):
        for path in folder.glob(f"{pattern}{PART}"):
            path.unlink()


def remove_output(folder: Path, name: str) -> None:
    """Remove a plot or predictions from a run's folder; ignore all other names."""
    for pattern in OUTPUTS:
        for path in folder.glob(pattern):
            # Compare with the folder's own names: `name` may come from a stranger's list.
            if path.name == name:
                path.unlink()
