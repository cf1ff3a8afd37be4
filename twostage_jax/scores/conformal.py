"""Prediction sets with a guaranteed coverage: split conformal prediction.

The threshold is fitted on validation and measured on another split. A coverage is a number between
0 and 1; the command line checks it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from twostage_jax.errors import UserError

# 0.95 * 20 is 19.000000000000004 or 19, depending on the order of its factors.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Conformal:
    """Prediction sets of a split.

    Attributes:
        asked: target coverage, in (0, 1).
        measured: share of examples whose set contains their label.
        interval: 95 % interval for `measured`.
        mean_size: mean number of classes in a set.
        empty: share of empty sets.
        singletons: share of sets with one class.
        threshold: classes with `1 - p` up to this value are in the set.
        calibration_count: number of validation examples.
    """

    asked: float
    measured: float
    interval: list[float]
    mean_size: float
    empty: float
    singletons: float
    threshold: float
    calibration_count: int


def needed_examples(coverage: float) -> int:
    """Smallest number of validation examples for prediction sets with this coverage."""
    # The rank ceil((V + 1) * coverage) must be at most V.
    return math.ceil(coverage / (1 - coverage) - ROUNDING)


def check_enough(count: int, coverage: float) -> None:
    """Raise `UserError` if `count` validation examples are too few for this coverage."""
    needed = needed_examples(coverage)
    if count < needed:
        raise UserError(
            f"coverage {coverage:g} needs at least {needed} validation examples, but the run has "
            f"{count}: choose a lower --coverage, or train with a larger --validation"
        )


def measure_sets(
    validation: tuple[np.ndarray, np.ndarray],
    probability: np.ndarray,
    label: np.ndarray,
    coverage: float,
) -> Conformal:
    """Fit prediction sets on validation and measure them on another split.

    The threshold is the `ceil((V + 1) * coverage)`-th smallest `1 - p` of the true classes (Sadinle
    et al., "Least Ambiguous Set-Valued Classifiers With Bounded Error Levels", 2019). The number of
    covered examples follows a beta-binomial distribution (Angelopoulos and Bates, "A Gentle
    Introduction to Conformal Prediction", 2021).

    Args:
        validation: probabilities `[V, K]` and labels int `[V]`, at least `needed_examples`.
        probability: `[N, K]`.
        label: int `[N]`.
        coverage: target coverage, in (0, 1).
    """
    count = len(validation[1])
    rank = math.ceil((count + 1) * coverage - ROUNDING)
    threshold = np.sort(_distance(*validation))[rank - 1]
    size = (1 - np.asarray(probability, np.float64) <= threshold).sum(-1)
    # Both splits are samples, so the interval is wider than a binomial one.
    covered = _covered_quantiles(len(label), rank, count + 1 - rank, [0.025, 0.975])
    return Conformal(
        asked=coverage,
        measured=float((_distance(probability, label) <= threshold).mean()),
        interval=(covered / len(label)).tolist(),
        mean_size=float(size.mean()),
        empty=float((size == 0).mean()),
        singletons=float((size == 1).mean()),
        threshold=float(threshold),
        calibration_count=count,
    )


def _covered_quantiles(
    count: int, covered: int, missed: int, shares: Sequence[float]
) -> np.ndarray:
    """Quantiles of the beta-binomial distribution of `count` examples, int `[len(shares)]`.

    `scipy.stats` has them too, but its import takes 0.6 s.
    """
    successes = np.arange(count + 1)
    logs = special.betaln(successes + covered, count - successes + missed)
    logs -= special.betaln(count - successes + 1, successes + 1)
    logs -= math.log(count + 1) + special.betaln(covered, missed)
    return np.searchsorted(np.cumsum(np.exp(logs)), shares)


def _distance(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """`1 - p` of the true classes, `[N]`."""
    return 1 - np.asarray(probability, np.float64)[np.arange(len(label)), label]
