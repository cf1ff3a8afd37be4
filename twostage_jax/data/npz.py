"""Images and labels from a NumPy archive, as Keras names the arrays or as `image` and `label`."""

import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from twostage_jax.data.dataset import Source
from twostage_jax.data.split import Split
from twostage_jax.errors import UserError
from twostage_jax.files import MIB, check_expanded, open_regular

KERAS = ("x_train", "y_train", "x_test", "y_test")
PLAIN = ("image", "label")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes
MOST_AT_ONCE = 4 * MIB
ENCRYPTED = 0x1
SLICE = 4096  # images converted at a time


def read(path: Path) -> Source:
    """Train and, with the names of Keras, test part of `path`.

    Raises:
        UserError: as `read_arrays`, and values that are no images or labels.
    """
    arrays = read_arrays(path)
    names = KERAS if KERAS[0] in arrays else PLAIN
    parts = [
        _part(arrays[x], arrays[y], f"{path}: {x}", f"{path}: {y}")
        for x, y in zip(names[::2], names[1::2], strict=True)
    ]
    return Source(path.stem, parts[0], parts[1] if len(parts) == 2 else None)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of numbers named as Keras does, or `image` and `label`; nothing is unpickled.

    Raises:
        UserError: a missing or broken file, a directory, pipe or device, missing arrays, more bytes
            than a file of that size can honestly expand to.
    """
    if not path.exists():
        raise UserError(f"there is no file {path}: give npz:FILE with a NumPy archive")
    try:
        with open_regular(path) as file:
            _check_kind(file.read(8), path)
            with zipfile.ZipFile(_Sober(file)) as archive:
                return _read_members(archive, path)
    except UserError:
        raise
    except Exception as error:  # zipfile and numpy raise a dozen kinds, by where the damage is
        reason = str(error) or type(error).__name__
        raise UserError(f"cannot read {path}: {reason}; save it again with numpy.savez") from error


class _Sober:
    """A file for `zipfile` that gives no more than a few MB at once.

    What is read in one go is the list of members, as long as the file says it is.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_AT_ONCE:
            size = MOST_AT_ONCE + 1
        content = self._file.read(size)
        if len(content) > MOST_AT_ONCE:
            raise ValueError("its list of members is too long for a NumPy archive")
        return content


def _check_kind(start: bytes, path: Path) -> None:
    if start.startswith(b"\x93NUMPY"):
        raise UserError(f"{path} holds a single array: save both with numpy.savez")
    if not start.startswith(b"PK"):
        raise UserError(
            f"cannot read {path}: it is no NumPy archive, it starts with "
            f"{start.hex() or 'nothing'}; save it with numpy.savez"
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
    packed = os.stat(path).st_size
    check_expanded(path, announced, packed, "save it uncompressed with numpy.savez")
    for name in names:
        _check_member(archive, members[name], f"{path}: {name}")
    return {name: _array(archive, members[name]) for name in names}


def _check_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> None:
    """Raise `UserError` where a member is no plain array of numbers; its values are not read."""
    if info.compress_type not in METHODS or info.flag_bits & ENCRYPTED:
        raise UserError(f"{where} is encrypted or packed in another way than NumPy's")
    with archive.open(info) as member:
        shape, dtype, start = _header(member)
    if dtype.hasobject:
        raise UserError(
            f"cannot read {where}: it has an array of objects, which we never unpickle: save plain "
            "numbers"
        )
    if dtype.kind not in "biuf":
        raise UserError(
            f"{where} has shape {shape} of {dtype}: numbers are expected, as labels one whole "
            "number for each example"
        )
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or start + size != info.file_size:
        raise UserError(
            f"{where} announces {size:,} bytes and holds {info.file_size - start:,}: it is "
            "damaged; save it again with numpy.savez"
        )


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, int]:
    version: Any = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(member)
    else:
        raise ValueError(f"version {version} of NumPy's format is not one for numbers")
    return shape, dtype, member.tell()


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):  # only at its end is a member's check sum compared
            raise ValueError(f"{info.filename} goes on after its array")
    return array


def _part(image: np.ndarray, label: np.ndarray, x: str, y: str) -> Split:
    images, labels = as_images(image, x), as_labels(label, y)
    if len(images) != len(labels):
        raise UserError(
            f"{x} has {len(images)} examples and {y} has {len(labels)}: the counts must agree"
        )
    return {"image": images, "label": labels}


def as_images(image: np.ndarray, where: str) -> np.ndarray:
    """`[N, H, W]` or `[N, H, W, C]`, integers in 0..255 or floats in 0..1, as uint8 with C.

    Raises:
        UserError: another number of axes, type or range; `where` names the array in the message.
    """
    if image.ndim not in (3, 4) or 0 in image.shape[1:]:
        raise UserError(f"{where} has shape {image.shape}: [N, H, W] or [N, H, W, C] is expected")
    low, high = (image.min(), image.max()) if image.size else (0, 0)
    if np.issubdtype(image.dtype, np.floating):
        if not (low >= 0 and high <= 1):
            raise UserError(
                f"{where} has floats from {low} to {high}: floats must lie in 0 to 1; scale them, "
                "or save uint8 values in 0 to 255"
            )
        image = _as_bytes(image)
    elif not np.issubdtype(image.dtype, np.integer) or low < 0 or high > 255:
        raise UserError(
            f"{where} has {image.dtype} values from {low} to {high}: integers in 0 to 255 or "
            "floats in 0 to 1 are expected"
        )
    image = image.astype(np.uint8, copy=False)
    return image if image.ndim == 4 else image[..., None]


def _as_bytes(image: np.ndarray) -> np.ndarray:
    """Floats in 0..1 as uint8, slice by slice: a whole copy in floats may not fit."""
    found = np.empty(image.shape, np.uint8)
    for start in range(0, len(image), SLICE):
        found[start : start + SLICE] = np.round(image[start : start + SLICE] * 255)
    return found


def as_labels(label: np.ndarray, where: str) -> np.ndarray:
    """`[N]` or `[N, 1]` whole numbers from 0, as int32 `[N]`.

    Raises:
        UserError: anything else; `where` names the array in the message.
    """
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    whole, real = np.issubdtype(label.dtype, np.integer), np.issubdtype(label.dtype, np.floating)
    if label.ndim != 1 or not (whole or real):
        raise UserError(
            f"{where} has shape {label.shape} of {label.dtype}: one whole number for each example "
            "is expected, [N]"
        )
    if not np.array_equal(label, np.floor(label)):
        odd = label[label != np.floor(label)][0]
        raise UserError(f"{where} has label {odd}: labels must be whole numbers from 0")
    # As Python's numbers: 2**31 is more than a float16 can be.
    if label.size and not 0 <= label.min().item() <= label.max().item() < 2**31:
        odd = label.min() if label.min() < 0 else label.max()
        raise UserError(f"{where} has label {odd}, out of range: labels must be 0 to K-1")
    return label.astype(np.int32)
