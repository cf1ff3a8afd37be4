"""Does a classifier know when it does not know: calibration, detection, prediction sets.

Everything is computed in float64 from probabilities, so that anybody can compute it again from
saved ones. Fitted figures (temperature, thresholds) want a part of the data that nothing was
trained on and nothing is reported on: validation.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, optimize, special, stats

from twostage_jax.config.fields import check_coverage
from twostage_jax.errors import UserError

BINS = 15
TEMPERATURES = (0.05, 20.0)
# Logarithms of probabilities that float32 rounded to 0 are taken of its smallest normal number.
FLOOR = float(np.finfo(np.float32).tiny)
# Directions with less than this share of the largest variance are noise, or units that are dead.
CUTOFF = 1e-9


def pool(probability: np.ndarray) -> np.ndarray:
    """Mean probability of the members, float64 `[N, K]` from `[M, N, K]`; `[N, K]` as it is."""
    several = np.ndim(probability) == 3
    # Never all members in float64 at once: a thousand of them are gigabytes.
    mean = np.mean(probability, axis=0, dtype=np.float64) if several else np.float64(probability)
    return mean / mean.sum(-1, keepdims=True)


def fit_temperature(probability: np.ndarray, label: np.ndarray) -> float:
    """The temperature in [0.05, 20] by which the NLL of `softmax(log p / T)` is least.

    Guo et al., "On Calibration of Modern Neural Networks", 2017.

    Args:
        probability: `[N, K]`.
        label: int `[N]`.

    Raises:
        UserError: no examples.
    """
    if not len(label):
        raise UserError("a temperature is fitted on validation examples, and there are none")
    logs = _log(probability)

    def nll(log_temperature: float) -> float:
        scaled = special.log_softmax(logs / math.exp(log_temperature), axis=-1)
        return -scaled[np.arange(len(label)), label].mean()

    bounds = tuple(math.log(temperature) for temperature in TEMPERATURES)
    found: Any = optimize.minimize_scalar(
        nll, bounds=bounds, method="bounded", options={"xatol": 1e-8}
    )
    return math.exp(found.x)


def apply_temperature(probability: np.ndarray, temperature: float) -> np.ndarray:
    """`softmax(log p / T)`, float64 `[..., K]`."""
    return special.softmax(_log(probability) / temperature, axis=-1)


def scores(probability: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Accuracy, NLL in nats, ECE over 15 bins, Brier score and count, as `metrics.scores`.

    Args:
        probability: `[N, K]`.
        label: int `[N]`.
    """
    probability = np.asarray(probability, np.float64)
    rows, confidence = np.arange(len(label)), probability.max(-1)
    correct = probability.argmax(-1) == label
    index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gap = np.bincount(index, correct - confidence, BINS)
    true = np.eye(probability.shape[-1])[label]
    return {
        "accuracy": float(correct.mean()),
        "nll": float(-_log(probability)[rows, label].mean()),
        "ece": float(np.abs(gap).sum() / len(label)),
        "brier": float(((probability - true) ** 2).sum(-1).mean()),
        "count": len(label),
    }


def predictive_entropy(probability: np.ndarray) -> np.ndarray:
    """Entropy of each prediction in nats, `[N]` in [0, log K] from `[N, K]`."""
    return special.entr(np.asarray(probability, np.float64)).sum(-1)


def mutual_information(probability: np.ndarray) -> np.ndarray:
    """How much the members disagree, in nats, `[N]` from `[M, N, K]`.

    The entropy of the mean less the mean entropy (Houlsby et al., "Bayesian Active Learning for
    Classification and Preference Learning", 2011).
    """
    each = sum(predictive_entropy(pool(one)) for one in probability) / len(probability)
    return np.maximum(predictive_entropy(pool(probability)) - each, 0)


def energy(logits: np.ndarray) -> np.ndarray:
    """`-logsumexp` of logits `[N, K]`, or its mean over members of `[M, N, K]`: `[N]`.

    Higher is further out (Liu et al., "Energy-based Out-of-distribution Detection", 2020).
    """
    members = logits if np.ndim(logits) == 3 else [logits]
    return -np.mean([special.logsumexp(np.float64(one), axis=-1) for one in members], axis=0)


class Gaussians(NamedTuple):
    """One Gaussian for each class, with one covariance for all.

    Attributes:
        mean: `[K', D]`, of the classes that have examples.
        whiten: `[D, R]`; distances are Euclidean after it.
    """

    mean: np.ndarray
    whiten: np.ndarray


def fit_gaussians(features: np.ndarray, label: np.ndarray) -> Gaussians:
    """Means of the classes and their common covariance (Lee et al., 2018).

    Directions in which the features hardly vary within classes (dead units) are left out: what is
    only unusual there goes unnoticed. "A Simple Unified Framework for Detecting Out-of-Distribution
    Samples and Adversarial Attacks".

    Args:
        features: `[N, D]`.
        label: int `[N]`.
    """
    features = np.asarray(features, np.float64)
    classes, index = np.unique(label, return_inverse=True)
    mean = np.stack([features[index == k].mean(0) for k in range(len(classes))])
    centred = features - mean[index]
    variance, vectors = linalg.eigh(centred.T @ centred / len(label))
    kept = variance > CUTOFF * variance.max()
    return Gaussians(mean, vectors[:, kept] / np.sqrt(variance[kept]))


def mahalanobis(gaussians: Gaussians, features: np.ndarray) -> np.ndarray:
    """Squared distance to the nearest class mean, `[N]` from features `[N, D]`."""
    points = np.asarray(features, np.float64) @ gaussians.whiten
    means = gaussians.mean @ gaussians.whiten
    return np.min([((points - mean) ** 2).sum(-1) for mean in means], axis=0)


def detection(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """How well a score tells examples from outside, where it should be higher.

    Args:
        inside: `[N1]`, of examples like those trained on.
        outside: `[N2]`.

    Returns:
        `auroc`, the probability that one from outside scores higher than one from inside (ties
        count half), and `fpr95`, the share of those outside that a threshold lets in which lets in
        at least 95 % of those inside (Liang et al., "Enhancing the Reliability of
        Out-of-distribution Image Detection", 2018).
    """
    ranks = stats.rankdata(np.concatenate([inside, outside]))[len(inside) :]
    above = ranks.sum() - len(outside) * (len(outside) + 1) / 2
    threshold = np.sort(inside)[math.ceil(0.95 * len(inside) - 1e-9) - 1]
    return {
        "auroc": float(above / (len(inside) * len(outside))),
        "fpr95": float((np.asarray(outside) <= threshold).mean()),
    }


def needed_examples(coverage: float) -> int:
    """How many validation examples prediction sets of that coverage need at least."""
    check_coverage(coverage)
    # k = ceil((n + 1) coverage) must not be more than n.
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def check_enough(count: int, coverage: float) -> None:
    """Raise `UserError` where `count` validation examples are too few for that coverage."""
    needed = needed_examples(coverage)
    if count < needed:
        raise UserError(
            f"coverage {coverage:g} needs at least {needed} validation examples and there are "
            f"{count}: ask for less, or train with a larger --validation"
        )


def conformal_threshold(probability: np.ndarray, label: np.ndarray, coverage: float) -> float:
    """The score `1 - p` up to which a class belongs into the prediction set.

    Split conformal prediction: the `ceil((N + 1) coverage)`-th smallest score of the true classes
    (Sadinle et al., "Least Ambiguous Set-Valued Classifiers With Bounded Error Levels", 2019).

    Args:
        probability: `[N, K]`, of validation.
        label: int `[N]`.
        coverage: share of true classes that the sets shall contain, in (0, 1).

    Raises:
        UserError: another coverage, or too few examples for it.
    """
    check_enough(len(label), coverage)
    score = 1 - np.asarray(probability, np.float64)[np.arange(len(label)), label]
    return float(np.sort(score)[_rank(len(label), coverage) - 1])


def prediction_sets(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Which classes belong into the set of each example, bool `[N, K]` from `[N, K]`."""
    return 1 - np.asarray(probability, np.float64) <= threshold


def coverage_interval(
    coverage: float, calibration: int, test: int, level: float = 0.95
) -> tuple[float, float]:
    """Within which the share covered on test lies with probability `level`, if all is as promised.

    The number covered is beta-binomial (Angelopoulos and Bates, "A Gentle Introduction to Conformal
    Prediction", 2021).

    Args:
        coverage: asked for, in (0, 1).
        calibration: examples the threshold was fitted on.
        test: examples it is measured on.
        level: of the interval.
    """
    rank = _rank(calibration, coverage)
    covered = stats.betabinom(test, rank, calibration + 1 - rank)
    low, high = covered.ppf([(1 - level) / 2, (1 + level) / 2]) / test
    return float(low), float(high)


def conformal(
    validation: np.ndarray,
    validation_label: np.ndarray,
    test: np.ndarray,
    test_label: np.ndarray,
    coverage: float,
) -> dict[str, Any]:
    """Prediction sets fitted on validation and measured on test, of probabilities `[N, K]`.

    Returns:
        `asked` and `measured` coverage, the `interval` of `coverage_interval`, `mean_size` of the
        sets, shares of `empty` ones and of `singletons`, the `threshold` and `calibration_count`.

    Raises:
        UserError: as `conformal_threshold`.
    """
    threshold = conformal_threshold(validation, validation_label, coverage)
    sets = prediction_sets(test, threshold)
    size = sets.sum(-1)
    return {
        "asked": coverage,
        "measured": float(sets[np.arange(len(test_label)), test_label].mean()),
        "interval": list(coverage_interval(coverage, len(validation_label), len(test_label))),
        "mean_size": float(size.mean()),
        "empty": float((size == 0).mean()),
        "singletons": float((size == 1).mean()),
        "threshold": threshold,
        "calibration_count": len(validation_label),
    }


def risk_coverage(probability: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share answered and share of errors among them, `[N]` each, the most confident first.

    Examples of equal confidence share their errors, so that their order does not matter. Geifman
    and El-Yaniv, "Selective Classification for Deep Neural Networks", 2017.
    """
    confidence = np.asarray(probability, np.float64).max(-1)
    wrong = np.asarray(probability).argmax(-1) != label
    _, group, count = np.unique(-confidence, return_inverse=True, return_counts=True)
    mean = np.bincount(group, wrong) / count
    answered = np.arange(1, len(wrong) + 1)
    return answered / len(wrong), np.cumsum(mean[np.sort(group)]) / answered


def aurc(probability: np.ndarray, label: np.ndarray) -> float:
    """Area under the risk-coverage curve, in [0, 1]: the mean of its risks."""
    return float(risk_coverage(probability, label)[1].mean())


def interval(values: np.ndarray) -> dict[str, float | None]:
    """`mean`, `std` and the 95 % Student interval of the mean, `low` to `high`, of members `[M]`.

    With one member there is a mean only; the others are None.
    """
    values = np.asarray(values, np.float64)
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return {"mean": mean, "std": None, "low": None, "high": None}
    std = float(values.std(ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * std / math.sqrt(count)
    return {"mean": mean, "std": std, "low": mean - half, "high": mean + half}


def _rank(count: int, coverage: float) -> int:
    # 0.95 * 20 is 19.000000000000004 or less or more, by the order of its factors.
    return math.ceil((count + 1) * coverage - 1e-9)


def _log(probability: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(probability, np.float64), FLOOR))
