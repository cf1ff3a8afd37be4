"""More unlabelled images for a source, from another source."""

import os
from collections.abc import Sequence

import numpy as np

from twostage_jax.data.duplicates import digests_of
from twostage_jax.data.source import Source, with_pool
from twostage_jax.data.spec import Reading
from twostage_jax.data.split import Split
from twostage_jax.errors import UserError


def with_form_of(source: Source, reading: Reading) -> Reading:
    """Return settings that give images of the form of a source."""
    height, width, channels = _images(source)[0].shape[1:]
    return reading._replace(
        image_size=f"{height}x{width}", channels=int(channels), image_fit=source.fit
    )


def _images(source: Source) -> list[np.ndarray]:
    images = [split["image"] for split in source.splits.values()]
    return images if source.unlabelled is None else [*images, source.unlabelled]


def with_more(source: Source, more: Source, spec: str) -> Source:
    """Add the images of another source, but its test split, to the unlabelled images.

    Images that the source has, too, are left out: a test image must not be trained on.

    Raises:
        UserError: no image, or images of another shape.
    """
    parts: list[Split] = [
        split for name, split in more.splits.items() if name != "test" and len(split["image"])
    ]
    if more.unlabelled is not None:
        parts.append({"image": more.unlabelled, **(more.pool or {})})
    if not parts:
        raise UserError(
            f"--unlabeled {spec} has no images outside its test split: give more images"
        )
    images = np.concatenate([part["image"] for part in parts])
    expected = _images(source)[0].shape[1:]
    if images.shape[1:] != expected:
        size = "×".join(map(str, images.shape[1:]))
        wanted = "×".join(map(str, expected))
        raise UserError(
            f"--unlabeled {spec} has images {size}, and {source.name} has {wanted}: give images of "
            "that shape, or a folder:DIR, which is converted"
        )
    columns: Split = {"image": images}
    for name in ("path", "file"):
        if all(name in part for part in parts):
            columns[name] = np.concatenate([part[name] for part in parts])
    groups = source.groups
    if groups and more.groups:
        groups = tuple(dict.fromkeys((*groups, *more.groups)))
        group = np.concatenate([part["group"] for part in parts])
        columns["group"] = _numbered(groups, more.groups, group)
    notes = [f"--unlabeled {spec}: {note}" for note in more.notes]
    kept = ~_is_repeated(columns, source)
    if not kept.all():
        notes.append(
            f"--unlabeled {spec}: {(~kept).sum():,} images are those of the source (same file or "
            "same pixels), and are left out"
        )
        columns = {name: values[kept] for name, values in columns.items()}
    notes.append(f"--unlabeled {spec}: {len(columns['image']):,} images for stage 1")
    if source.groups and not more.groups:
        notes.append(
            f"--unlabeled {spec}: its images have no groups, so groups of validation and test may "
            "be among them"
        )
    if more.test is not None:
        notes.append(f"--unlabeled {spec}: images of its test split are not used")
    # A file of both sources is listed once.
    broken = tuple(dict.fromkeys((*source.broken, *more.broken)))
    return with_pool(source, columns)._replace(
        groups=groups, notes=(*source.notes, *notes), broken=broken
    )


def _is_repeated(columns: Split, source: Source) -> np.ndarray:
    """Return a mask of the images that the source has, too."""
    mask = np.zeros(len(columns["image"]), bool)
    if "file" in columns:
        mask = np.isin(_real(columns["file"]), _real(_files(source)))
    # A copy of the folder has other paths, but the same pixels.
    digests = {digest for images in _images(source) for digest in digests_of(images)}
    rest = np.flatnonzero(~mask)
    mask[rest] = [digest in digests for digest in digests_of(columns["image"][rest])]
    return mask


def _files(source: Source) -> np.ndarray:
    parts = [*source.splits.values(), source.pool or {}]
    return np.concatenate(
        [np.array([], object), *(part["file"] for part in parts if "file" in part)]
    )


def _real(files: np.ndarray) -> np.ndarray:
    """Return paths without links, of which one file can have several."""
    folders: dict[str, str] = {}
    real = []
    for file in files.tolist():
        folder, name = os.path.split(file)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = f"{folders[folder]}/{name}"
        real.append(os.path.realpath(path) if os.path.islink(path) else path)
    return np.array(real, str)


def _numbered(groups: Sequence[str], names: Sequence[str], group: np.ndarray) -> np.ndarray:
    """Return groups as indices into `groups`, to which those of `names` were added."""
    index = {name: position for position, name in enumerate(groups)}
    table = np.array([index[name] for name in names], np.int32)
    return table[group]
