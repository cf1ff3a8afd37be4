"""Orbax: arrays of a checkpoint to and from files. The only importer of Orbax.

It is imported by the first function that needs it, because its import takes 0.2 s: the thread that
writes checkpoints then imports it while the device trains.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from twostage_jax.errors import UserError
from twostage_jax.files import read_json
from twostage_jax.trees import PyTree

METADATA = "_CHECKPOINT_METADATA"
UNFINISHED = ".orbax-checkpoint-tmp"  # Orbax appends this to the name until it is done


def save(path: Path, trees: Mapping[str, PyTree]) -> None:
    """Write trees of arrays, by name, to a new folder; any error may be raised."""
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    # Orbax measures its timeout by the wall clock, which may jump, but by less than 30 years.
    context.asynchronous.timeout_secs = 10**9
    # Otherwise Orbax creates folders in the background, after a rename of the run's folder too.
    context.asynchronous.create_directories_asynchronously = False
    with context:
        # Orbax rejects relative paths.
        ocp.save_checkpointables_async(str(path.absolute()), dict(trees)).result()


def check_complete(path: Path) -> None:
    """Raise OSError if the metadata is missing: on a full disk, Orbax may not notice."""
    try:
        read_json(path / METADATA)
    except UserError as error:
        raise OSError("some files were not written; the disk may be full") from error


def load(path: Path, expected: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Read the trees that `expected` names, as NumPy arrays; any error may be raised."""
    from orbax.checkpoint import v1 as ocp

    templates = jax.tree.map(_template, dict(expected))
    loaded = ocp.load_checkpointables(str(path.absolute()), templates)
    return {name: loaded[name] for name in expected}


def _template(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    # Orbax returns NumPy arrays for NumPy templates; a broadcast zero takes no memory.
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def reason(error: BaseException) -> str:
    """Message of the operating system inside the pages that TensorStore adds to it."""
    text = str(error)
    number = re.search(r"(?:Errno |OS error |os_error_code=')(\d{1,4})\b", text)
    if number:
        return os.strerror(int(number[1]))
    return " ".join(text.split())[:200] or type(error).__name__


# We raise the first failure of a save as one sentence. Orbax logs pages about it, asyncio reports
# the other failed writes whenever they are garbage-collected, and TensorStore reports them to
# Orbax's event loop, which is closed by then. These three reports are dropped, and no others.
def _is_shown(record: logging.LogRecord) -> bool:
    by_orbax = f"{os.sep}orbax{os.sep}" in record.pathname
    return not by_orbax and "OCDBT" not in f"{record.getMessage()} {record.exc_info}"


def _report(
    unraisable: "sys.UnraisableHookArgs",
    report: Callable[["sys.UnraisableHookArgs"], object] = sys.unraisablehook,
) -> None:
    if unraisable.object is not None or str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)


for _name in ("absl", "asyncio"):
    logging.getLogger(_name).addFilter(_is_shown)
sys.unraisablehook = _report
