"""Images to label, and their order."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostage_jax.config.studies import NextStudy
from twostage_jax.data.dataset import TrainingData
from twostage_jax.data.decode import decode
from twostage_jax.data.listing import Entry
from twostage_jax.data.pictures import LISTERS
from twostage_jax.data.spec import Reading, expanded
from twostage_jax.errors import UserError
from twostage_jax.runs.study.next import find_candidates
from twostage_jax.runs.study.ordering import label_order
from twostage_jax.serve.pictures import encode_picture

# Images whose features decide the order. More would delay the start by minutes, and nobody labels
# so many; the others follow in random order.
ORDER_LIMIT = 10_000

Features = Callable[[np.ndarray], np.ndarray]


class Pool(NamedTuple):
    """Images to label.

    Attributes:
        column: first column of the csv file, `path` or `index`.
        keys: value of that column for each image.
        names: name of each image, as a person reads it.
        picture: returns the image at a position as a file and its type.
        order: positions in the order in which they are shown.
        labelled: labels of other images of the same source, by the value of the first column.
        remedy: words of a command that read the csv file.
    """

    column: str
    keys: Sequence[str]
    names: Sequence[str]
    picture: Callable[[int], tuple[bytes, str]]
    order: Sequence[int]
    labelled: Mapping[str, str]
    remedy: str = ""


def make_pool(
    dataset: TrainingData, spec: str, reading: Reading, out: Path, features: Features
) -> Pool:
    """Make the pool of a source: its unlabelled images, or its train split if there are none.

    Args:
        dataset: data without the test split.
        spec: its SPEC.
        reading: settings with which it was read.
        out: csv file for the labels.
        features: returns features `[N, D]` of images uint8 `[N, H, W, C]`.

    Raises:
        UserError: no images.
    """
    candidates = find_candidates(NextStudy(), dataset)
    split = dataset.train if candidates.ignored else dataset.unlabelled
    images = split["image"]
    order = find_order(images, dataset.train["image"][: candidates.first], features)
    if candidates.path is not None:
        paths = candidates.path.tolist()
        files, labels = locate(paths, spec, reading, candidates.ignored)
        return file_pool(files, paths, order, labels, out)

    def picture(position: int) -> tuple[bytes, str]:
        return encode_picture(images[position])

    index = [str(row) for row in candidates.index]
    names = [f"no. {row}" for row in index]
    return Pool("index", index, names, picture, order, {}, f"twostage study next --labelled {out}")


def locate(
    paths: Sequence[str], spec: str, reading: Reading, is_relabelled: bool
) -> tuple[list[str], dict[str, str]]:
    """Return the files of some images of a source, and the labels of its other images.

    Args:
        paths: path of each image, as the source has it.
        spec: SPEC of the source.
        reading: settings with which it was read.
        is_relabelled: True if the images are those that have a label.

    Returns:
        Absolute path of each image, empty if it has none; and labels for training by absolute
        path. Labels of a test or validation split are left out: a csv file has no splits, so they
        would be trained on.
    """
    ignored = {name.casefold() for name in reading.unlabeled_label or ()} | {""}
    free = {}
    labelled = {}
    for entry in _entries(spec, reading, False):
        has_label = entry.label.casefold() not in ignored
        if has_label == is_relabelled:
            free[entry.path] = entry.file
        elif has_label and entry.split == "train":
            labelled[entry.file] = entry.label
    more = {}
    if reading.unlabeled is not None:
        more = {entry.path: entry.file for entry in _entries(reading.unlabeled, reading, True)}
    files = []
    for path in paths:
        # The images of the source come first; those of `--unlabeled` can have the same paths.
        files.append(free.pop(path, None) or more.get(path, ""))
    return files, labelled


def _entries(spec: str, reading: Reading, as_pool: bool) -> list[Entry]:
    kind, _, rest = spec.partition(":")
    if kind not in LISTERS:
        return []
    entries = LISTERS[kind](expanded(rest), reading, as_pool)[0]
    # A path such as `a/../b/1.png` is not in the folder `a`.
    return [entry._replace(file=os.path.abspath(entry.file)) for entry in entries]


def file_pool(
    files: Sequence[str],
    names: Sequence[str],
    order: Sequence[int],
    labels: Mapping[str, str],
    out: Path,
) -> Pool:
    """Make a pool of files, which are shown in their own size.

    Args:
        files: absolute path of each image; empty for an image without a file, which is left out.
        names: path of each image, as its source has it.
        order: positions in the order in which they are shown.
        labels: labels of other images, by their absolute paths.
        out: csv file for the labels. Paths in its folder are relative to it.
    """
    # More images for stage 1 can come from arrays, and a csv of paths cannot name those.
    kept = [position for position, file in enumerate(files) if file]
    place = {position: number for number, position in enumerate(kept)}
    files = [files[position] for position in kept]
    names = [names[position] for position in kept]
    order = [place[position] for position in order if position in place]
    folder = os.path.abspath(out.parent)

    def key(file: str) -> str:
        is_inside = file.startswith(f"{folder.rstrip('/')}/")
        return os.path.relpath(file, folder) if is_inside else file

    def picture(position: int) -> tuple[bytes, str]:
        return encode_picture(decode(Path(files[position]), None))

    labelled = {key(file): label for file, label in labels.items()}
    return Pool(
        "path", [key(x) for x in files], names, picture, order, labelled, f"--data csv:{out}"
    )


def find_order(images: np.ndarray, labelled: np.ndarray, features: Features) -> list[int]:
    """Order the images of a pool: the typical of each cluster first, as `label_order`.

    Args:
        images: uint8 `[N, H, W, C]`.
        labelled: images that have a label, uint8 `[L, H, W, C]`.
        features: returns features `[N, D]` of images.

    Raises:
        UserError: a pool without images.
    """
    count = len(images)
    if not count:
        raise UserError("there are no images to label: give --label another source")
    positions = np.arange(count)
    if count > ORDER_LIMIT:
        # Always the same ones, so that a second start continues in the same order.
        positions = np.random.RandomState(0).permutation(count)
    # A memory-mapped file is read in its order.
    first = np.sort(positions[:ORDER_LIMIT])
    labelled = labelled[:ORDER_LIMIT]
    encoded = features(np.concatenate([labelled, images[first]]))
    order = label_order(encoded, np.arange(len(labelled))) - len(labelled)
    return [*first[order].tolist(), *positions[ORDER_LIMIT:].tolist()]
