"""Cells of a study: arrays that are computed once, written atomically and used on resumption."""

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from twostage_jax.data.npz import read_archive
from twostage_jax.errors import UserError
from twostage_jax.store.atomic import write_bytes

CELLS = "cells"  # default folder, in the folder of the study
Arrays = dict[str, np.ndarray]


class Cells:
    """Results of the parts of a study, one `.npz` file each in a folder.

    The settings of a study never change (`folder` checks them), so the name of a cell identifies
    its content. A corrupted file is reported and computed again.

    Args:
        folder: folder of the study.
        notice: prints a message about a corrupted cell.
        progress: called with the name of each cell that is computed.
        kind: name of the folder in `folder`.
    """

    def __init__(
        self,
        folder: Path,
        notice: Callable[[str], None],
        progress: Callable[[str], None] | None = None,
        kind: str = CELLS,
    ) -> None:
        self._folder = folder / kind
        self._notice = notice
        self._progress = progress

    def path(self, name: str) -> Path:
        """Return the file of a cell; `name` can contain any characters."""
        return self._folder / f"{cell_name(name)}.npz"

    def load(self, name: str) -> Arrays | None:
        """Return the arrays of a cell, or None if it has to be computed."""
        path = self.path(name)
        if not path.is_file():
            return None
        try:
            return dict(read_archive(path))
        except (OSError, UserError) as error:
            self._notice(f"{path} is computed again: {error}")
            return None

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays of a cell, completely or not at all."""
        self._folder.mkdir(exist_ok=True)
        write_bytes(self.path(name), npz_bytes(arrays))

    def compute(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Return the arrays of a cell; if it does not exist, call `make` and save the result."""
        arrays = self.load(name)
        if arrays is None:
            if self._progress:
                self._progress(name)
            arrays = make()
            self.save(name, arrays)
        return arrays


def cell_name(name: str) -> str:
    """File name of a cell or an arm: letters, digits, `.`, `_` and `-`.

    >>> cell_name("frozen:knn-100")
    'frozen-knn-100'
    """
    return re.sub(r"[^\w.-]+", "-", name)


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Content of a `.npz` file; each array has a checksum, which `data.npz` verifies."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()
