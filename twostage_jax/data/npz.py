"""Images and labels in a NumPy archive, under the names of Keras or as `image` and `label`."""

import math
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from twostage_jax.data.arrays import as_split
from twostage_jax.data.source import Source
from twostage_jax.data.split import Split
from twostage_jax.errors import UserError
from twostage_jax.files import MIB, check_expanded, open_regular

KERAS = ("x_train", "y_train", "x_test", "y_test")
PLAIN = ("image", "label")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the two that NumPy writes
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
READ_LIMIT = 4 * MIB  # a list of four members takes some hundred bytes
AGAIN = "save it again with numpy.savez"


def read(path: Path) -> Source:
    """Read the train split of `path` and, with the names of Keras, its test split.

    Raises:
        UserError: as `read_arrays`, or values that are not images and labels.
    """
    arrays = read_arrays(path)
    if KERAS[0] not in arrays:
        return Source(path.stem, _make_split(arrays, *PLAIN, path))
    train = _make_split(arrays, *KERAS[:2], path)
    test = _make_split(arrays, *KERAS[2:], path)
    return Source(path.stem, train, test)


def _make_split(arrays: dict[str, np.ndarray], x: str, y: str, path: Path) -> Split:
    return as_split(arrays[x], arrays[y], f"{path}: {x}", f"{path}: {y}")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the numeric arrays named as in Keras, or `image` and `label`; nothing is unpickled.

    Raises:
        UserError: a corrupted file, a directory, pipe or device, missing arrays, or more bytes than
            `check_expanded` allows.
        OSError: a file that does not exist or cannot be opened.
    """
    try:
        with open_regular(path) as file:
            if file.read(6) == b"\x93NUMPY":
                raise UserError(
                    f"{path} holds a single array: save images and labels together with numpy.savez"
                )
            with zipfile.ZipFile(BoundedFile(file)) as archive:
                return _read_members(archive, path)
    except (UserError, OSError):
        raise
    except Exception as error:  # zipfile and numpy raise a dozen types of errors, some without text
        reason = str(error) or type(error).__name__
        raise UserError(f"cannot read {path}: {reason}; {AGAIN}") from error


class BoundedFile:
    """A file for `zipfile` that returns at most a few MB per read.

    `zipfile` reads the list of members in one go, and a hostile file announces a list of any size.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell
        self.seekable = file.seekable

    def read(self, size: int = -1) -> bytes:
        """Read like a file; raise `ValueError` for more than `READ_LIMIT` bytes."""
        if not 0 <= size <= READ_LIMIT:
            size = READ_LIMIT + 1
        content = self._file.read(size)
        if len(content) > READ_LIMIT:
            raise ValueError("its list of members is too long for a NumPy archive")
        return content


def _read_members(archive: zipfile.ZipFile, path: Path) -> dict[str, np.ndarray]:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    names = KERAS if any(name in members for name in KERAS) else PLAIN
    missing = [name for name in names if name not in members]
    if missing:
        raise UserError(
            f"{path} has the arrays {', '.join(members) or 'none'} and lacks {', '.join(missing)}: "
            f"name them {', '.join(KERAS)}, or {', '.join(PLAIN)}"
        )
    announced = sum(members[name].file_size for name in names)
    size = os.stat(path).st_size
    check_expanded(path, announced, size, "save it uncompressed with numpy.savez")
    # All headers are checked before the values of any array are read.
    for name in names:
        _check_member(archive, members[name], f"{path}: {name}")
    return {name: _read_array(archive, members[name]) for name in names}


def _check_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> None:
    """Raise `UserError` unless a member is a plain array of numbers; its values are not read."""
    # zipfile would unpack LZMA too, whose header demands memory of any size.
    if info.compress_type not in METHODS:
        raise UserError(f"{where} is packed in another way than NumPy's: {AGAIN}")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in HEADERS:
            raise ValueError(f"version {version} of NumPy's format is not used for numbers")
        shape, _, dtype = HEADERS[version](member)
        actual = info.file_size - member.tell()
    if dtype.kind not in "iuf":
        raise UserError(
            f"{where} has values of type {dtype}: give numbers; Python objects are never unpickled"
        )
    size = math.prod(shape) * dtype.itemsize
    # Two negative lengths have a positive product.
    if min(shape, default=0) < 0 or size != actual:
        raise UserError(
            f"{where} announces {size:,} bytes and holds {actual:,}: it is corrupted; {AGAIN}"
        )


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        # zipfile verifies the checksum of a member only when its end is read.
        if member.read(1):
            raise ValueError(f"{info.filename} has more data after its array")
    return array
