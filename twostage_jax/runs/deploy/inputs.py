"""Images to classify: files, folders, patterns, archives or a list of paths, as a stream."""

import glob
import io
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TextIO

import numpy as np
from PIL import Image

from twostage_jax.data.csv import list_rows
from twostage_jax.data.decode import MEGAPIXEL, PIXEL_LIMIT, BrokenImage, Form, decode
from twostage_jax.data.listing import find_images
from twostage_jax.data.names import listed, parse
from twostage_jax.data.npz import read_archive
from twostage_jax.data.pixels import Array, as_images, parse_scale
from twostage_jax.data.spec import Reading
from twostage_jax.engine.compile import cores
from twostage_jax.errors import UserError

TABLES = (".csv", ".tsv")
INPUT_KINDS = ("csv", "folder", "npz")  # prefixes of a SPEC, which an input does not have
STDIN = "-"
PACKED = re.compile("([^\0]*)\0([^\0]*)\0")  # a name and a file in a text of many
BATCH = 1000  # images that are classified together
PIECE = 50  # files that a thread decodes at a time
# Reasons for rows of a csv file that name no file.
NO_FILE = "no such file"
NO_PATH = "the row has no path"
Say = Callable[[str], None]


class InputBatch(NamedTuple):
    """Some images.

    Attributes:
        names: path of each image, in order, `[B]`.
        images: uint8 `[N, H, W, C]` of those that were read.
        errors: reasons for the others, by position in `names`.
    """

    names: list[str]
    images: np.ndarray
    errors: dict[int, str]


class ImageFile(NamedTuple):
    """A file to classify.

    Attributes:
        name: path as it was given or found.
        file: path to open; None if it does not exist.
    """

    name: str
    file: str | None


class Input(NamedTuple):
    """An argument of the command, which names images.

    Attributes:
        path: the argument, with `~` expanded.
        files: image files; None for standard input and for an archive.
    """

    path: str
    files: Iterable[ImageFile] | None = None


def list_inputs(inputs: Sequence[str], reading: Reading, say: Say) -> list[Input]:
    """List the files of all arguments, so that a mistake is found before the work.

    Args:
        inputs: arguments of the command.
        reading: pattern of files in folders, and columns of csv files.
        say: prints a notice.

    Raises:
        UserError: an argument that names no image, or a flag of reading without its input.
    """
    paths = [os.path.expanduser(text) for text in inputs]
    _check_flags(paths, reading)
    return [
        Input(path)
        if path == STDIN or _is_archive(path)
        else Input(path, _files(path, reading, say))
        for path in paths
    ]


def read_inputs(
    inputs: Sequence[Input], form: Form, limit: float | None, scale: str, stdin: TextIO, say: Say
) -> Iterator[InputBatch]:
    """Read all images of a command, in the order of its arguments and of their names.

    Memory does not grow with the number of images, except for their names. An npz file is read as a
    whole.

    Args:
        inputs: from `list_inputs`.
        form: form of the images for the network.
        limit: largest image in megapixels; None for the default.
        scale: range of the values that the run was trained on, in words.
        stdin: has one path in each line, for the argument `-`.
        say: prints a notice.

    Raises:
        UserError: an archive that cannot be read.
    """
    pixels = PIXEL_LIMIT if limit is None else int(limit * MEGAPIXEL)
    converter = _Converter(form, pixels, say)
    for path, files in inputs:
        if files is not None:
            yield from converter.decode_files(files)
        elif path == STDIN:
            lines = (line.rstrip("\r\n") for line in stdin if line.strip())
            yield from converter.decode_files(ImageFile(line, line) for line in lines)
        else:
            yield from converter.convert_archive(Path(path), scale)


def _check_flags(paths: Sequence[str], reading: Reading) -> None:
    """Raise `UserError` for a flag that no input uses."""
    has_table = any(map(_is_table, paths))
    for name in ("path_column", "image_dir"):
        if getattr(reading, name) is not None and not has_table:
            raise UserError(f"--{name.replace('_', '-')} goes with a csv file: leave it out")
    if reading.glob is not None and not any(map(os.path.isdir, paths)):
        raise UserError("--glob goes with a folder: leave it out")


def _is_archive(path: str) -> bool:
    return path.lower().endswith(".npz") and os.path.isfile(path)


def _is_table(path: str) -> bool:
    return path.lower().endswith(TABLES) and os.path.isfile(path)


def _files(path: str, reading: Reading, say: Say) -> Iterable[ImageFile]:
    """Return the image files that an argument names."""
    if _is_table(path):
        # Each row gives an image, so that no row is lost.
        rows, notes = list_rows(Path(path), reading)
        for note in notes:
            say(f"{path}: {note}")
        return _packed(rows)
    return _packed((name, name) for name in _paths(path, reading.glob, say))


def _packed(rows: Iterable[tuple[str, str | None]]) -> Iterator[ImageFile]:
    """Give names with their files; one text takes a fifth of the memory of a list."""
    text = "".join(f"{name}\0{file or ''}\0" for name, file in rows)
    return (ImageFile(m.group(1), m.group(2) or None) for m in PACKED.finditer(text))


def _paths(text: str, pattern: str | None, say: Say) -> Iterable[str]:
    if os.path.isdir(text):
        return _in_folder(Path(text), pattern, say)
    # A name may contain `[`, so an existing file is no pattern.
    if os.path.lexists(text):
        return [text]
    if glob.has_magic(text):
        paths = [path for path in sorted(glob.iglob(text, recursive=True)) if os.path.isfile(path)]
        if not paths:
            raise UserError(f"the pattern {text} matches no file: check it, and quote it")
        return paths
    kind, _, rest = text.partition(":")
    if kind in INPUT_KINDS and os.path.exists(os.path.expanduser(rest)):
        raise UserError(f"{text} is no path: leave out {kind}: and give {rest}")
    raise UserError(f"{text} does not exist: give image files, a folder, a pattern or -")


def _in_folder(folder: Path, pattern: str | None, say: Say) -> Iterable[str]:
    """Return the images below a folder, in the order in which a source reads them."""
    images, unread, _ = find_images(folder, pattern)
    if not images:
        raise UserError(f"{folder} has no image files: give another folder, or --glob")
    if unread:
        kinds = listed([f"{count:,} {name}" for name, count in unread.most_common()], 8)
        say(f"{folder}: not read: {kinds}")
    return (os.path.join(folder, *parts) for parts in images)


class _Converter:
    """Decoder of images to one form; it says once that images are converted."""

    def __init__(self, form: Form, limit: int, say: Say) -> None:
        self._form = form
        self._limit = limit
        self._say = say
        self._has_said = False
        self._lock = Lock()

    def decode_files(self, files: Iterable[ImageFile]) -> Iterator[InputBatch]:
        """Decode files in parallel; the next batch is decoded while one is classified."""
        files = iter(files)
        with ThreadPoolExecutor(cores()) as pool:
            waiting: deque[tuple[list[str], list[Future]]] = deque()
            while True:
                while len(waiting) < 2:
                    batch = list(itertools.islice(files, BATCH))
                    if not batch:
                        break
                    pieces = [batch[i : i + PIECE] for i in range(0, len(batch), PIECE)]
                    names = [file.name for file in batch]
                    waiting.append((names, [pool.submit(self._decode_piece, x) for x in pieces]))
                if not waiting:
                    return
                names, futures = waiting.popleft()
                results = [result for future in futures for result in future.result()]
                yield self._batch(names, results)

    def _batch(self, names: list[str], results: list[np.ndarray | str]) -> InputBatch:
        errors = {i: result for i, result in enumerate(results) if isinstance(result, str)}
        arrays = [result for result in results if not isinstance(result, str)]
        shape = self._form[:3]
        images = np.stack(arrays) if arrays else np.zeros((0, *shape), np.uint8)
        return InputBatch(names, images, errors)

    def _decode_piece(self, files: list[ImageFile]) -> list[np.ndarray | str]:
        return [self._decode_file(file) for file in files]

    def _decode_file(self, file: ImageFile) -> np.ndarray | str:
        """Return the pixels of a file, or the reason why it cannot be read."""
        if file.file is None:
            return NO_FILE if file.name else NO_PATH
        try:
            report = None if self._has_said else self._mention
            return decode(Path(file.file), self._form, self._limit, report)
        except BrokenImage as error:
            return str(error)

    def _mention(self, height: int, width: int, is_grey: bool) -> None:
        """Say once that images are converted, at the first that has another form."""
        form = self._form
        size = (form.height, form.width)
        # The orientation in EXIF may exchange the sides.
        same = size in ((height, width), (width, height)) and is_grey == (form.channels == 1)
        with self._lock:
            if same or self._has_said:
                return
            self._has_said = True
        kind = "grey" if is_grey else "colour"
        target = "grey" if form.channels == 1 else "colour"
        self._say(
            f"images of another size or kind, such as {height}×{width} {kind}, are converted to "
            f"{form.height}×{form.width} {target} ({form.fit})"
        )

    def convert_archive(self, path: Path, scale: str) -> Iterator[InputBatch]:
        """Convert all images of an npz file; their names are `FILE[ARRAY:ROW]`."""
        notes: list[str] = []
        arrays = read_archive(path, _image_names)
        pictures = {
            name: Array(values, f"{path}: {name}")
            for name, values in arrays.items()
            if values.ndim > 2 or parse(name)
        }
        if not pictures:
            raise UserError(f"{path} has no images: name the array image, [N, H, W, C]")
        images, _ = as_images(pictures, notes, parse_scale(scale))
        for note in notes:
            self._say(f"{path}: {note}")
        for name, values in images.items():
            for start in range(0, len(values), BATCH):
                part = values[start : start + BATCH]
                names = [f"{path}[{name}:{start + i}]" for i in range(len(part))]
                yield InputBatch(names, self._converted(part), {})

    def _converted(self, images: np.ndarray) -> np.ndarray:
        """Return arrays in the form of the network, as files with these pixels would be."""
        if images.shape[1:] == self._form[:3]:
            return images
        height, width, channels = images.shape[1:]
        self._mention(height, width, channels == 1)
        files = []
        for image in images:
            file = io.BytesIO()
            picture = Image.fromarray(image[..., 0] if channels == 1 else image)
            picture.save(file, "PNG", compress_level=0)
            files.append(decode(file.getvalue(), self._form, self._limit))
        return np.stack(files)


def _image_names(names: Iterable[str]) -> list[str]:
    """Return the arrays of an archive that hold images by their names, or all without such."""
    names = list(names)
    images = [name for name in names if (meaning := parse(name)) and meaning.kind == "image"]
    return images or names
