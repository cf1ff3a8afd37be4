"""Images and labels in a NumPy archive, under any of the usual names."""

import math
import os
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from twostage_jax.data.names import Meaning, Slots, assign, listed, parse, partner
from twostage_jax.data.pixels import Array, Scale
from twostage_jax.data.raw import Part, Raw, as_source
from twostage_jax.data.source import Source
from twostage_jax.data.targets import read_class_names
from twostage_jax.errors import UserError
from twostage_jax.files import MIB, check_expanded, open_regular

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the two that NumPy writes
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
READ_LIMIT = 4 * MIB  # a list of four members takes some hundred bytes
AGAIN = "save it again with numpy.savez"
NAMES = "image, label or x_train, y_train, x_test, y_test"
UNNAMED = re.compile(r"arr_\d+")  # arrays that numpy.savez got without names


class Arrays(dict[str, np.ndarray]):
    """Arrays of an archive by name, and the names of the members that were not read."""

    unused: tuple[str, ...] = ()


def read(path: Path, trained: Scale | None = None) -> Source:
    """Read the splits of `path`, which `names.parse` finds by the names of the arrays.

    Args:
        path: the file.
        trained: as for `as_source`.

    Raises:
        UserError: as `read_arrays`, or values that are not images and labels.
    """
    arrays = read_arrays(path)
    meanings = {name: meaning for name in arrays if (meaning := _meaning(name))}
    if not meanings:
        meanings = _by_shape(arrays, path)
    classes = [name for name, meaning in meanings.items() if meaning.kind == "classes"]
    if len(classes) > 1:
        raise UserError(f"{path} has {' and '.join(classes)}, which are both class names: keep one")
    unused = [*arrays.unused, *(name for name in arrays if name not in meanings)]
    for name in classes:
        del meanings[name]
    slots, copies = assign(meanings, str(path))
    _check_pairs(slots, path)
    named = {name: Array(values, f"{path}: {name}") for name, values in arrays.items()}
    parts = {
        part: Part(**{kind: named[name] for kind, name in kinds.items()})
        for part, kinds in slots.items()
    }
    names = read_class_names(named[classes[0]]) if classes else ()
    return as_source(Raw(path.stem, parts, names, tuple(sorted(unused + copies))), trained)


def _check_pairs(slots: Slots, path: Path) -> None:
    """Raise `UserError` for labels without images, or for one split without labels."""
    has_labels = any("label" in kinds for kinds in slots.values())
    for part, kinds in slots.items():
        if "image" not in kinds:
            name = kinds.get("label") or kinds["weight"]
            raise UserError(f"{path} has {name} and lacks {partner(name)}: add the images")
        if "label" not in kinds and has_labels and part != "unlabelled":
            name = kinds["image"]
            raise UserError(
                f"{path} has {name} and lacks {partner(name)}: add the labels, or name the array "
                "unlabelled"
            )


def _meaning(name: str) -> Meaning | None:
    meaning = parse(name)
    # `image_mean` and `label_weights` are not read; `sample_weight` is.
    return meaning if meaning and meaning.rest in ((), ("sample",)) else None


def _by_shape(arrays: Arrays, path: Path) -> dict[str, Meaning]:
    """Return the meaning of arrays without names, if their shapes leave no doubt."""
    lists = [name for name, x in arrays.items() if x.ndim == 1 or x.shape[1:] == (1,)]
    images = [name for name, x in arrays.items() if x.ndim > 1 and name not in lists]
    sizes = [len(arrays[name]) for name in images]
    # The larger pair is the train split, which is always saved first.
    is_ordered = len(sizes) == 1 or (len(sizes) == 2 and sizes[0] > sizes[1])
    if not is_ordered or sizes != [len(arrays[name]) for name in lists]:
        shapes = listed(f"{name} {list(values.shape)}" for name, values in arrays.items())
        raise UserError(
            f"{path} has arrays without names ({shapes}), and their shapes do not tell images from "
            f"labels: name them {NAMES}"
        )
    meanings = {}
    for kind, names in (("image", images), ("label", lists)):
        for part, name in zip(("train", "test"), names, strict=False):
            meanings[name] = Meaning(kind, part, ())
    return meanings


def read_arrays(path: Path) -> Arrays:
    """Read the arrays with known names, or those without names.

    Raises:
        UserError: as `read_archive`, or no array with such a name.
        OSError: a file that does not exist or cannot be opened.
    """
    return read_archive(path, lambda members: _choose_names(members, path))


def read_archive(path: Path, choose: Callable[[Iterable[str]], Iterable[str]] = tuple) -> Arrays:
    """Read the arrays that `choose` selects among all names, by default all of them.

    Nothing is unpickled.

    Raises:
        UserError: a corrupted file, a directory, pipe or device, or more bytes than
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
                return _read_members(archive, path, choose)
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


def _choose_names(members: Iterable[str], path: Path) -> list[str]:
    """Return the names with a meaning, or those that NumPy gives if there are none."""
    members = list(members)
    kinds = {name: meaning.kind for name in members if (meaning := _meaning(name))}
    names = list(kinds)
    if not {"image", "label"} & set(kinds.values()):
        names = [name for name in members if UNNAMED.fullmatch(name)]
    if not names:
        raise UserError(
            f"{path} has the arrays {listed(members) or 'none'} and lacks images: name the arrays "
            f"{NAMES}"
        )
    return names


def _read_members(
    archive: zipfile.ZipFile, path: Path, choose: Callable[[Iterable[str]], Iterable[str]]
) -> Arrays:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    names = list(choose(members))
    announced = sum(members[name].file_size for name in names)
    size = os.stat(path).st_size
    check_expanded(path, announced, size, "save it uncompressed with numpy.savez")
    # All headers are checked before the values of any array are read.
    for name in names:
        _check_member(archive, members[name], f"{path}: {name}")
    arrays = Arrays({name: _read_array(archive, members[name]) for name in names})
    arrays.unused = tuple(name for name in members if name not in arrays)
    return arrays


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
    if dtype.kind not in "biufUS" or not dtype.itemsize:
        raise UserError(
            f"{where} has values of type {dtype}: give numbers or text, such as np.array(x, "
            "dtype=str); Python objects are never unpickled"
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
