"""IDX files in a folder, gzipped or not, named as those of MNIST, EMNIST and QMNIST."""

import math
import os
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from twostage_jax.data.names import Meaning, assign, listed, parse, partner
from twostage_jax.data.pixels import Array, Scale
from twostage_jax.data.raw import EMNIST, Part, Raw, as_source
from twostage_jax.data.source import Source
from twostage_jax.errors import UserError
from twostage_jax.files import check_expanded, open_regular

FILES = {  # as TensorFlow Datasets names them
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}  # third byte of a file
IDX_WORD = re.compile(r"idx\d?|ubyte|byte|short|int|float|double|gz")
GZIP_MAGIC = b"\x1f\x8b"
GZIP_FORMAT = 16 + zlib.MAX_WBITS  # zlib's number for "a gzip header, and no other"
READ_SIZE = 2**16
QMNIST_COLUMNS = 8  # class, and where the digit comes from


class File(NamedTuple):
    """A file of a set: the set's name, or `""`, and the meaning of the file's name."""

    path: Path
    set: str
    meaning: Meaning


def read(folder: Path, trained: Scale | None = None) -> Source:
    """Read the splits in `folder`, whose files `names.parse` finds by their names.

    Args:
        folder: folder with the files. If it has several sets, `folder/NAME` selects the set whose
            files begin with NAME.
        trained: as for `as_source`.

    Raises:
        UserError: a file that is missing, truncated, corrupted or not in the format, or several
            sets.
    """
    chosen = ""
    if not folder.exists() and folder.parent.is_dir():
        folder, chosen = folder.parent, folder.name
    if not folder.is_dir():
        raise UserError(f"there is no directory {folder}: give idx:DIR with the four IDX files")
    paths = sorted(path for path in folder.iterdir() if not path.is_dir())
    files = _choose_set([file for path in paths if (file := _parse(path))], folder, chosen)
    by_name = {file.path.name: file for file in _without_copies(files)}
    meanings = {name: file.meaning for name, file in by_name.items()}
    slots, _ = assign(meanings, str(folder))
    notes: list[str] = []
    parts = {}
    for part, kinds in slots.items() or [("train", {})]:
        has_labels = part != "unlabelled"
        missing = [kind for kind in ("image", "label")[: 1 + has_labels] if kind not in kinds]
        if missing:
            raise UserError(_missing(folder, part, kinds, missing))
        arrays = {kind: _read(by_name[name].path, notes) for kind, name in kinds.items()}
        parts[part] = Part(**arrays)
    used = {name for kinds in slots.values() for name in kinds.values()}
    name = (files[0].set if files else "") or folder.resolve().name
    if "emnist" in name:
        notes.append(EMNIST)
    unused = [p.name for p in paths if p.name not in used and not p.name.startswith(".")]
    return as_source(Raw(name, parts, unused=tuple(unused), notes=tuple(notes)), trained)


def _parse(path: Path) -> File | None:
    meaning = parse(path.name)
    if meaning is None or meaning.kind not in ("image", "label"):
        return None
    words = [word for word in meaning.rest if not IDX_WORD.fullmatch(word)]
    is_idx = any(word.startswith("idx") for word in meaning.rest)
    return File(path, "-".join(words), meaning) if is_idx else None


def _choose_set(files: list[File], folder: Path, chosen: str) -> list[File]:
    names = sorted({file.set for file in files})
    if chosen and chosen not in names:
        have = f", and {folder} has the sets {listed(filter(None, names))}" if any(names) else ""
        raise UserError(
            f"there is no directory {folder / chosen}{have}: give idx:DIR with the four IDX files"
        )
    if not chosen and len(names) > 1:
        words = [name or "one without a name" for name in names]
        raise UserError(
            f"{folder} has the files of several sets, {listed(words)}: choose one, for instance "
            f"with idx:{folder / (names[0] or names[1])}, or move the others to another directory"
        )
    return [file for file in files if file.set == (chosen or names[0])] if names else []


def _without_copies(files: list[File]) -> list[File]:
    """Keep one of several files that differ in `.gz` or in a dot or dash before `idx`."""
    kept: dict[tuple[str, str], File] = {}
    for file in sorted(files, key=lambda file: (".idx" in file.path.name, file.path.suffix)):
        kept.setdefault((file.meaning.kind, file.meaning.part), file)
    return list(kept.values())


def _missing(folder: Path, part: str, kinds: Mapping[str, str], missing: list[str]) -> str:
    """Return the message on files that are missing beside others of their split."""
    if kinds:
        (present,) = kinds.values()
        name = present.removesuffix(".gz")
        axes = ("idx3", "idx1") if "label" in missing else ("idx1", "idx3")
        wanted = [partner(name).replace(*axes)]
    else:
        wanted = list(FILES[part])
    return f"{folder} has no {' and no '.join(wanted)}: put them there, plain or with .gz"


def _read(path: Path, notes: list[str]) -> Array:
    """Read one file; QMNIST's labels have the class in the first of their columns."""
    array = read_array(path)
    with open_regular(path) as file:
        gzipped = file.read(2) == GZIP_MAGIC
    if gzipped != (path.suffix == ".gz"):
        words = ("", "does not end") if gzipped else ("not ", "ends")
        notes.append(f"{path.name} is {words[0]}compressed, although its name {words[1]} with .gz")
    if array.shape[1:] == (QMNIST_COLUMNS,) and "qmnist" in path.name.lower():
        notes.append(f"{path.name}: the first of its {QMNIST_COLUMNS} columns is used as the label")
        array = array[:, 0]
    return Array(array, str(path))


def read_array(path: Path) -> np.ndarray:
    """Read the array in one IDX file; its first bytes tell whether it is gzipped.

    Raises:
        UserError: not a regular file, a wrong magic number, a size that differs from the header, a
            corrupted gzip stream, several gzip streams in one file, or a header that announces
            more bytes than `check_expanded` allows.
        OSError: a file that cannot be opened or read.
    """
    try:
        with open_regular(path) as file:
            gzipped = file.read(2) == GZIP_MAGIC
            file.seek(0)
            return _read_array(file, path, gzipped)
    except UserError:
        raise
    except (ValueError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}; fetch it again") from error


def _read_array(file: BinaryIO, path: Path, gzipped: bool) -> np.ndarray:
    stream = GzipStream(file, path) if gzipped else file
    dtype, shape = _read_header(stream, path)
    expected = math.prod(shape) * dtype.itemsize
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
            f"{path} announces {expected} bytes for {list(shape)} and has {actual}: it is "
            "corrupted; fetch it again"
        )
    return np.frombuffer(content, dtype).reshape(shape)


def _read_header(stream: "BinaryIO | GzipStream", path: Path) -> tuple[np.dtype, tuple[int, ...]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not magic[3]:
        raise UserError(
            f"{path} starts with {magic.hex() or 'nothing'}, not with the magic number of an IDX "
            "file (0000, the type of its values, and the number of axes): give the original file"
        )
    axes = magic[3]
    header = stream.read(4 * axes)
    if len(header) < 4 * axes:
        raise UserError(f"{path} is truncated in its header: fetch it again")
    return np.dtype(TYPES[magic[2]]), struct.unpack(f">{axes}I", header)


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
