"""Choice between arms by noisy validation labels, and the quality of that choice on test."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Advice(NamedTuple):
    """Advice for one kind of noise.

    Attributes:
        chosen: arm that the validation labels advise.
        validation: its mean accuracy on the noisy validation labels.
        accuracy: its mean accuracy on test.
        best: arm with the best mean accuracy on test, which the advice does not use.
        gap: accuracy of `best` minus accuracy of `chosen`, at least 0.
    """

    chosen: str
    validation: float
    accuracy: float
    best: str
    gap: float


def advise(
    validation: Mapping[str, float],
    test: Mapping[str, float],
    examples: Mapping[str, int],
    order: Sequence[str],
) -> Advice:
    """Choose an arm by its accuracy on noisy validation labels, and compare it with the best.

    Arms within one standard error of the best arm are tied, because the validation labels cannot
    separate them. The first of the tied arms in `order` is chosen.

    Args:
        validation: accuracy of each arm on validation, in [0, 1].
        test: its accuracy on test.
        examples: number of validation labels of each accuracy.
        order: all arms, the preferred one first, to decide ties.

    >>> few = {"a": 50, "b": 50}
    >>> advise({"a": 0.5, "b": 0.6}, {"a": 0.91, "b": 0.9}, few, ["a", "b"]).chosen
    'b'
    >>> advise({"a": 0.55, "b": 0.6}, {"a": 0.91, "b": 0.9}, few, ["a", "b"]).chosen
    'a'
    """
    top = max(validation, key=lambda name: validation[name])
    error = math.sqrt(validation[top] * (1 - validation[top]) / examples[top])
    chosen = next(name for name in order if validation[name] >= validation[top] - error)
    best = max(test, key=lambda name: test[name])
    gap = round(test[best] - test[chosen], 6)
    return Advice(chosen, validation[chosen], test[chosen], best, gap)


def rank(accuracies: Sequence[Mapping[str, float]]) -> list[str]:
    """Sort arms by their mean distance from the best arm of each noise, the smallest first.

    >>> rank([{"a": 0.9, "b": 0.8}, {"a": 0.2, "b": 0.7}])
    ['b', 'a']
    """
    behind = {
        name: float(np.mean([max(cell.values()) - cell[name] for cell in accuracies]))
        for name in accuracies[0]
    }
    return sorted(behind, key=lambda name: behind[name])
