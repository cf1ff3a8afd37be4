"""Prediction sets with a guaranteed coverage: split conformal prediction.

The threshold is fitted on validation and measured on another split. A coverage is a number between
0 and 1; the command line checks it.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from twostage_jax.errors import UserError

# 0.95 * 20 is 19.000000000000004 or 19, depending on the order of its factors.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Conformal:
    """Prediction sets of a split.

    Attributes:
        asked: target coverage, in (0, 1).
        measured: share of examples whose set contains their label.
        interval: 95 % interval for `measured`; see `coverage_interval`.
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
    # The rank ceil((N + 1) * coverage) must be at most N.
    return math.ceil(coverage / (1 - coverage) - ROUNDING)


def check_enough(count: int, coverage: float) -> None:
    """Raise `UserError` if `count` validation examples are too few for this coverage."""
    needed = needed_examples(coverage)
    if count < needed:
        raise UserError(
            f"coverage {coverage:g} needs at least {needed} validation examples, but the run has "
            f"{count}: choose a lower --coverage, or train with a larger --validation"
        )


def conformal_threshold(probability: np.ndarray, label: np.ndarray, coverage: float) -> float:
    """Largest `1 - p` of a class that still belongs to a prediction set.

    It is the `ceil((N + 1) * coverage)`-th smallest value of the true classes (Sadinle et al.,
    "Least Ambiguous Set-Valued Classifiers With Bounded Error Levels", 2019).

    Args:
        probability: `[N, K]`, of the validation split.
        label: int `[N]`.
        coverage: target share of sets that contain the true class, in (0, 1).

    Raises:
        UserError: too few examples for this coverage.
    """
    check_enough(len(label), coverage)
    distance = 1 - np.asarray(probability, np.float64)[np.arange(len(label)), label]
    return float(np.sort(distance)[_rank(len(label), coverage) - 1])


def prediction_sets(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Classes in the set of each example, bool `[N, K]`, from probabilities `[N, K]`."""
    return 1 - np.asarray(probability, np.float64) <= threshold


def coverage_interval(coverage: float, validation_count: int, count: int) -> list[float]:
    """95 % interval for the coverage measured on `count` exchangeable examples.

    The number of covered examples follows a beta-binomial distribution (Angelopoulos and Bates,
    "A Gentle Introduction to Conformal Prediction", 2021).
    """
    # Both splits are samples, so the interval is wider than a binomial one.
    rank = _rank(validation_count, coverage)
    covered = stats.betabinom(count, rank, validation_count + 1 - rank)
    return (covered.ppf([0.025, 0.975]) / count).tolist()


def measure_sets(
    validation: tuple[np.ndarray, np.ndarray],
    probability: np.ndarray,
    label: np.ndarray,
    coverage: float,
) -> Conformal:
    """Fit prediction sets on validation and measure them on another split.

    Args:
        validation: probabilities `[V, K]` and labels int `[V]`.
        probability: `[N, K]`.
        label: int `[N]`.
        coverage: target coverage, in (0, 1).

    Raises:
        UserError: too few validation examples for this coverage.
    """
    threshold = conformal_threshold(*validation, coverage)
    sets = prediction_sets(probability, threshold)
    size = sets.sum(-1)
    count = len(validation[1])
    return Conformal(
        asked=coverage,
        measured=float(sets[np.arange(len(label)), label].mean()),
        interval=coverage_interval(coverage, count, len(label)),
        mean_size=float(size.mean()),
        empty=float((size == 0).mean()),
        singletons=float((size == 1).mean()),
        threshold=threshold,
        calibration_count=count,
    )


def _rank(count: int, coverage: float) -> int:
    return math.ceil((count + 1) * coverage - ROUNDING)
