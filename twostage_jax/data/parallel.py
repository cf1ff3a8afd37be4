"""Decode many files on all cores."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from twostage_jax.data.decode import Form
from twostage_jax.data.spec import Progress
from twostage_jax.data.worker import BrokenRow, Task, decode_task
from twostage_jax.errors import UserError

Broken = list[BrokenRow]
Results = Generator[tuple[Task, Broken], None, None]
CHUNK = 128  # files of a task
MOST_WORKERS = 16
# A process takes a quarter of a second to start, and decodes some MB or thousands of files in it.
WORTH_FILES = 4000
WORTH_BYTES = 24_000_000
PACKAGE = Path(__file__).parents[2]


def decode_files(
    output: int,
    files: Sequence[str],
    size: int,
    form: Form,
    limit: int,
    progress: Progress | None = None,
) -> Broken:
    """Decode files into a file of uint8 `[N, H, W, C]`, on all cores if they are many.

    Args:
        output: descriptor of a file of the right size.
        files: paths.
        size: bytes of all files.
        form: form of all images.
        limit: largest number of pixels of an image.
        progress: called after each part.

    Returns:
        Files that cannot be decoded, in order.

    Raises:
        OSError: a full disk.
        UserError: a process that ended.
    """
    tasks = [Task(i, list(files[i : i + CHUNK])) for i in range(0, len(files), CHUNK)]
    workers = min(_cores(), MOST_WORKERS, len(tasks))
    if workers > 1 and (len(files) >= WORTH_FILES or size >= WORTH_BYTES):
        results = _on_workers(workers, output, tasks, form, limit)
    else:
        results = _in_this_process(output, tasks, form, limit)
    broken: Broken = []
    done = 0
    with contextlib.closing(results):
        for task, part in results:
            broken += part
            done += len(task.files)
            if progress is not None:
                progress(done, len(files))
    return sorted(broken)


def _cores() -> int:
    # Not on macOS.
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _in_this_process(output: int, tasks: Sequence[Task], form: Form, limit: int) -> Results:
    for task in tasks:
        yield task, decode_task(output, task, form, limit)


def _on_workers(workers: int, output: int, tasks: list[Task], form: Form, limit: int) -> Results:
    command = [sys.executable, "-P", "-m", "twostage_jax.data.worker"]
    command.append(json.dumps([output, form, limit]))
    paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
    processes: list[subprocess.Popen[str]] = []
    free: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()

    def ask(task: Task) -> Broken:
        process = free.get()
        try:
            return _answer(process, task)
        finally:
            free.put(process)

    pool = ThreadPoolExecutor(workers)
    try:
        for _ in range(workers):
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(output,),
                env=environment,
                text=True,
            )
            processes.append(process)
            free.put(process)
        yield from zip(tasks, pool.map(ask, tasks), strict=True)
    finally:
        # First the processes, so that no thread waits for an answer any more.
        for process in processes:
            process.kill()
        pool.shutdown(cancel_futures=True)
        for process in processes:
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what it has not read any more
                    stream.close()  # pyright: ignore[reportOptionalMemberAccess]


def _answer(process: "subprocess.Popen[str]", task: Task) -> Broken:
    """Give a task to a process, and return its answer.

    Raises:
        OSError: as the process reports it.
        UserError: a process that ended.
    """
    assert process.stdin is not None and process.stdout is not None
    line = ""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    if not line:
        raise UserError(
            f"a process that decodes images ended with status {process.wait()}: there may be too "
            "little memory for the largest images; make them smaller, or give a lower --pixel-limit"
        )
    answer = json.loads(line)
    if isinstance(answer, str):
        raise OSError(answer)
    return [BrokenRow(*values) for values in answer]
