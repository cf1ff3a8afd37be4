"""Images to label, and their order."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from twostage_jax.data.dataset import TrainingData
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
        known: labels of other images of the same source, by the value of the first column.
    """

    column: str
    keys: Sequence[str]
    names: Sequence[str]
    picture: Callable[[int], tuple[bytes, str]]
    order: Sequence[int]
    known: dict[str, str]


def array_pool(dataset: TrainingData, features: Features) -> Pool:
    """Make the pool of a source whose images are arrays: its unlabelled images, or its train split.

    Args:
        dataset: data without the test split.
        features: returns features `[N, D]` of images uint8 `[N, H, W, C]`.
    """
    candidates = find_candidates(None, dataset)
    train = dataset.train["image"]
    images = train if candidates.ignored else dataset.unlabelled["image"]

    def picture(position: int) -> tuple[bytes, str]:
        return encode_picture(images[position])

    def read(positions: np.ndarray) -> np.ndarray:
        return images[positions]

    known = train[: candidates.first]
    return Pool(
        "index",
        [str(index) for index in candidates.index],
        [f"no. {index}" for index in candidates.index],
        picture,
        find_order(len(images), read, known, features),
        {},
    )


def find_order(
    count: int, read: Callable[[np.ndarray], np.ndarray], known: np.ndarray, features: Features
) -> list[int]:
    """Order the images of a pool: the typical of each cluster first, as `label_order`.

    Args:
        count: number of images.
        read: returns images uint8 `[P, H, W, C]` at some positions.
        known: images that have a label, uint8 `[L, H, W, C]`.
        features: returns features `[N, D]` of images.

    Raises:
        UserError: a pool without images.
    """
    if not count:
        raise UserError("there are no images to label: give --label another source")
    positions = np.arange(count)
    if count > ORDER_LIMIT:
        # Always the same ones, so that a second start continues in the same order.
        positions = np.random.RandomState(0).permutation(count)
    first = positions[:ORDER_LIMIT]
    labelled = known[:ORDER_LIMIT]
    encoded = features(np.concatenate([labelled, read(first)]))
    order = label_order(encoded, np.arange(len(labelled))) - len(labelled)
    return [*first[order].tolist(), *positions[ORDER_LIMIT:].tolist()]
