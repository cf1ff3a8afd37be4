"""Conversion of named arrays to a `Source`, for all file formats."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from twostage_jax.data.names import listed
from twostage_jax.data.pixels import Array, Scale, as_images
from twostage_jax.data.source import Source
from twostage_jax.data.split import Split
from twostage_jax.data.targets import UNLABELLED, as_labels
from twostage_jax.errors import UserError, printable, shortened

NOTE_LIMIT = 500  # characters; names of arrays and files can be long
EMNIST = "EMNIST stores its images with height and width exchanged; they are used as stored"


class Part(NamedTuple):
    """Arrays of a split, as they are in the files; without labels its images are unlabelled."""

    image: Array
    label: Array | None = None
    weight: Array | None = None


class Raw(NamedTuple):
    """Arrays of a source, as they are in the files.

    Attributes:
        name: short name of the data set.
        parts: by name: `train`, `validation`, `test`, and `unlabelled` for more images.
        classes: class names, if the files have some.
        unused: names of arrays, files or splits that are not read.
        notes: sentences on how the files are read.
    """

    name: str
    parts: Mapping[str, Part]
    classes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def as_source(raw: Raw, trained: Scale | None = None) -> Source:
    """Convert images, labels and weights of all splits, with notes on how.

    Args:
        raw: arrays of the source.
        trained: scale of the images that a run was trained on, for images that it is to classify.

    Raises:
        UserError: values, axes or labels that are out of range or not certain.
    """
    notes = list(raw.notes)
    if raw.unused:
        notes.append(f"not used: {listed(raw.unused)}")
    pictures = {name: part.image for name, part in raw.parts.items()}
    images, scale = as_images(pictures, notes, trained)
    counts = {name: len(image) for name, image in images.items()}
    arrays = {name: part.label for name, part in raw.parts.items() if part.label is not None}
    ignored = arrays.pop("unlabelled", None)
    if ignored is not None:
        notes.append(f"not used: labels of unlabelled images, {ignored.where}")
    weighted = _apply_weights(raw.parts, counts, notes)
    labels, classes = as_labels(arrays, counts, raw.classes, notes) if arrays else ({}, raw.classes)
    splits: dict[str, Split] = {}
    pool = [images[name] for name in images if name not in labels]
    for name, label in labels.items():
        image = images[name]
        is_known = (label != UNLABELLED) & weighted[name]
        if is_known.all():
            splits[name] = {"image": image, "label": label}
            continue
        row = np.flatnonzero(is_known).astype(np.int32)
        splits[name] = {"image": image[row], "label": label[row], "row": row}
        if name == "train":
            pool.append(image[~is_known])
        if not len(row):
            del splits[name]
            if name != "train":
                notes.append(f"the {name} split is not used: none of its examples has a label")
    return Source(
        name=raw.name,
        train=splits.get("train"),
        test=splits.get("test"),
        classes=classes,
        unlabelled=_joined(pool, raw.name),
        validation=splits.get("validation"),
        notes=tuple(printable(shortened(note, NOTE_LIMIT)) for note in notes),
        scale=str(scale),
    )


def _apply_weights(
    parts: Mapping[str, Part], counts: Mapping[str, int], notes: list[str]
) -> dict[str, np.ndarray]:
    """Return masks of the examples whose label counts, by split."""
    masks = {}
    for name, part in parts.items():
        masks[name] = np.ones(counts[name], bool)
        if part.weight is None:
            continue
        weight, where = part.weight
        weight = weight.reshape(-1) if weight.size == counts[name] else weight
        if weight.shape != (counts[name],):
            raise UserError(
                f"{where} has shape {weight.shape} for {counts[name]} images: give one weight for "
                "each image"
            )
        if weight.dtype.kind not in "biuf" or not ((weight == 0) | (weight == 1)).all():
            raise UserError(
                f"{where} has weights other than 0 and 1, which are not supported: leave the array "
                "out, or write 0 for an example whose label does not count and 1 for the others"
            )
        masks[name] = weight != 0
        missing = int((weight == 0).sum())
        use = "their images are for stage 1 only" if name == "train" else "they are left out"
        examples = f"{missing:,} of {len(weight):,} examples of the {name} split"
        notes.append(f"{examples} have weight 0: {use}")
    return masks


def _joined(pool: list[np.ndarray], name: str) -> np.ndarray | None:
    """Return all images without labels, or None."""
    pool = [image for image in pool if len(image)]
    if not pool:
        return None
    shapes = {image.shape[1:] for image in pool}
    if len(shapes) > 1:
        raise UserError(
            f"{name} has unlabelled images of the shapes {sorted(shapes)}: give all images one "
            "shape"
        )
    return np.concatenate(pool) if len(pool) > 1 else pool[0]
