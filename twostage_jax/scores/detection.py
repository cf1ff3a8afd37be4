"""Out-of-distribution detection: outlier scores of each example, and how well they separate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

# Directions with less than this share of the largest variance are noise or dead units.
CUTOFF = 1e-9

# Names of the outlier scores, in the order of tables.
OUTLIER_SCORES = (
    "maximum_probability",
    "entropy",
    "energy",
    "mahalanobis",
    "mutual_information",
)
# An array of NumPy or of JAX; their common type has no name.
Array: TypeAlias = Any


class Outputs(NamedTuple):
    """Outputs of a classifier, or of an ensemble, for some images.

    Attributes:
        probability: float32 `[M, N, K]`; see `figures.probabilities`.
        logits: `[M, N, K]`.
        features: `[M, N, D]`, or `[1, N, D]` if all members share one encoder.
    """

    probability: np.ndarray
    logits: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class Detection:
    """Separation of two sources by one outlier score.

    Attributes:
        auroc: probability that an example from outside has a higher score than one from inside;
            ties count half.
        fpr95: share of outside examples accepted by the lowest threshold that accepts at least
            95 % of the inside examples (Liang et al., "Enhancing the Reliability of
            Out-of-distribution Image Detection", 2018).
    """

    auroc: float
    fpr95: float


def mean_probability(probability: Array) -> Array:
    """Mean over members, float64 `[N, K]` from `[M, N, K]`."""
    if not isinstance(probability, np.ndarray):
        return probability.mean(0)
    # `dtype` avoids a float64 copy of all members: for a thousand of them that is gigabytes.
    return np.asarray(np.mean(probability, axis=0, dtype=np.float64))


def _precise(values: Array) -> Array:
    """Return values of NumPy as float64; those of JAX stay as they are."""
    return np.float64(values) if isinstance(values, np.ndarray) else values


def predictive_entropy(probability: Array) -> Array:
    """Entropy of each prediction in nats, `[N]` in [0, log K], from `[N, K]`."""
    xp = probability.__array_namespace__()
    probability = _precise(probability)
    # The logarithm of 0 is not computed: 0 · log 0 is 0.
    logs = xp.log(xp.where(probability > 0, probability, 1.0))
    return -(probability * logs).sum(-1)


def mutual_information(probability: Array) -> Array:
    """Disagreement of members about each example in nats, `[N]`, from `[M, N, K]`.

    Entropy of the mean minus mean of the entropies (Houlsby et al., "Bayesian Active Learning for
    Classification and Preference Learning", 2011).
    """
    # One member at a time; see `mean_probability`.
    total = sum(predictive_entropy(member) for member in probability)
    difference = predictive_entropy(mean_probability(probability)) - total / len(probability)
    # Rounding can make the difference of equal entropies negative.
    return difference.clip(0)


def energy(logits: Array) -> Array:
    """Mean over members of `-logsumexp(logits)`, `[N]`, from `[M, N, K]`.

    Liu et al., "Energy-based Out-of-distribution Detection", 2020.
    """
    xp = logits.__array_namespace__()
    total = 0.0
    for member in logits:
        values = _precise(member)
        largest = values.max(-1)
        total += largest + xp.log(xp.exp(values - largest[..., None]).sum(-1))
    return -total / len(logits)


class Gaussians(NamedTuple):
    """One Gaussian for each class, all with the same covariance, in the space of the features.

    Attributes:
        whiten: float64 `[D, R]`; after this projection, distances are Euclidean.
        centres: projected means of the P classes that have examples, float64 `[P, R]`.
        classes: their numbers, int `[P]`.
    """

    whiten: np.ndarray
    centres: np.ndarray
    classes: np.ndarray


def fit_gaussians(features: np.ndarray, label: np.ndarray) -> Gaussians:
    """Fit a Gaussian to each class that has examples.

    Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
    Adversarial Attacks", 2018.

    Args:
        features: `[N, D]`, of the training split.
        label: int `[N]`.
    """
    features = np.asarray(features, np.float64)
    classes, index = np.unique(label, return_inverse=True)
    mean = np.stack([features[index == k].mean(0) for k in range(len(classes))])
    centred = features - mean[index]
    variance, vectors = np.linalg.eigh(centred.T @ centred / len(label))
    # Without this cut a dead unit would divide by zero. Unusual values there are not detected.
    kept = variance > CUTOFF * variance.max()
    whiten = vectors[:, kept] / np.sqrt(variance[kept])
    return Gaussians(whiten, mean @ whiten, classes)


def mahalanobis(features: Array, gaussians: Gaussians) -> Array:
    """Squared distance `[N]` of features `[N, D]` to the nearest class mean."""
    xp = features.__array_namespace__()
    points = _precise(features) @ gaussians.whiten
    # One class at a time, because `[N, K, D]` of a large split does not fit into memory.
    distances = [((points - centre[None]) ** 2).sum(-1) for centre in gaussians.centres]
    return xp.min(xp.stack(distances), axis=0)


def outlier_score(name: str, outputs: Outputs, gaussians: Sequence[Gaussians] = ()) -> Array:
    """Outlier score `[N]`; a higher score is further out of the distribution.

    Arrays of NumPy are computed in float64. Arrays of JAX are computed in their own precision, and
    may be traced.

    Args:
        name: one of `OUTLIER_SCORES`.
        outputs: outputs for N images.
        gaussians: for `mahalanobis`, those of each encoder, in the order of `outputs.features`.

    >>> logits = np.array([[[2.0, 0.0], [0.0, 0.0]]])
    >>> outlier_score("energy", Outputs(logits, logits, logits)).round(2).tolist()
    [-2.13, -0.69]
    """
    if name == "maximum_probability":
        return 1 - mean_probability(outputs.probability).max(-1)
    if name == "entropy":
        return predictive_entropy(mean_probability(outputs.probability))
    if name == "energy":
        return energy(outputs.logits)
    if name == "mutual_information":
        return mutual_information(outputs.probability)
    pairs = zip(outputs.features, gaussians, strict=True)
    distances = [mahalanobis(*pair) for pair in pairs]
    return sum(distances) / len(distances)


def outlier_scores(outputs: Outputs, gaussians: Sequence[Gaussians]) -> dict[str, np.ndarray]:
    """Compute all outlier scores, `{name: [N]}`.

    Without `gaussians` there is no `mahalanobis`, and a single member has no `mutual_information`,
    because it cannot disagree with itself.
    """
    names = [
        name
        for name in OUTLIER_SCORES
        if (name != "mahalanobis" or gaussians)
        and (name != "mutual_information" or len(outputs.probability) > 1)
    ]
    return {name: np.asarray(outlier_score(name, outputs, gaussians)) for name in names}


def separation(inside: np.ndarray, outside: np.ndarray) -> Detection:
    """Separation of scores `[N1]` from inside and `[N2]` from outside."""
    # The U statistic of Mann and Whitney, from ranks: comparing all pairs would cost O(N1 N2).
    _, group, count = np.unique(
        np.concatenate([inside, outside]), return_inverse=True, return_counts=True
    )
    # Equal scores share the mean of their ranks, which start at 1.
    ranks = np.cumsum(count) - (count - 1) / 2
    above = ranks[group[len(inside) :]].sum() - len(outside) * (len(outside) + 1) / 2
    # The small number undoes the rounding of 0.95 * N1.
    threshold = np.sort(inside)[math.ceil(0.95 * len(inside) - 1e-9) - 1]
    return Detection(
        auroc=float(above / (len(inside) * len(outside))),
        fpr95=float((outside <= threshold).mean()),
    )


def detect_outliers(
    inside: Outputs, outside: Outputs, features: np.ndarray, label: np.ndarray
) -> tuple[dict[str, Detection], dict[str, np.ndarray]]:
    """Measure how well each outlier score separates images of another source.

    Args:
        inside: outputs for images of the run's data.
        outside: outputs for images of the other source.
        features: of the training split, `[M, N, D]` or `[1, N, D]`, for the Mahalanobis distance.
        label: int `[N]`, of the training split.

    Returns:
        `{score: Detection}`, and the scores as arrays: `inside_SCORE` `[N1]` and `outside_SCORE`
        `[N2]`.
    """
    gaussians = [fit_gaussians(encoder, label) for encoder in features]
    inside_scores = outlier_scores(inside, gaussians)
    outside_scores = outlier_scores(outside, gaussians)
    table = {name: separation(inside_scores[name], outside_scores[name]) for name in inside_scores}
    arrays = {f"inside_{name}": values for name, values in inside_scores.items()}
    arrays |= {f"outside_{name}": values for name, values in outside_scores.items()}
    return table, arrays
