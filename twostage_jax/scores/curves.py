"""Statistics of error curves: intervals over draws, labels to match, and power laws.

An error curve is a mapping from the number of labels to the errors of the draws, float `[R]` each.
Draw r has the same labels in every arm, and each draw contains the smaller draws of its seed, so
resampling draws keeps arms and numbers of labels paired, if they have the same number of draws.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Curve = Mapping[int, np.ndarray]

REPEATS = 2000  # bootstrap samples; the bounds vary by a few per cent of the interval
FITS = 400  # bootstrap samples of a power law
EXPONENTS = np.arange(0.02, 3.005, 0.02)  # candidates for the exponent of a power law
FEWEST_POINTS = 4  # fewest numbers of labels for a power law, which has three parameters


class Interval(NamedTuple):
    """A figure and the bounds of its 95 % interval; bounds are NaN for a single draw."""

    value: float
    low: float
    high: float


class Extrapolation(NamedTuple):
    """Prediction of a power law, and its test on the largest number of labels.

    Attributes:
        law: `(a, b, c)` of `error = a + b · n^-c`.
        labels: number of labels of the prediction, twice the largest measured.
        expected: predicted error, with an interval over draws.
        held_out: largest measured number of labels, left out of a second fit.
        predicted: error that the second fit predicts there.
        measured: mean error that was measured there.
    """

    law: tuple[float, float, float]
    labels: int
    expected: Interval
    held_out: int
    predicted: Interval
    measured: float


def resamples(draws: int, repeats: int = REPEATS, seed: int = 0) -> np.ndarray:
    """Return bootstrap samples int `[repeats, draws]` of indices; each call gives the same ones."""
    # NumPy guarantees the numbers of `RandomState` for all versions.
    return np.random.RandomState(seed).randint(0, draws, (repeats, draws))


def mean_interval(values: np.ndarray) -> Interval:
    """Mean of the draws `[R]` and its 95 % interval, by the bootstrap over draws.

    The percentiles are widened for few draws (the expanded percentile interval of Hesterberg, "What
    Teachers Should Know About the Bootstrap", 2015), as Student's t widens the normal interval.

    >>> interval = mean_interval(np.array([1.0, 2.0, 3.0, 2.0]))
    >>> interval.value, 1 <= interval.low < 2 < interval.high <= 3
    (2.0, True)
    """
    values = np.asarray(values, float)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    means = values[resamples(len(values))].mean(1)
    low, high = np.quantile(means, _percentiles(len(values)))
    return Interval(mean, float(low), float(high))


def _percentiles(draws: int) -> tuple[float, float]:
    """Percentiles of bootstrap means that make a 95 % interval for so many draws."""
    from scipy.special import ndtr, stdtrit

    width = stdtrit(draws - 1, 0.975) * math.sqrt(draws / (draws - 1))
    tail = float(ndtr(-width))
    return tail, 1 - tail


def paired_difference(errors: np.ndarray, control: np.ndarray) -> Interval:
    """Mean of `errors - control` over the draws that both have, with its 95 % interval.

    >>> paired_difference(np.array([1.0, 2.0, 5.0]), np.array([2.0, 3.0])).value
    -1.0
    """
    common = min(len(errors), len(control))
    return mean_interval(np.asarray(errors)[:common] - np.asarray(control)[:common])


def labels_to_match(target: np.ndarray, control: Curve) -> Interval:
    """Number of labels that a control needs for the mean error of `target`, with its interval.

    The control's mean error is interpolated linearly over the logarithm of the number of labels,
    after it has been made non-increasing. The interval is a bootstrap over draws.

    Args:
        target: errors of the draws, `[R]`.
        control: error curve of the control.

    Returns:
        The number of labels: 0 if the control's smallest number is sufficient, infinity if its
        largest number is not.

    >>> curve = {10: np.array([0.4]), 1000: np.array([0.2])}
    >>> round(labels_to_match(np.array([0.3]), curve).value)
    100
    """
    counts = np.array(sorted(control))
    means = np.array([[control[int(count)].mean()] for count in counts])
    value = float(_crossing(counts, means, np.array([target.mean()]))[0])
    if len(target) < 2:
        return Interval(value, math.nan, math.nan)
    sampled = np.stack([_sampled_means(control[int(count)], REPEATS) for count in counts])
    values = np.sort(_crossing(counts, sampled, _sampled_means(target, REPEATS)))
    # No interpolation, because some values can be infinite.
    low, high = np.quantile(values, (0.025, 0.975), method="inverted_cdf")
    return Interval(value, float(low), float(high))


def _sampled_means(errors: np.ndarray, repeats: int) -> np.ndarray:
    """Means `[repeats]` over resampled draws `[R]`.

    Arrays with the same number of draws get the same samples, so they stay paired.
    """
    return np.asarray(errors, float)[resamples(len(errors), repeats)].mean(1)


def _crossing(counts: np.ndarray, means: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Numbers of labels `[repeats]` at which curves `[C, repeats]` reach `target` `[repeats]`."""
    means = np.minimum.accumulate(means, 0)
    reached = means <= target
    first = reached.argmax(0)
    columns = np.arange(len(target))
    before = np.maximum(first - 1, 0)
    upper = means[before, columns]
    lower = means[first, columns]
    # Where `before` equals `first`, the fraction is not used.
    fraction = (upper - target) / np.where(upper > lower, upper - lower, 1.0)
    logs = np.log(counts)
    between = np.exp(logs[before] + fraction * (logs[first] - logs[before]))
    value = np.where(first == 0, 0.0, between)
    return np.where(reached.any(0), value, np.inf)


def fit_power_law(counts: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Parameters `[..., 3]` of `error = a + b · n^-c` with a, b ≥ 0, by relative least squares.

    Args:
        counts: numbers of labels n, `[C]`, at least three.
        errors: mean errors above 0, `[..., C]`.

    >>> n = np.array([10, 100, 1000, 10000])
    >>> fit_power_law(n, 0.01 + 2 * n**-0.5).round(3).tolist()
    [0.01, 2.0, 0.5]
    """
    errors = np.maximum(np.asarray(errors, float), 1e-9)[..., None, :]
    counts = np.asarray(counts, float)
    # Small errors count as much as large ones.
    weight = errors**-2
    basis = (counts / counts[0])[None, :] ** -EXPONENTS[:, None]
    total = weight.sum(-1)
    mean_x = (weight * basis).sum(-1) / total
    mean_y = (weight * errors).sum(-1) / total
    spread = (weight * (basis - mean_x[..., None]) ** 2).sum(-1)
    covariance = (weight * (basis - mean_x[..., None]) * (errors - mean_y[..., None])).sum(-1)
    slope = np.maximum(covariance / np.maximum(spread, 1e-300), 0)
    level = mean_y - slope * mean_x
    # A negative level is replaced by the best fit through 0.
    through_zero = (weight * basis * errors).sum(-1) / (weight * basis**2).sum(-1)
    slope = np.where(level < 0, through_zero, slope)
    level = np.maximum(level, 0)
    fitted = level[..., None] + slope[..., None] * basis
    best = (weight * (fitted - errors) ** 2).sum(-1).argmin(-1)[..., None]
    a = np.take_along_axis(level, best, -1)
    c = EXPONENTS[best]
    b = np.take_along_axis(slope, best, -1) * counts[0] ** c
    return np.concatenate([a, b, c], -1)


def extrapolate(curve: Curve) -> Extrapolation | None:
    """Fit a power law to a curve, and predict the error with twice its largest number of labels.

    A second fit, without the largest number, tests such a prediction. Both intervals cover the
    choice of the draws. They do not cover a wrong form of the law.

    Returns:
        None for fewer than five numbers of labels.
    """
    counts = np.array(sorted(curve))
    if len(counts) <= FEWEST_POINTS:
        return None
    labels = int(2 * counts[-1])
    law, expected = _predict(curve, counts, labels)
    _, predicted = _predict(curve, counts[:-1], int(counts[-1]))
    last = int(counts[-1])
    return Extrapolation(law, labels, expected, last, predicted, float(curve[last].mean()))


def _predict(
    curve: Curve, counts: np.ndarray, labels: int
) -> tuple[tuple[float, float, float], Interval]:
    """Law fitted to some numbers of labels, and its prediction with an interval over draws."""
    means = np.array([curve[int(count)].mean() for count in counts])
    a, b, c = fit_power_law(counts, means).tolist()
    value = a + b * labels**-c
    draws = max(len(curve[int(count)]) for count in counts)
    if draws < 2:
        return (a, b, c), Interval(value, math.nan, math.nan)
    sampled = np.stack([_sampled_means(curve[int(count)], FITS) for count in counts], -1)
    laws = fit_power_law(counts, sampled)
    values = laws[:, 0] + laws[:, 1] * labels ** -laws[:, 2]
    low, high = np.quantile(values, (0.025, 0.975))
    return (a, b, c), Interval(value, float(low), float(high))
