"""Full disks, read-only folders, and folders that are renamed or removed during a run."""

import contextlib
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults import folders
from tests.faults.processes import Outcome, Process
from tests.faults.session import (
    KINDS,
    Session,
    compare_with_reference,
    complete,
    epoch_count,
    steps,
    table_rows,
    wait_for,
)
from tests.faults.table import Record

NOBODY = 65534
PAGE = 4096
AMPLE = "size=64m,nr_inodes=65536"  # mount options with enough space for any run


def mounted(path: Path, *options: str) -> bool:
    """Mount at `path` and return True, or return False if this is not allowed."""
    path.mkdir(parents=True, exist_ok=True)
    return subprocess.run(["mount", *options, str(path)], capture_output=True).returncode == 0


@contextlib.contextmanager
def small_disk(path: Path, limits: str) -> Iterator[bool]:
    """Mount a tmpfs with limits; the value is False if it cannot be mounted."""
    success = mounted(path, "-t", "tmpfs", "-o", limits, "tmpfs")
    try:
        yield success
    finally:
        if success:
            subprocess.run(["umount", "-l", str(path)], check=False)


def needed_space(folder: Path) -> tuple[int, int]:
    """Return the bytes, in whole pages, and the number of files of a run."""
    paths = list(folder.rglob("*"))
    pages = sum(-(-path.stat().st_size // PAGE) for path in paths if path.is_file())
    return PAGE * pages, len(paths) + 1


def full(session: Session, index: int, base: Path) -> Record:
    """Let the disk become full during a run; then make space and resume.

    In turns the disk is too small, has too few inodes, or is filled by another process.
    """
    choice = session.random("full", index)
    size, files = needed_space(session.reference("plain").base / "run")
    # Spread over the space that a run needs; for a while it keeps more than one checkpoint.
    share = (index // 3 + choice.random()) / max(-(-session.counts["full"] // 3), 1)
    kind = ["size", "inodes", "filled"][index % 3]
    limits = {
        "size": f"size={max(int(1.3 * share * size) // PAGE, 1) * PAGE}",
        "inodes": f"size=64m,nr_inodes={3 + int(1.3 * share * files)}",
        "filled": AMPLE,
    }[kind]
    disk = base / "disk"
    with small_disk(disk, limits) as success:
        if not success:
            return _limited_files(session, base, max(int(share * size / 4), 512))
        step = steps(KINDS["plain"], disk)[0]
        process = session.start(step.argv, base)
        if kind == "filled":
            limits = _fill(process, step.folder, choice.choice(list(MOMENTS)))
        outcome = process.finish()
        subprocess.run(["mount", "-o", f"remount,{AMPLE}", str(disk)], check=True)
        (disk / "filler").unlink(missing_ok=True)
        return _resume_with_space(session, disk, outcome, limits)


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "manifest": lambda folder: (folder / folders.MANIFEST).is_file(),
    "epoch 1": lambda folder: epoch_count(folder, "pretrain") >= 1,
    "stage 2": lambda folder: (folder / "head").is_dir(),
    "head, epoch 1": lambda folder: epoch_count(folder, "head") >= 1,
    "head, epoch 3": lambda folder: epoch_count(folder, "head") >= 3,
}


def _fill(process: Process, folder: Path, moment: str) -> str:
    """Use up all free space from a moment of the run until its end."""
    wait_for(process, lambda: MOMENTS[moment](folder))
    filler = folder.parent / "filler"
    with filler.open("ab") as file:
        while process.running:
            with contextlib.suppress(OSError):
                free = os.statvfs(filler).f_bavail * PAGE
                if free:
                    os.posix_fallocate(file.fileno(), file.seek(0, 2), free)
            time.sleep(0.002)
    return f"filled at {moment}"


def _limited_files(session: Session, base: Path, limit: int) -> Record:
    """Limit the size of files instead, if nothing can be mounted. Python ignores SIGXFSZ."""

    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    step = steps(KINDS["plain"], base)[0]
    outcome = session.command(step.argv, base, preexec_fn=set_limit)
    return _resume_with_space(session, base, outcome, f"files of at most {limit} bytes")


def _resume_with_space(session: Session, base: Path, outcome: Outcome, limits: str) -> Record:
    kind = KINDS["plain"]
    step = steps(kind, base)[0]
    reference = session.reference("plain")
    before = folders.covered(step.folder, reference.last, kind.stage_epochs)
    names = sorted(folders.names(step.folder)) if step.folder.is_dir() else []
    details = {"limits": limits, "left": names, **outcome.summary}
    if outcome.status == 0:
        failures = compare_with_reference(session, "plain", base)
        return Record(failures, details, {"enough space": 1})
    failures = [] if outcome.is_one_line_error else [_not_one_line(outcome)]
    later, last = complete(session, "plain", base)
    kept = folders.records(step.folder) if step.folder.is_dir() else []
    if any(record not in kept for record in before):
        failures.append("an epoch with a checkpoint was trained again")
    details["at the end"] = last.summary if later else None
    return Record(failures + later, details, {"no space": 1})


def _not_one_line(outcome: Outcome) -> str:
    last = (outcome.error_lines or [""])[-1]
    return f"status {outcome.status} with {len(outcome.error_lines)} lines on stderr, last: {last}"


@contextlib.contextmanager
def unwritable(folder: Path) -> Iterator[dict[str, Any]]:
    """Make a folder read-only; the value has the options of the process that must not write.

    Root may write in spite of permissions, so as root the folder is mounted read-only on itself,
    or else the process runs as nobody.
    """
    root = os.geteuid() == 0
    bound = root and mounted(folder, "--bind", str(folder))
    if bound and mounted(folder, "-o", "remount,ro,bind"):
        try:
            yield {}
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=False)
        return
    paths = [folder, *(path for path in folder.rglob("*"))]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        yield {"user": NOBODY, "group": NOBODY} if root else {}
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)


def readonly(session: Session, index: int, base: Path) -> Record:
    """Resume, start or evaluate, in turns, in a read-only folder."""
    place = base / "fixed"
    case = ["resume", "start", "evaluate"][index % 3]
    source = session.reference("longer").base / "run"
    if case == "resume":
        source = session.interrupted(["head", "pretrain"][index // 3 % 2])
    shutil.copytree(source, place / "run")
    argv = {
        "resume": ["run", "--resume", "--out", str(place / "run")],
        "start": ["run", *KINDS["plain"].flags, "--out", str(place / "new")],
        "evaluate": ["evaluate", str(place / "run"), "--split", "validation"],
    }[case]
    with unwritable(place) as options:
        try:
            outcome = session.command(argv, base, **options)
        except PermissionError as error:  # nobody may not start this Python
            return Record([f"not possible on this machine: {error}"], {"case": case})
    failures = []
    if case == "evaluate":
        scores = session.reference("longer").scores
        if outcome.status != 0 or table_rows(outcome.out) != scores:
            failures.append(f"evaluate: {_not_one_line(outcome)}")
    elif not outcome.is_one_line_error:
        failures.append(f"{case}: {_not_one_line(outcome)}")
    return Record(failures, {"case": case, **outcome.summary}, {case: 1})


def vanish(session: Session, index: int, base: Path) -> Record:
    """Rename or remove the folder while a run writes to it."""
    way = ["renamed", "removed"][index % 2]
    stage = folders.STAGES[index // 2 % 2]
    step = steps(KINDS["long"], base)[0]
    process = session.start(step.argv, base)
    in_time = wait_for(process, lambda: epoch_count(step.folder, stage) >= 2)
    step.folder.rename(base / "elsewhere")
    if way == "removed":
        shutil.rmtree(base / "elsewhere")
    outcome = process.finish()
    details = {"way": way, "stage": stage, "in time": in_time, **outcome.summary}
    failures = [] if outcome.is_one_line_error else [f"{way}: {_not_one_line(outcome)}"]
    if step.folder.exists():
        paths = step.folder.rglob("*")
        details["created again"] = sorted(str(path.relative_to(base)) for path in paths)
    return Record(failures, details, {f"{way} in {stage}": 1})
