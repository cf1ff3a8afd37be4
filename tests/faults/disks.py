"""Disks that are full, folders that cannot be written or are gone."""

import contextlib
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torture import folders
from torture.processes import Outcome, Process
from torture.session import (
    KINDS,
    Session,
    epochs_of,
    epochs_of_kind,
    finish,
    judge,
    steps,
    table_rows,
    wait_for,
)
from torture.table import Record

NOBODY = 65534
ROOM = "size=64m,nr_inodes=65536"


def mounted(path: Path, *options: str) -> bool:
    """Mount, and say whether that is allowed here."""
    path.mkdir(parents=True, exist_ok=True)
    return subprocess.run(["mount", *options, str(path)], capture_output=True).returncode == 0


@contextlib.contextmanager
def small_disk(path: Path, limits: str) -> Iterator[bool]:
    """A tmpfs with so much room, or False where none can be mounted."""
    there = mounted(path, "-t", "tmpfs", "-o", limits, "tmpfs")
    try:
        yield there
    finally:
        if there:
            subprocess.run(["umount", "-l", str(path)], check=False)


def room_needed(folder: Path) -> tuple[int, int]:
    """Bytes, in pages, and files of a run."""
    paths = list(folder.rglob("*"))
    pages = sum(-(-path.stat().st_size // 4096) for path in paths if path.is_file())
    return 4096 * pages, len(paths) + 1


def full(session: Session, index: int, base: Path) -> Record:
    """No space, or no inodes, from some moment on; then room is made and the run goes on.

    In turns the disk is too small, has too few inodes, or is filled by somebody else at a moment.
    """
    choice = session.random("full", index)
    size, files = room_needed(session.reference("plain").base / "run")
    # Spread over what a run needs, of which more than one checkpoint is there at a time.
    share = (index // 3 + choice.random()) / max(-(-session.often["full"] // 3), 1)
    kind = ["size", "inodes", "filled"][index % 3]
    limits = {
        "size": f"size={max(int(1.3 * share * size) // 4096, 1) * 4096}",
        "inodes": f"size=64m,nr_inodes={3 + int(1.3 * share * files)}",
        "filled": ROOM,
    }[kind]
    with small_disk(base / "run-on", limits) as there:
        if not there:
            return _limited_files(session, base, max(int(share * size / 4), 512))
        place = base / "run-on"
        step = steps(KINDS["plain"], place)[0]
        process = session.start(step.argv, base)
        if kind == "filled":
            limits = _fill(process, step.folder, choice.choice(list(MOMENTS)))
        outcome = process.finish()
        subprocess.run(["mount", "-o", f"remount,{ROOM}", str(place)], check=True)
        (place / "filler").unlink(missing_ok=True)
        return _after_no_room(session, place, outcome, limits)


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "config": lambda folder: (folder / folders.CONFIG).is_file(),
    "epoch 1": lambda folder: epochs_of(folder, "pretrain") >= 1,
    "stage 2": lambda folder: (folder / "head").is_dir(),
    "head, epoch 1": lambda folder: epochs_of(folder, "head") >= 1,
    "head, epoch 3": lambda folder: epochs_of(folder, "head") >= 3,
}


def _fill(process: Process, folder: Path, moment: str) -> str:
    """Take all room that is left at a moment of the run, until it ends."""
    wait_for(process, lambda: MOMENTS[moment](folder))
    filler = folder.parent / "filler"
    with filler.open("ab") as file:
        while process.running:
            with contextlib.suppress(OSError):
                free = os.statvfs(filler).f_bavail * 4096
                if free:
                    os.posix_fallocate(file.fileno(), file.seek(0, 2), free)
            time.sleep(0.002)
    return f"filled at {moment}"


def _limited_files(session: Session, base: Path, limit: int) -> Record:
    """Where nothing can be mounted: no file may grow beyond a limit. Python ignores SIGXFSZ."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    step = steps(KINDS["plain"], base)[0]
    outcome = session.command(step.argv, base, preexec_fn=limited)
    return _after_no_room(session, base, outcome, f"files of {limit} bytes at most")


def _after_no_room(session: Session, place: Path, outcome: Outcome, limits: str) -> Record:
    step, reference = steps(KINDS["plain"], place)[0], session.reference("plain")
    before = folders.covered(step.folder, reference.last, epochs_of_kind("plain"))
    found = sorted(folders.names(step.folder)) if step.folder.is_dir() else []
    seen = {"limits": limits, "left": found, **outcome.seen}
    if outcome.status == 0:
        return Record(judge(session, "plain", place), seen, {"room enough": 1})
    wrong = [] if outcome.in_one_line else [_not_one_line(outcome)]
    more, last = finish(session, "plain", place)
    kept = folders.records(step.folder) if step.folder.is_dir() else []
    if any(record not in kept for record in before):
        wrong.append("an epoch with a checkpoint was trained again")
    seen |= {"at the end": last.seen if last and more else None}
    return Record(wrong + more, seen, {"no room": 1})


def _not_one_line(outcome: Outcome) -> str:
    last = (outcome.error_lines or [""])[-1]
    return f"status {outcome.status} with {len(outcome.error_lines)} lines on stderr, last: {last}"


@contextlib.contextmanager
def unwritable(folder: Path) -> Iterator[dict[str, Any]]:
    """Make a folder unwritable, and give the options of the process that shall find it so.

    The permissions of files do not bind root, so it mounts the folder read-only on itself, or else
    the process runs as nobody.
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
    """In turns: resume there, start there, evaluate there."""
    place, case = base / "fixed", ["resume", "start", "evaluate"][index % 3]
    source = session.reference("longer").base / "run"
    if case == "resume":
        source = [session.cut("head"), session.cut("pretrain")][index // 3 % 2]
    shutil.copytree(source, place / "run")
    argv = {
        "resume": ["run", "--resume", "--out", str(place / "run")],
        "start": ["run", *KINDS["plain"].flags, "--out", str(place / "new")],
        "evaluate": ["evaluate", str(place / "run"), "--split", "validation"],
    }[case]
    with unwritable(place) as options:
        try:
            outcome = session.command(argv, base, **options)
        except PermissionError as error:  # of Python itself, as nobody
            return Record([f"cannot be tried here: {error}"], {"case": case})
    wrong = []
    if case == "evaluate":
        if outcome.status != 0 or table_rows(outcome.out) != session.reference("longer").scores:
            wrong.append(f"evaluate: {_not_one_line(outcome)}")
    elif not outcome.in_one_line:
        wrong.append(f"{case}: {_not_one_line(outcome)}")
    return Record(wrong, {"case": case, **outcome.seen}, {case: 1})


def vanish(session: Session, index: int, base: Path) -> Record:
    """The folder is renamed, or removed, while a run works in it."""
    way, stage = ["renamed", "removed"][index % 2], folders.STAGES[index // 2 % 2]
    step = steps(KINDS["long"], base)[0]
    process = session.start(step.argv, base)
    met = wait_for(process, lambda: epochs_of(step.folder, stage) >= 2)
    step.folder.rename(base / "elsewhere")
    if way == "removed":
        shutil.rmtree(base / "elsewhere")
    outcome = process.finish()
    seen = {"way": way, "stage": stage, "in time": met, **outcome.seen}
    wrong = [] if outcome.in_one_line else [f"{way}: {_not_one_line(outcome)}"]
    if step.folder.exists():
        seen["made again"] = sorted(str(p.relative_to(base)) for p in step.folder.rglob("*"))
    return Record(wrong, seen, {f"{way} in {stage}": 1})
