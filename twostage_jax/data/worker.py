"""Decode images into a file: in this process, or as `python -m twostage_jax.data.worker`.

Several such processes decode on all cores. They are programs of their own, because a fork of a
process with threads can hang, and a spawned one would run the user's script again.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostage_jax.data.decode import BrokenImage, Form, decode


class Task(NamedTuple):
    """Files of successive rows.

    Attributes:
        start: row of the first file.
        files: paths.
    """

    start: int
    files: list[str]


class BrokenRow(NamedTuple):
    """Row and reason of a file that cannot be decoded, and `BrokenImage.transient`."""

    row: int
    reason: str
    transient: bool = False


def decode_task(output: int, task: Task, form: Form, limit: int) -> list[BrokenRow]:
    """Decode files into their rows of a file of uint8 `[N, H, W, C]`.

    Args:
        output: descriptor of the file.
        task: files and rows.
        form: form of all images.
        limit: largest number of pixels of an image.

    Returns:
        Files that cannot be decoded; their rows are zero.

    Raises:
        OSError: a full disk.
    """
    images = np.zeros((len(task.files), *form[:3]), np.uint8)
    broken = []
    for index, file in enumerate(task.files):
        try:
            images[index] = decode(Path(file), form, limit)
        except BrokenImage as error:
            broken.append(BrokenRow(task.start + index, str(error), error.transient))
    content = images.reshape(-1).data
    offset = task.start * images[:1].nbytes
    while len(content):
        # Not a memory map: on a full disk it would kill the process instead of an error.
        written = os.pwrite(output, content, offset)
        content = content[written:]
        offset += written
    return broken


def main(arguments: Sequence[str]) -> None:
    """Answer lines of tasks on standard input by lines of results, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    output, values, limit = json.loads(arguments[0])
    form = Form(*values)
    for line in sys.stdin:
        try:
            answer: object = decode_task(output, Task(*json.loads(line)), form, limit)
        except OSError as error:
            answer = error.strerror or str(error)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
