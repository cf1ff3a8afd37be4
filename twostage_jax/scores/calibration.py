"""Quality of predicted probabilities: calibration error, temperature and selective prediction."""

import math

import numpy as np
from scipy import special

BINS = 15
LOWEST_TEMPERATURE = 0.05
HIGHEST_TEMPERATURE = 20.0
# The logarithm of a probability that float32 rounds to 0 is replaced by the logarithm of the
# smallest normal float32, so that one example never makes a mean infinite.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)


def log_probability(probability: np.ndarray) -> np.ndarray:
    """Logarithm in float64, of at least `SMALLEST_PROBABILITY`."""
    return np.log(np.maximum(np.asarray(probability, np.float64), SMALLEST_PROBABILITY))


def calibration_error(probability: np.ndarray, label: np.ndarray) -> float:
    """Expected calibration error in [0, 1] of probabilities `[N, K]`, over 15 equal bins.

    Bin `b` holds confidences in `(b / 15, (b + 1) / 15]`. The error is the sum over bins of
    `abs(sum(correct - confidence))`, divided by N (Guo et al., "On Calibration of Modern Neural
    Networks", 2017).
    """
    confidence = probability.max(-1)
    correct = probability.argmax(-1) == label
    gap = np.bincount(_bin_of(confidence), correct - confidence, BINS)
    return float(np.abs(gap).sum() / len(label))


def _bin_of(confidence: np.ndarray) -> np.ndarray:
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def reliability(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Bins of a reliability diagram, float `[15, 3]`, with the bins of `calibration_error`.

    Each row has the number of examples, their mean confidence and their accuracy; the last two are
    0 in an empty bin.

    Args:
        probability: `[N, K]`.
        label: int `[N]`.
    """
    confidence = probability.max(-1)
    correct = probability.argmax(-1) == label
    index = _bin_of(confidence)
    count = np.bincount(index, minlength=BINS)
    sums = [np.bincount(index, values, BINS) for values in (confidence, correct)]
    return np.stack([count, *(values / np.maximum(count, 1) for values in sums)], axis=1)


def fit_temperature(probability: np.ndarray, label: np.ndarray) -> float:
    """Temperature T in [0.05, 20] with the lowest NLL of `softmax(log(p) / T)` (Guo et al., 2017).

    Fit it on examples that are neither trained on nor reported on: the validation split.

    Args:
        probability: `[N, K]`, N at least 1.
        label: int `[N]`.
    """
    logs = log_probability(probability)
    rows = np.arange(len(label))

    def is_too_high(temperature: float) -> bool:
        # The derivative of the NLL by 1 / T, which grows with 1 / T: the NLL is convex in 1 / T.
        expected = (special.softmax(logs / temperature, axis=-1) * logs).sum(-1)
        return (expected - logs[rows, label]).mean() < 0

    # Bisection of log T, because halving and doubling are steps of the same size.
    low = math.log(LOWEST_TEMPERATURE)
    high = math.log(HIGHEST_TEMPERATURE)
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if is_too_high(math.exp(middle)) else (middle, high)
    return math.exp((low + high) / 2)


def apply_temperature(probability: np.ndarray, temperature: float) -> np.ndarray:
    """`softmax(log(p) / T)`, float64 `[..., K]`."""
    return special.softmax(log_probability(probability) / temperature, axis=-1)


def area_under_risk_coverage(probability: np.ndarray, label: np.ndarray) -> float:
    """Area under the risk-coverage curve, in [0, 1], of probabilities `[N, K]`.

    The risk at n is the share of errors among the n most confident examples, and the area is the
    mean of the N risks (Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks",
    2017).
    """
    wrong = probability.argmax(-1) != label
    # Examples of equal confidence share their errors, so their order does not matter.
    _, group, count = np.unique(-probability.max(-1), return_inverse=True, return_counts=True)
    mean_error = np.bincount(group, wrong) / count
    risk = np.cumsum(mean_error[np.sort(group)]) / np.arange(1, len(wrong) + 1)
    return float(risk.mean())
