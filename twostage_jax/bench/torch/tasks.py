"""Shared parts of the PyTorch programs: a task from a file, its result as a line of JSON."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

Task = TypeVar("Task")  # each program has its own `TypedDict`


def main(run: Callable[[Task], dict[str, object]], trial: Callable[[Task], float]) -> None:
    """Run the task in the file that the command line names, and print one line of JSON.

    With `candidates` in the task, the number of threads is tuned with `trial` instead.
    """
    task = json.loads(Path(sys.argv[1]).read_text())
    candidates = task.pop("candidates", None)
    print(json.dumps(run(task) if candidates is None else tune(task, candidates, trial)))


def tune(
    task: Task, candidates: Sequence[int], trial: Callable[[Task], float]
) -> dict[str, object]:
    """Find the number of threads, out of `candidates`, with which `trial` is fastest.

    `trial` trains a part of an epoch, which shows the best number within seconds, and returns the
    seconds that it took.
    """
    seconds = {}
    for threads in candidates:
        torch.set_num_threads(threads)
        seconds[threads] = trial(task)
    return {"threads": min(seconds, key=seconds.__getitem__), "seconds": seconds}
