"""Images and labels in a NumPy archive, under the names of Keras or as `image` and `label`."""

import math
import os
import zipfile
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from twostage_jax.data.arrays import as_images, as_labels
from twostage_jax.data.dataset import Source
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
ENCRYPTED = 0x1
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
    image = as_images(arrays[x], f"{path}: {x}")
    label = as_labels(arrays[y], f"{path}: {y}")
    if len(image) != len(label):
        raise UserError(
            f"{path}: {x} has {len(image)} examples and {path}: {y} has {len(label)}: give as many "
            "labels as images"
        )
    return {"image": image, "label": label}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the numeric arrays named as in Keras, or `image` and `label`; nothing is unpickled.

    Raises:
        UserError: a missing or corrupted file, a directory, pipe or device, missing arrays, or more
            bytes than `check_expanded` allows.
    """
    if not path.exists():
        raise UserError(f"there is no file {path}: give npz:FILE with a NumPy archive")
    try:
        with open_regular(path) as file:
            _check_kind(file.read(8), path)
            with zipfile.ZipFile(BoundedFile(file)) as archive:
                return _read_members(archive, path)
    except UserError:
        raise
    except Exception as error:  # zipfile and numpy raise a dozen types of errors, some without text
        raise UserError(
            f"cannot read {path}: {str(error) or type(error).__name__}; {AGAIN}"
        ) from error


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


def _check_kind(start: bytes, path: Path) -> None:
    if start.startswith(b"\x93NUMPY"):
        raise UserError(
            f"{path} holds a single array: save images and labels together with numpy.savez"
        )
    if not start.startswith(b"PK"):
        raise UserError(
            f"cannot read {path}: it starts with {start.hex() or 'nothing'}, so it is not a NumPy "
            "archive; save it with numpy.savez"
        )


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
    if info.compress_type not in METHODS or info.flag_bits & ENCRYPTED:
        raise UserError(f"{where} is encrypted or packed in another way than NumPy's: {AGAIN}")
    with archive.open(info) as member:
        shape, dtype = _read_header(member)
        content_size = info.file_size - member.tell()
    if dtype.hasobject:
        raise UserError(
            f"cannot read {where}: it is an array of Python objects, which we never unpickle; save "
            "plain numbers"
        )
    if dtype.kind not in "biuf":
        raise UserError(
            f"{where} has shape {shape} of {dtype}: give numbers; as labels, one whole number for "
            "each example"
        )
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size != content_size:
        raise UserError(
            f"{where} announces {size:,} bytes and holds {content_size:,}: it is corrupted; {AGAIN}"
        )


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(member)
    if version not in HEADERS:
        raise ValueError(f"version {version} of NumPy's format is not used for numbers")
    shape, _, dtype = HEADERS[version](member)
    return shape, dtype


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        # zipfile verifies the checksum of a member only when its end is read.
        if member.read(1):
            raise ValueError(f"{info.filename} has more data after its array")
    return array
