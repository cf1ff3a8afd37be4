"""Errors by group, such as patients or cameras, and intervals over groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twostage_jax.scores.curves import REPEATS, mean_interval, resamples
from twostage_jax.scores.interval import accuracy_interval


@dataclass(frozen=True)
class GroupScores:
    """Figures of one group.

    Attributes:
        name: name of the group.
        count: number of its images.
        errors: number of them that are classified wrongly.
        accuracy: share of its images that are classified correctly.
        interval: 95 % interval of the accuracy, `[low, high]`; see `interval.accuracy_interval`.
    """

    name: str
    count: int
    errors: int
    accuracy: float
    interval: list[float]


@dataclass(frozen=True)
class GroupSummary:
    """Figures of a split whose images belong to groups.

    Images of one group are alike, so a new group tells less than as many single images. The
    intervals therefore resample groups; they are None for a single group.

    Attributes:
        groups: figures of each group that has images, the lowest accuracy first.
        accuracy: accuracy over all images.
        interval: its 95 % interval for new groups, `[low, high]`.
        mean: mean accuracy of the groups, each with the same weight.
        mean_interval: its 95 % interval, `[low, high]`.
    """

    groups: list[GroupScores]
    accuracy: float
    interval: list[float] | None
    mean: float
    mean_interval: list[float] | None


def summarise_groups(correct: np.ndarray, group: np.ndarray, names: Sequence[str]) -> GroupSummary:
    """Compute the figures of each group, and intervals over groups.

    Args:
        correct: True for images that are classified correctly, bool `[N]`, N at least 1.
        group: group of each image, int `[N]`.
        names: names of the groups.

    >>> correct = np.array([True, False, True, True])
    >>> summary = summarise_groups(correct, np.array([0, 0, 1, 1]), ["a", "b"])
    >>> [(x.name, x.errors, x.accuracy) for x in summary.groups], summary.mean
    ([('a', 1, 0.5), ('b', 0, 1.0)], 0.75)
    """
    present, index, counts = np.unique(group, return_inverse=True, return_counts=True)
    hits = np.bincount(index, correct)
    rates = hits / counts
    # Of equal accuracies, the group with more errors comes first.
    order = np.lexsort((hits - counts, rates))
    groups = [
        GroupScores(
            name=names[int(present[k])],
            count=int(counts[k]),
            errors=int(counts[k] - hits[k]),
            accuracy=float(rates[k]),
            interval=list(accuracy_interval(int(hits[k]), int(counts[k]))),
        )
        for k in order
    ]
    accuracy = float(hits.sum() / counts.sum())
    mean = mean_interval(rates)
    if len(groups) < 2:
        return GroupSummary(groups, accuracy, None, mean.value, None)
    samples = resamples(len(groups), REPEATS)
    accuracies = hits[samples].sum(1) / counts[samples].sum(1)
    interval = np.quantile(accuracies, (0.025, 0.975)).tolist()
    bounds = [max(0.0, mean.low), min(1.0, mean.high)]
    return GroupSummary(groups, accuracy, interval, mean.value, bounds)
