"""Choice between arms by noisy validation labels, and how good that choice was on test."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Advice(NamedTuple):
    """Advice for one kind of noise.

    Attributes:
        chosen: arm with the best mean accuracy on the noisy validation labels.
        validation: that accuracy.
        accuracy: its mean accuracy on test.
        best: arm with the best mean accuracy on test, in hindsight.
        gap: accuracy of `best` minus accuracy of `chosen`, at least 0.
    """

    chosen: str
    validation: float
    accuracy: float
    best: str
    gap: float


def advise(validation: Mapping[str, float], test: Mapping[str, float]) -> Advice:
    """Choose the arm with the best validation accuracy, and compare it with the best on test.

    The first of equal arms is taken.

    >>> advise({"a": 0.5, "b": 0.6}, {"a": 0.91, "b": 0.9})
    Advice(chosen='b', validation=0.6, accuracy=0.9, best='a', gap=0.01)
    """
    chosen = max(validation, key=lambda name: validation[name])
    best = max(test, key=lambda name: test[name])
    gap = round(test[best] - test[chosen], 6)
    return Advice(chosen, validation[chosen], test[chosen], best, gap)


def overall_choice(validation: Sequence[Mapping[str, float]]) -> str:
    """Return the arm with the smallest mean distance from the best one of each kind of noise.

    >>> overall_choice([{"a": 0.9, "b": 0.8}, {"a": 0.2, "b": 0.7}])
    'b'
    """
    names = list(validation[0])
    behind = {
        name: float(np.mean([max(cell.values()) - cell[name] for cell in validation]))
        for name in names
    }
    return min(behind, key=lambda name: behind[name])
