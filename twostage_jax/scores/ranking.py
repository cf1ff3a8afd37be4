"""Figures of a ranking of likely wrong labels, and the estimated number of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twostage_jax.errors import UserError

_REPEATS = 1000  # bootstrap samples of an interval


class WrongLabels(NamedTuple):
    """Estimated number of wrong labels.

    Attributes:
        count: estimate of confident learning.
        low: lower end of its 95 % interval.
        high: upper end.
        joint: estimated counts float64 `[K, K]` of given labels (rows) and true labels (columns).
    """

    count: int
    low: int
    high: int
    joint: np.ndarray


def count_wrong_labels(probability: np.ndarray, label: np.ndarray) -> WrongLabels:
    """Estimate the number of wrong labels by confident learning.

    The threshold of a class is its mean probability over the examples with its label. An example
    counts for the most probable of the classes that reach their threshold (Northcutt, Jiang and
    Chuang, "Confident Learning", 2021). The counts of each given label are then scaled to the
    number of examples with that label. The interval comes from a bootstrap over examples with fixed
    thresholds. It does not cover a model that makes the same error on many examples.

    Args:
        probability: probability of each class, `[N, K]`, from a model that was not fitted to the
            example.
        label: given labels int `[N]`.

    >>> probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.9, 0.1]])
    >>> estimate = count_wrong_labels(probability, np.array([0, 0, 1, 1]))
    >>> estimate.count, estimate.joint.tolist()
    (1, [[2.0, 0.0], [1.0, 1.0]])
    """
    count, classes = probability.shape
    is_label = np.arange(classes) == label[:, None]
    sizes = is_label.sum(0)
    threshold = (probability * is_label).sum(0) / np.maximum(sizes, 1)
    # A class without examples has no threshold, so no example can count for it.
    threshold[sizes == 0] = np.inf
    confident = np.where(probability >= threshold, probability, -1.0)
    # Column K holds the examples that count for no class.
    column = np.where(confident.max(1) >= 0, confident.argmax(1), classes)
    cells = label * (classes + 1) + column
    counts = np.bincount(cells, minlength=classes * (classes + 1)).astype(float)
    joint = _joint(counts[None], classes)[0]
    # NumPy guarantees the numbers of `RandomState` for all versions.
    samples = np.random.RandomState(0).multinomial(count, counts / count, _REPEATS)
    wrong = _off_diagonal(_joint(samples.astype(float), classes))
    low, high = np.quantile(wrong, (0.025, 0.975))
    estimate = float(_off_diagonal(joint[None])[0])
    return WrongLabels(round(estimate), round(low), round(high), joint)


def _joint(counts: np.ndarray, classes: int) -> np.ndarray:
    """Joint counts `[..., K, K]` from `[..., K · (K + 1)]`, scaled to the sums of the rows."""
    rows = counts.reshape(-1, classes, classes + 1)
    confident = rows[..., :classes].copy()
    # A label without any confident example counts as right.
    empty = confident.sum(-1, keepdims=True) == 0
    confident += empty * np.eye(classes)
    return confident / confident.sum(-1, keepdims=True) * rows.sum(-1, keepdims=True)


def _off_diagonal(joint: np.ndarray) -> np.ndarray:
    return joint.sum((1, 2)) - np.trace(joint, axis1=1, axis2=2)


class Precision(NamedTuple):
    """Precision and recall of the first examples of a ranking.

    Attributes:
        count: number of examples from the top.
        precision: share of them that are wrong.
        recall: share of all wrong ones that are among them.
    """

    count: int
    precision: float
    recall: float


def precision_recall(
    order: np.ndarray, wrong: np.ndarray, counts: Sequence[int]
) -> list[Precision]:
    """Compute precision and recall at several lengths of a ranking.

    Args:
        order: all examples, the most suspicious first, int `[N]`.
        wrong: True for a wrong label, bool `[N]`, at least one.
        counts: lengths, from 1 to N.

    Raises:
        UserError: nothing is wrong, or a length out of range.

    >>> wrong = np.array([False, True, False, True])
    >>> precision_recall(np.array([1, 0, 3, 2]), wrong, [1, 2])
    [Precision(count=1, precision=1.0, recall=0.5), Precision(count=2, precision=0.5, recall=0.5)]
    """
    total = int(wrong.sum())
    if not total:
        raise UserError("no label is wrong, so recall is not defined: give wrong labels")
    if not all(1 <= count <= len(order) for count in counts):
        raise UserError(f"counts {list(counts)} do not fit {len(order)} ranked examples")
    hits = np.cumsum(wrong[order])
    return [Precision(n, float(hits[n - 1] / n), float(hits[n - 1] / total)) for n in counts]
