"""The four MNIST-style files in a folder, gzipped or not."""

import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from twostage_jax.data.arrays import as_split
from twostage_jax.data.source import Source
from twostage_jax.data.split import Split
from twostage_jax.errors import UserError
from twostage_jax.files import check_expanded, open_regular

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
MAGIC = b"\0\0\x08"  # of unsigned bytes; the number of axes comes behind it
GZIP_FORMAT = 16 + zlib.MAX_WBITS  # zlib's number for "a gzip header, and no other"
READ_SIZE = 2**16


def read(folder: Path) -> Source:
    """Read train and test split from `folder`; without test files there is no test split.

    Raises:
        UserError: a file that is missing, truncated, corrupted or not in the format.
    """
    if not folder.is_dir():
        raise UserError(f"there is no directory {folder}: give idx:DIR with the four IDX files")
    train = _read_split(folder, "train")
    test = None
    if any(_find(folder, name) for name in FILES["test"]):
        test = _read_split(folder, "test")
    return Source(folder.resolve().name, train, test)


def _read_split(folder: Path, split: str) -> Split:
    paths = {name: _find(folder, name) for name in FILES[split]}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise UserError(
            f"{folder} has no {' and no '.join(missing)}: put them there, plain or with .gz"
        )
    image, label = (read_array(path) for path in paths.values() if path)
    return as_split(image, label, *map(str, paths.values()))


def _find(folder: Path, name: str) -> Path | None:
    dotted = name.replace("-idx", ".idx")
    candidates = [folder / (base + end) for base in (name, dotted) for end in ("", ".gz")]
    # Some tools unpack each file into a directory of its name; the file may lie beside it.
    return next((path for path in candidates if path.exists() and not path.is_dir()), None)


def read_array(path: Path, gzipped: bool | None = None) -> np.ndarray:
    """Read the array of unsigned bytes in one IDX file; by default the ending `.gz` decides.

    Raises:
        UserError: not a regular file, a wrong magic number, a size that differs from the header, a
            corrupted gzip stream, several gzip streams in one file, or a header that announces
            more bytes than `check_expanded` allows.
        OSError: a file that cannot be opened or read.
    """
    if gzipped is None:
        gzipped = path.suffix == ".gz"
    try:
        with open_regular(path) as file:
            return _read_array(file, path, gzipped)
    except UserError:
        raise
    except (ValueError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}; fetch it again") from error


def _read_array(file: BinaryIO, path: Path, gzipped: bool) -> np.ndarray:
    stream = GzipStream(file, path) if gzipped else file
    shape = _read_shape(stream, path)
    expected = math.prod(shape)
    size = os.fstat(file.fileno()).st_size
    if gzipped:
        check_expanded(path, expected, size, "unpack it with gunzip and remove the .gz")
    # `read(n)` of a plain file allocates n bytes at once, so its size is a limit too. One byte more
    # than expected, to notice a file that is too long.
    limit = expected if gzipped else min(expected, size)
    content = stream.read(limit + 1)
    if len(content) != expected:
        actual = f"only {len(content)}" if len(content) < expected else "more"
        raise UserError(
            f"{path} announces {expected} values {list(shape)} and has {actual}: it is corrupted; "
            "fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_shape(stream: "BinaryIO | GzipStream", path: Path) -> tuple[int, ...]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:3] != MAGIC or not magic[3]:
        raise UserError(
            f"{path} starts with {magic.hex() or 'nothing'}, not with the magic number of an IDX "
            "file of unsigned bytes (000008 and the number of axes): give the original file"
        )
    axes = magic[3]
    header = stream.read(4 * axes)
    if len(header) < 4 * axes:
        raise UserError(f"{path} is truncated in its header: fetch it again")
    return struct.unpack(f">{axes}I", header)


class GzipStream:
    """Bytes of a file with one gzip stream, read forward; its checksum is verified at the end.

    Python's own `gzip` parses a header byte by byte, so a file name of 100 MB in it takes a minute.
    zlib alone takes time and memory proportional to the bytes that are asked for. Files of several
    concatenated gzip streams are refused.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._inflate = zlib.decompressobj(GZIP_FORMAT)

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer at the end of the stream.

        Raises:
            UserError: more data after the stream.
            ValueError, zlib.error: a corrupted or truncated file.
        """
        content = bytearray()
        while len(content) < size and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(READ_SIZE)
            piece = self._inflate.decompress(packed, size - len(content))
            # zlib may still hold output back when the file has ended: try once more without input.
            if not packed and not piece and not self._inflate.eof:
                raise ValueError("the file ends before its gzip stream does")
            content += piece
        if self._inflate.eof and (self._inflate.unused_data or self._file.read(1)):
            raise UserError(
                f"{self._path} has more data after its gzip stream, which is not supported: unpack "
                "it with gunzip and remove the .gz"
            )
        return bytes(content)
