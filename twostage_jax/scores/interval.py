"""Confidence interval for a measured accuracy."""

import math

NORMAL_QUANTILE = 1.959963984540054  # 0.975 of the standard normal distribution


def accuracy_interval(correct: int, count: int) -> tuple[float, float]:
    """95 % interval for the true accuracy (Wilson, "Probable inference", 1927).

    It holds for few examples too, and for an accuracy of 0 or 1.

    Args:
        correct: number of correct predictions.
        count: number of predictions, at least 1.

    >>> [round(bound, 3) for bound in accuracy_interval(9, 10)]
    [0.596, 0.982]
    """
    rate = correct / count
    squared = NORMAL_QUANTILE**2
    centre = (rate + squared / (2 * count)) / (1 + squared / count)
    half = math.sqrt(rate * (1 - rate) / count + squared / (4 * count**2))
    half *= NORMAL_QUANTILE / (1 + squared / count)
    # Rounding must not put a bound outside of [0, 1] if all or none are correct.
    low = max(0.0, centre - half) if correct else 0.0
    high = min(1.0, centre + half) if correct < count else 1.0
    return low, high
