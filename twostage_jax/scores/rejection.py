"""Rejection of images that belong to none of the classes, by a threshold fitted on validation."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from twostage_jax.scores.detection import (
    Gaussians,
    Outputs,
    outlier_score,
    outlier_scores,
    separation,
)

TARGET = 0.05  # share of known images that the threshold may reject
# Undoes the rounding of (V + 1) · (1 - target).
_ROUNDING = 1e-9


class Threshold(NamedTuple):
    """Rule of rejection: images with a score above the limit belong to no class.

    Attributes:
        score: one of `detection.OUTLIER_SCORES`.
        limit: the highest accepted score.
        chosen_by: the rule of the choice, in words.
        auroc: area under the ROC curve that decided, by score.
    """

    score: str
    limit: float
    chosen_by: str
    auroc: dict[str, float]


def needed_images(target: float = TARGET) -> int:
    """Smallest number of validation images for a threshold that rejects this share.

    >>> needed_images(0.05)
    19
    """
    return math.ceil((1 - target) / target - _ROUNDING)


def fit_limit(scores: np.ndarray, target: float = TARGET) -> float:
    """Return the limit that a new known image exceeds with at most this probability.

    It is the `ceil((V + 1) · (1 - target))`-th smallest score, as for a prediction set
    (`conformal.measure_sets`).

    Args:
        scores: of V known images that nothing was trained on, V at least `needed_images`.
        target: share of known images that may be rejected.

    >>> fit_limit(np.arange(1.0, 20.0))
    19.0
    """
    rank = math.ceil((len(scores) + 1) * (1 - target) - _ROUNDING)
    return float(np.sort(scores)[rank - 1])


def fit_threshold(
    inside: Outputs,
    label: np.ndarray,
    gaussians: Sequence[Gaussians],
    outside: Outputs | None = None,
    target: float = TARGET,
) -> Threshold:
    """Choose an outlier score and fit its limit.

    The score separates best by the area under the ROC curve: known images from the images of
    another class if there are any. Otherwise each class in turn is treated as unknown. Its logit
    and its Gaussian are left out, and the mean over the classes decides.

    Args:
        inside: outputs for V validation images, V at least `needed_images`.
        label: their classes, int `[V]`.
        gaussians: of each encoder, for `mahalanobis`; empty to leave that score out.
        outside: outputs for images of no class that nothing was trained on.
        target: share of known images that may be rejected.
    """
    scores = outlier_scores(inside, gaussians)
    if outside is not None:
        far = outlier_scores(outside, gaussians)
        auroc = {name: separation(x, far[name]).auroc for name, x in scores.items()}
        rule = "largest area under the ROC curve for images of the other class"
    else:
        auroc = _held_out_classes(inside, label, gaussians)
        rule = "largest area under the ROC curve, mean over classes treated as unknown"
    best = max(auroc, key=lambda name: auroc[name])
    return Threshold(best, fit_limit(scores[best], target), rule, auroc)


def _held_out_classes(
    outputs: Outputs, label: np.ndarray, gaussians: Sequence[Gaussians]
) -> dict[str, float]:
    """Separation of each class from the others by scores that do not know this class."""
    classes = outputs.logits.shape[-1]
    figures: list[Mapping[str, float]] = []
    for unknown in np.unique(label):
        is_known = label != unknown
        if not is_known.any() or classes < 2:
            continue
        kept = np.arange(classes) != unknown
        probability = outputs.probability[..., kept]
        total = probability.sum(-1, keepdims=True)
        reduced = Outputs(
            probability / np.maximum(total, np.finfo(np.float32).tiny),
            outputs.logits[..., kept],
            outputs.features,
        )
        without = [
            Gaussians(x.whiten, x.centres[x.classes != unknown], x.classes[x.classes != unknown])
            for x in gaussians
        ]
        scores = outlier_scores(reduced, without)
        figures.append({n: separation(x[is_known], x[~is_known]).auroc for n, x in scores.items()})
    return {name: float(np.mean([row[name] for row in figures])) for name in figures[0]}


def reject(
    outputs: Outputs, score: str, limit: float, gaussians: Sequence[Gaussians]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the outlier score `[N]` of each image, and True for images that belong to no class.

    Arrays of JAX give arrays of JAX; see `detection.outlier_score`.

    Args:
        outputs: outputs for N images.
        score: `Threshold.score`.
        limit: `Threshold.limit`.
        gaussians: of each encoder, as the threshold was fitted with.
    """
    values = outlier_score(score, outputs, gaussians)
    return values, values > limit
