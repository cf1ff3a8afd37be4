"""Figures of single classes and of groups of examples, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twostage_jax.scores.interval import accuracy_interval


@dataclass(frozen=True)
class ClassScores:
    """Figures of one class; None for a share of nothing.

    Attributes:
        count: number of its examples.
        recall: share of its examples that are classified correctly.
        interval: 95 % interval of the recall, `[low, high]`; see `interval.accuracy_interval`.
        precision: share of the predictions of this class that are correct.
        f1: `2 · correct / (examples + predictions)`.
    """

    count: int
    recall: float | None
    interval: list[float] | None
    precision: float | None
    f1: float | None


def score_classes(confusion: np.ndarray) -> list[ClassScores]:
    """Compute the figures of each class from counts int `[K, K]`: true class, predicted class.

    >>> scores = score_classes(np.array([[3, 1], [0, 4]]))
    >>> scores[0].recall, scores[0].precision, round(scores[1].f1, 3)
    (0.75, 1.0, 0.889)
    """
    correct = confusion.diagonal().tolist()
    examples = confusion.sum(1).tolist()
    predictions = confusion.sum(0).tolist()
    return [
        ClassScores(
            count=total,
            recall=_share(hits, total),
            interval=list(accuracy_interval(hits, total)) if total else None,
            precision=_share(hits, predicted),
            f1=_share(2 * hits, total + predicted),
        )
        for hits, total, predicted in zip(correct, examples, predictions, strict=True)
    ]


def _share(part: int, total: int) -> float | None:
    # JSON has no NaN, so 0 / 0 is None.
    return part / total if total else None


def macro_f1(classes: Sequence[ClassScores]) -> float:
    """Mean F1 of the classes that have examples or predictions."""
    return float(np.mean([scores.f1 for scores in classes if scores.f1 is not None]))
