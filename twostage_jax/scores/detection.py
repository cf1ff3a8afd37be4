"""Out-of-distribution detection: outlier scores of each example, and how well they separate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

# Directions with less than this share of the largest variance are noise or dead units.
CUTOFF = 1e-9

Distance = Callable[[np.ndarray], np.ndarray]


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


def mean_probability(probability: np.ndarray) -> np.ndarray:
    """Mean over members, float64 `[N, K]` from `[M, N, K]`."""
    # `dtype` avoids a float64 copy of all members: for a thousand of them that is gigabytes.
    return np.asarray(np.mean(probability, axis=0, dtype=np.float64))


def predictive_entropy(probability: np.ndarray) -> np.ndarray:
    """Entropy of each prediction in nats, `[N]` in [0, log K], from `[N, K]`."""
    return special.entr(np.asarray(probability, np.float64)).sum(-1)


def mutual_information(probability: np.ndarray) -> np.ndarray:
    """Disagreement of members about each example in nats, `[N]`, from `[M, N, K]`.

    Entropy of the mean minus mean of the entropies (Houlsby et al., "Bayesian Active Learning for
    Classification and Preference Learning", 2011).
    """
    # One member at a time; see `mean_probability`.
    total = sum(predictive_entropy(member) for member in probability)
    difference = predictive_entropy(mean_probability(probability)) - total / len(probability)
    # Rounding can make the difference of equal entropies negative.
    return np.maximum(difference, 0)


def energy(logits: np.ndarray) -> np.ndarray:
    """Mean over members of `-logsumexp(logits)`, `[N]`, from `[M, N, K]`.

    Liu et al., "Energy-based Out-of-distribution Detection", 2020.
    """
    members = [special.logsumexp(np.float64(member), axis=-1) for member in logits]
    return -np.mean(members, axis=0)


def make_mahalanobis(features: np.ndarray, label: np.ndarray) -> Distance:
    """Make a function of features `[N, D]`: the squared distance `[N]` to the nearest class mean.

    Each class that has examples is a Gaussian, and all have one covariance (Lee et al., "A Simple
    Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", 2018).

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
    # After this projection, distances are Euclidean.
    whiten = vectors[:, kept] / np.sqrt(variance[kept])
    centres = mean @ whiten

    def distance(features: np.ndarray) -> np.ndarray:
        points = np.asarray(features, np.float64) @ whiten
        # One class at a time, because `[N, K, D]` of a large split does not fit into memory.
        return np.min([((points - centre) ** 2).sum(-1) for centre in centres], axis=0)

    return distance


def outlier_scores(outputs: Outputs, distances: Sequence[Distance]) -> dict[str, np.ndarray]:
    """Scores `{name: [N]}`; a higher score is further out of the distribution.

    `distances` has one function for each encoder, in the order of `outputs.features`.
    """
    mean = mean_probability(outputs.probability)
    pairs = zip(distances, outputs.features, strict=True)
    scores = {
        "maximum_probability": 1 - mean.max(-1),
        "entropy": predictive_entropy(mean),
        "energy": energy(outputs.logits),
        "mahalanobis": np.mean([distance(features) for distance, features in pairs], axis=0),
    }
    # One member cannot disagree with itself.
    if len(outputs.probability) > 1:
        scores["mutual_information"] = mutual_information(outputs.probability)
    return scores


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
    distances = [make_mahalanobis(encoder, label) for encoder in features]
    inside_scores = outlier_scores(inside, distances)
    outside_scores = outlier_scores(outside, distances)
    table = {name: separation(inside_scores[name], outside_scores[name]) for name in inside_scores}
    arrays = {f"inside_{name}": values for name, values in inside_scores.items()}
    arrays |= {f"outside_{name}": values for name, values in outside_scores.items()}
    return table, arrays
