"""Rejection of images that belong to none of the classes, by a threshold fitted on validation."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from twostage_jax.scores.detection import (
    Array,
    Gaussians,
    Outputs,
    outlier_score,
    outlier_scores,
    separation,
)

TARGET = 0.05  # share of known images that the threshold may reject
COMBINED = "combined"
# An image is rejected if the classifier hesitates, or if its features are unusual. Neither is
# enough: of images of a class that was left out, the Mahalanobis distance found those of the class
# 1 of MNIST worse than chance, and on photographs of hands the energy of digits was lower than that
# of hands. `docs/protocol.md` has the figures.
PARTS = ("entropy", "mahalanobis")
BY_OTHER_CLASS = "largest area under the ROC curve for images of the other class"
BY_DEFAULT = "default: large entropy of the prediction, or unusual features"
BY_ENTROPY = "default: large entropy; too few labels or validation images for unusual features"
_SMALLEST = 1e-12  # avoids 0/0 where a classifier is always certain
_ROUNDING = 1e-9  # undoes the rounding of (V + 1) · (1 - target)


class Rule(NamedTuple):
    """Rule of rejection: images whose score is above the threshold belong to no class.

    Attributes:
        score: one of `detection.OUTLIER_SCORES`, or `combined`.
        threshold: the highest accepted score.
        limits: for `combined`, limits of its parts by name. The combined score is the largest ratio
            of a part to its limit.
    """

    score: str
    threshold: float
    limits: Mapping[str, float] = {}


class FittedRule(NamedTuple):
    """A rule, the reason for its score in words, and the figures that decided, by score."""

    rule: Rule
    chosen_by: str
    auroc: dict[str, float]


def needed_images(target: float = TARGET) -> int:
    """Smallest number of validation images for a threshold that rejects this share.

    >>> needed_images(0.05)
    19
    """
    return math.ceil((1 - target) / target - _ROUNDING)


def accepted_rank(count: int, target: float = TARGET, limits: int = 1) -> int:
    """Rank of the highest accepted score among those of `count` known images, from 1.

    A new known image has a higher score with at most the probability `target`, as for a prediction
    set (`conformal.measure_sets`). Each further limit that is fitted on the same images costs one
    rank. The rank is above `count` if there are too few images.

    >>> accepted_rank(19), accepted_rank(1000), accepted_rank(1000, limits=2)
    (19, 951, 952)
    """
    return math.ceil((count + 1) * (1 - target) - _ROUNDING) + limits - 1


def fit_rule(
    inside: Outputs,
    gaussians: Sequence[Gaussians],
    outside: Outputs | None = None,
    target: float = TARGET,
) -> FittedRule:
    """Choose an outlier score and fit its threshold.

    With images of another class, the score is chosen that separates them best. Otherwise it is the
    combination of entropy and Mahalanobis distance, or the entropy alone if there are no Gaussians
    or fewer than 39 validation images. A choice by treating each class as unknown is not made: the
    head has learnt to separate all of them, so logits look better than they are.

    Args:
        inside: outputs for V validation images, V at least `needed_images`.
        gaussians: of each encoder, for `mahalanobis`; empty to leave that score out.
        outside: outputs for images of no class that nothing was trained on.
        target: share of known images that may be rejected.
    """
    scores = outlier_scores(inside, gaussians)
    count = len(inside.logits[0])
    rank = accepted_rank(count, target)
    rules = {name: Rule(name, float(np.sort(x)[rank - 1])) for name, x in scores.items()}
    rank = accepted_rank(count, target, len(PARTS))
    if gaussians and rank <= count:
        limits = _combined_limits({name: scores[name] for name in PARTS}, rank)
        rules[COMBINED] = Rule(COMBINED, 1.0, limits)
    if outside is None and COMBINED in rules:
        return FittedRule(rules[COMBINED], BY_DEFAULT, {})
    if outside is None:
        return FittedRule(rules["entropy"], BY_ENTROPY, {})
    auroc = {
        name: separation(
            rejection_score(inside, rule, gaussians), rejection_score(outside, rule, gaussians)
        ).auroc
        for name, rule in rules.items()
    }
    best = max(auroc, key=lambda name: auroc[name])
    return FittedRule(rules[best], BY_OTHER_CLASS, auroc)


def _combined_limits(scores: Mapping[str, np.ndarray], rank: int) -> dict[str, float]:
    """Limits at a common rank such that `rank` images exceed none of them."""
    # Ranks from 1; an image counts with its highest.
    ranks = [np.argsort(np.argsort(x, kind="stable"), kind="stable") + 1 for x in scores.values()]
    level = np.sort(np.max(ranks, axis=0))[rank - 1]
    return {name: max(float(np.sort(x)[level - 1]), _SMALLEST) for name, x in scores.items()}


def rejection_score(outputs: Outputs, rule: Rule, gaussians: Sequence[Gaussians]) -> Array:
    """Outlier score `[N]` of a rule.

    Arrays of JAX give arrays of JAX, and may be traced; see `detection.outlier_score`.

    Args:
        outputs: outputs for N images.
        rule: which score.
        gaussians: of each encoder, as the rule was fitted with.
    """
    if rule.score != COMBINED:
        return outlier_score(rule.score, outputs, gaussians)
    xp = outputs.logits.__array_namespace__()
    parts = [outlier_score(n, outputs, gaussians) / limit for n, limit in rule.limits.items()]
    return xp.max(xp.stack(parts), axis=0)


def reject(outputs: Outputs, rule: Rule, gaussians: Sequence[Gaussians]) -> tuple[Array, Array]:
    """Return the outlier score `[N]` of each image, and True for images that belong to no class.

    Args:
        outputs: outputs for N images.
        rule: score and threshold.
        gaussians: of each encoder, as the rule was fitted with; see `needs_features`.
    """
    values = rejection_score(outputs, rule, gaussians)
    return values, values > rule.threshold


def needs_features(score: str) -> bool:
    """Return True if a score needs features and Gaussians.

    >>> needs_features("combined"), needs_features("entropy")
    (True, False)
    """
    return score in (COMBINED, "mahalanobis")
