"""Draws of labels, and their folds for cross-validation."""

from typing import NamedTuple

import numpy as np

from twostage_jax.data.dataset import TrainingData
from twostage_jax.data.labels import draw_labels

FOLDS = 5
ONE_FOLD_ABOVE = 500  # labels; a fifth of them is sufficient to compare strengths


class Draws(NamedTuple):
    """Labelled examples of all draws of one size.

    Attributes:
        index: rows of the training split, int32 `[R, n]`, sorted by class.
        label: their labels, int32 `[R, n]`.
        smallest: number of examples of the smallest class in any draw.
    """

    index: np.ndarray
    label: np.ndarray
    smallest: int

    @property
    def count(self) -> int:
        """Number of labels n of a draw."""
        return self.index.shape[1]

    def first(self, draws: int) -> "Draws":
        """Return the first draws."""
        return Draws(self.index[:draws], self.label[:draws], self.smallest)


def make_draws(dataset: TrainingData, count: int, seed: int, draws: int) -> Draws:
    """Draw `count` labels for each of the seeds `seed`, `seed + 1`, ….

    Raises:
        UserError: more labels than examples, fewer than classes, or a class without an example.
    """
    label = dataset.train["label"]
    seeds = range(seed, seed + draws)
    drawn = np.stack([draw_labels(label, count, dataset.classes, number) for number in seeds])
    order = np.argsort(label[drawn], axis=1, kind="stable")
    index = np.take_along_axis(drawn, order, 1)
    sizes = [np.bincount(row, minlength=len(dataset.classes)).min() for row in label[index]]
    return Draws(index, label[index], int(min(sizes)))


def fold_weights(draws: Draws) -> np.ndarray:
    """Weights float32 `[F, n]` of the labels that each fold trains on; the others are held out.

    The folds are stratified: labels are sorted by class and assigned to folds in turn. With more
    than 500 labels there is one fold. If a class has a single label, there is no fold (F = 0),
    because a class without a label cannot be learned.
    """
    folds = min(FOLDS, draws.smallest)
    if folds < 2:
        return np.zeros((0, draws.count), np.float32)
    dealt = np.arange(draws.count) % folds
    used = 1 if draws.count > ONE_FOLD_ABOVE else folds
    return np.asarray(dealt[None] != np.arange(used)[:, None], np.float32)
