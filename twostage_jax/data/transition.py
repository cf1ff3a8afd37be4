"""Transition matrices of label noise in files: comma-separated values or a NumPy array."""

import io
import math
from pathlib import Path

import numpy as np

from twostage_jax.data.npz import HEADERS
from twostage_jax.errors import UserError
from twostage_jax.files import read_bytes, read_text

LIMIT = 64 * 2**20  # bytes: a matrix of 2,800 classes


def read_transition(path: Path) -> np.ndarray:
    """Read a matrix of numbers from a `.npy` file, or from lines of comma-separated values.

    Raises:
        UserError: a file that cannot be read, or is not a matrix of numbers.
    """
    try:
        if path.suffix == ".npy":
            matrix = _read_array(path)
        else:
            lines = read_text(path, LIMIT, regular=True).split("\n")
            matrix = np.array([list(map(float, line.split(","))) for line in lines if line.strip()])
    except (ValueError, OSError, EOFError) as error:
        raise UserError(
            f"--transition {path} is not a matrix of numbers ({error}): give a .npy array or a "
            "line of comma-separated numbers for each true class"
        ) from error
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise UserError(
            f"--transition {path} is {matrix.dtype} {list(matrix.shape)}: give a matrix of numbers"
        )
    return matrix.astype(np.float64)


def _read_array(path: Path) -> np.ndarray:
    content = read_bytes(path, LIMIT, regular=True)
    file = io.BytesIO(content)
    header = HEADERS.get(np.lib.format.read_magic(file))
    if header is None:
        raise ValueError("an unknown version of NumPy's format")
    shape, fortran, dtype = header(file)
    values = content[file.tell() :]
    # The header of a hostile file can announce any size, or objects to unpickle.
    if dtype.kind not in "fiu" or len(values) != dtype.itemsize * math.prod(shape):
        raise ValueError("not a plain array of numbers")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if fortran else "C")
