"""The four MNIST-style files of a folder, gzipped or not."""

import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from twostage_jax.data.dataset import Source
from twostage_jax.data.gunzip import Gunzip
from twostage_jax.data.split import Split
from twostage_jax.errors import UserError
from twostage_jax.files import check_expanded, open_regular

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
UNSIGNED_BYTE = 0x08
MOST_AXES = 4


def read(folder: Path) -> Source:
    """Train and test part of `folder`; a folder without test files has no test part.

    Raises:
        UserError: a file that is missing, truncated, broken, or not in the format.
    """
    if not folder.is_dir():
        raise UserError(f"there is no directory {folder}: give idx:DIR with the four IDX files")
    train = _read_part(folder, "train")
    test = _read_part(folder, "test") if any(_find(folder, n) for n in FILES["test"]) else None
    return Source(folder.resolve().name, train, test)


def _read_part(folder: Path, part: str) -> Split:
    paths = {name: _find(folder, name) for name in FILES[part]}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise UserError(
            f"{folder} has no {' and no '.join(missing)}: put them there, plain or with .gz"
        )
    image, label = (read_array(path) for path in paths.values() if path)
    if image.ndim not in (3, 4) or label.ndim != 1:
        raise UserError(
            f"{folder} has {image.ndim} axes of images and {label.ndim} of labels in its {part} "
            "part: 3 or 4 and 1 are expected"
        )
    if 0 in image.shape[1:]:
        raise UserError(f"{folder} has {part} images {image.shape[1:]}: they are empty")
    if len(image) != len(label):
        raise UserError(
            f"{folder} has {len(image)} images and {len(label)} labels in its {part} part: the "
            "counts must agree; fetch the two files again"
        )
    image = image if image.ndim == 4 else image[..., None]
    return {"image": image, "label": label.astype(np.int32)}


def _find(folder: Path, name: str) -> Path | None:
    dotted = name.replace("-idx", ".idx")
    candidates = [folder / (base + end) for base in (name, dotted) for end in ("", ".gz")]
    # What unpacks each file into a directory of its name may leave the file beside it.
    return next((path for path in candidates if path.exists() and not path.is_dir()), None)


def read_array(path: Path, gzipped: bool | None = None) -> np.ndarray:
    """The array of unsigned bytes that one IDX file holds, by default gzipped if it ends in .gz.

    Nothing is read or expanded before its header agrees with the size of the file.

    Raises:
        UserError: no regular file, a wrong magic number, a size that differs from the header, a
            broken gzip, more bytes than a file of that size can honestly expand to.
    """
    try:
        gzipped = path.suffix == ".gz" if gzipped is None else gzipped
        with open_regular(path) as file:
            return _read_array(Gunzip(file) if gzipped else file, path, gzipped)
    except UserError:
        raise
    except (OSError, ValueError, zlib.error, MemoryError) as error:
        raise UserError(f"cannot read {path}: {error}; fetch it again") from error


def _read_array(file: "IO[bytes] | Gunzip", path: Path, gzipped: bool) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != UNSIGNED_BYTE or not magic[3]:
        raise UserError(
            f"{path} starts with {magic.hex() or 'nothing'}, not with the magic number of an IDX "
            "file of unsigned bytes (000008 and the number of axes): give the original file"
        )
    if magic[3] > MOST_AXES:
        raise UserError(
            f"{path} has {magic[3]} axes: images have 3 or 4 and labels 1; give the original file"
        )
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise UserError(f"{path} is truncated in its header: fetch it again")
    shape = struct.unpack(f">{magic[3]}I", header)
    expected, size = math.prod(shape), path.stat().st_size
    if gzipped:
        check_expanded(path, expected, size, "unpack it with gunzip and remove the .gz")
    elif size - 4 - len(header) != expected:
        # Before reading, because `read(n)` takes room for n bytes at once.
        raise UserError(_mismatch(path, shape, size - 4 - len(header)))
    content = file.read(expected + 1)
    if len(content) != expected:
        raise UserError(_mismatch(path, shape, len(content)))
    return np.frombuffer(content, np.uint8).reshape(shape)


def _mismatch(path: Path, shape: tuple[int, ...], found: int) -> str:
    expected = math.prod(shape)
    held = f"only {found}" if found < expected else "more"
    return (
        f"{path} announces {expected} values {list(shape)} and holds {held}: it is truncated or "
        "not whole; fetch it again"
    )
