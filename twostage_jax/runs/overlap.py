"""Images of another source that the run has seen."""

from typing import NamedTuple

import numpy as np

from twostage_jax.data.dataset import Dataset
from twostage_jax.data.duplicates import digests_of
from twostage_jax.scores.figures import Scores, compute_scores

SPLITS = ("train", "unlabelled", "validation")


class Overlap(NamedTuple):
    """Images of another source that have the pixels of an image of the run's own data.

    Attributes:
        counts: number of these images by split of the run; without those of the splits before.
        trained: mask of the images in the train split, bool `[N]`.
        without: scores on the other images; None if there are none, or if all are others.
    """

    counts: dict[str, int]
    trained: np.ndarray
    without: Scores | None = None


def find_overlap(dataset: Dataset, images: np.ndarray) -> Overlap:
    """Compare images `[N, H, W, C]` with those that a run was trained and chosen on."""
    digests = digests_of(images)
    seen = np.zeros(len(images), bool)
    masks = {}
    for name in SPLITS:
        split_digests = set(digests_of(dataset.splits.get(name, dataset.unlabelled)["image"]))
        masks[name] = ~seen & np.array([digest in split_digests for digest in digests], bool)
        seen |= masks[name]
    counts = {name: int(mask.sum()) for name, mask in masks.items() if mask.any()}
    return Overlap(counts, masks["train"])


def with_scores(overlap: Overlap, probability: np.ndarray, label: np.ndarray) -> Overlap:
    """Add the scores of probabilities `[N, K]` on the images that were not trained on."""
    new = ~overlap.trained
    if new.all() or not new.any():
        return overlap
    return overlap._replace(without=compute_scores(probability[new], label[new]))
