"""Rejection of images of no class: fitted on validation, measured on test, stored in the run."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.data.split import Split
from twostage_jax.engine.passes import apply_pass
from twostage_jax.engine.predictor import Predictor
from twostage_jax.runs.handover import FROZEN
from twostage_jax.runs.opened import Run
from twostage_jax.runs.plan import Plan
from twostage_jax.runs.programs import RunPrograms
from twostage_jax.scores.detection import Gaussians, Outputs, fit_gaussians, mean_probability
from twostage_jax.scores.figures import probabilities
from twostage_jax.scores.rejection import (
    TARGET,
    FittedRule,
    fit_rule,
    needed_images,
    needs_features,
    reject,
)
from twostage_jax.stages.stage import Params
from twostage_jax.store.records import Rejection

# Limits for the Mahalanobis distance, which needs a matrix [D, D] of each encoder.
MOST_FEATURES = 1024
MOST_ENCODERS = 8
LEAST_PER_CLASS = 5  # mean number of labels of a class
# More images would cost time and change the threshold little.
SAMPLE = 10_000

Features = Callable[[np.ndarray], np.ndarray]


class RejectedShares(NamedTuple):
    """Shares of images that a threshold rejects; None for a share of nothing.

    Attributes:
        inside: share of the images of the evaluated split.
        accuracy: accuracy on the others.
        ood: share of the images of an out-of-distribution source.
        other: share of the images of the other class.
    """

    inside: float
    accuracy: float | None
    ood: float | None
    other: float | None


class FittedRejection(NamedTuple):
    """A rule, and the Gaussians of the encoders; empty if its score needs none."""

    fitted: FittedRule
    gaussians: tuple[Gaussians, ...]


def make_features(
    plan: Plan, programs: RunPrograms, pretrained: Params, chosen: Predictor, rows: np.ndarray
) -> Features:
    """Return a function of images: features `[E, N, D]` of the chosen trials' encoders.

    Args:
        plan: the run.
        programs: compiled.
        pretrained: groups `[E, ...]` of stage 1.
        chosen: predictor of the chosen trials.
        rows: their numbers.
    """
    program = programs.encode
    if program is None:
        return chosen.features
    # The program of the run itself is compiled already.
    shared = len(plan.trials.encoders) == 1
    encoders = np.array([0]) if shared else plan.trials.encoder_numbers[rows]
    params = jax.tree.map(lambda leaf: leaf[encoders], jax.device_get(pretrained[FROZEN]))
    placement = program.placement._replace(members=len(encoders))
    placed = program._replace(placement=placement)

    def features(images: np.ndarray) -> np.ndarray:
        return apply_pass(placed, params, images)

    return features


def fit_rejection(
    plan: Plan, chosen: Predictor, features: Features, logits: np.ndarray, rows: np.ndarray
) -> FittedRejection | None:
    """Fit a threshold on validation; None if validation is too small.

    Args:
        plan: the run.
        chosen: predictor of the chosen trials.
        features: from `make_features`.
        logits: their logits on validation, `[M, V, K]`.
        rows: their numbers.
    """
    validation = plan.dataset.validation
    if len(validation["label"]) < needed_images():
        return None
    gaussians = _fit_gaussians(plan, features, rows)
    inside = _outputs(logits, validation["image"], features, gaussians)
    outside = None
    pool = [images for images in plan.dataset.outsiders.values() if len(images)]
    if pool:
        images = _sample(np.concatenate(pool))
        outside = _outputs(chosen.logits(images), images, features, gaussians)
    fitted = fit_rule(inside, gaussians, outside)
    return FittedRejection(fitted, gaussians if needs_features(fitted.rule.score) else ())


def _outputs(
    logits: np.ndarray, images: np.ndarray, features: Features, gaussians: Sequence[Gaussians]
) -> Outputs:
    # Only the Mahalanobis distance reads features.
    empty = np.empty((0, len(images), 0), np.float32)
    return Outputs(probabilities(logits), logits, features(images) if gaussians else empty)


def _sample(values: np.ndarray) -> np.ndarray:
    """Return at most `SAMPLE` values, evenly spaced, because a source may be sorted by class."""
    size = min(len(values), SAMPLE)
    return values[np.arange(size) * len(values) // max(size, 1)]


def _fit_gaussians(plan: Plan, features: Features, rows: np.ndarray) -> tuple[Gaussians, ...]:
    """Fit Gaussians to the labelled training images of each chosen encoder; empty if too few."""
    encoders = 1 if len(plan.trials.encoders) == 1 and not plan.trials.tuned else len(rows)
    labelled = plan.examples.labelled
    least = max(plan.feature_count, LEAST_PER_CLASS * len(plan.dataset.classes))
    if plan.feature_count > MOST_FEATURES or encoders > MOST_ENCODERS or labelled < least:
        return ()
    fitted = []
    everything: np.ndarray | None = None
    for number in range(encoders):
        trial = rows[number]
        index = plan.examples.index
        label = plan.examples.label
        own_index = _sample(index if index.ndim == 1 else index[trial])
        own_label = _sample(label if label.ndim == 1 else label[trial])
        if everything is None or index.ndim > 1:
            everything = features(plan.dataset.train["image"][own_index])
        fitted.append(fit_gaussians(everything[number], own_label))
    return tuple(fitted)


def measure_rejection(
    rejection: FittedRejection,
    plan: Plan,
    chosen: Predictor,
    features: Features,
    logits: np.ndarray,
    test: Split,
    outsiders: np.ndarray | None,
) -> Rejection:
    """Measure the rejected shares on test.

    Args:
        rejection: from `fit_rejection`.
        plan: the run.
        chosen: predictor of the chosen trials.
        features: from `make_features`.
        logits: their logits on test, `[M, N, K]`.
        test: the test split.
        outsiders: images of the other class in the test split, or None.
    """
    (rule, chosen_by, auroc), gaussians = rejection

    def rejected(logits: np.ndarray, images: np.ndarray) -> np.ndarray:
        outputs = _outputs(logits, images, features, gaussians)
        return reject(outputs, rule, gaussians)[1]

    shares = _shares(rejected, chosen.logits, logits, test, None, outsiders)
    return Rejection(
        score=rule.score,
        threshold=rule.threshold,
        target=TARGET,
        count=len(plan.dataset.validation["label"]),
        known_rejected=shares.inside,
        accepted_accuracy=shares.accuracy,
        chosen_by=chosen_by,
        auroc=auroc,
        limits=dict(rule.limits) or None,
        other_class=plan.config.other_class,
        other_count=None if outsiders is None else len(outsiders),
        other_rejected=shares.other,
    )


def measure_shares(
    run: Run,
    logits: np.ndarray,
    split: Split,
    outliers: np.ndarray | None,
    outsiders: np.ndarray | None,
) -> RejectedShares | None:
    """Measure the shares that the threshold of a run rejects; None if it has no threshold.

    Args:
        run: from `open_run`.
        logits: logits of its trials on the split, `[M, N, K]`.
        split: evaluated images and labels.
        outliers: images of an out-of-distribution source, or None.
        outsiders: images of the run's other class, or None.
    """
    if run.rejection is None:
        return None

    def rejected(logits: np.ndarray, images: np.ndarray) -> np.ndarray:
        return run.reject_outputs(logits, images)[1]

    return _shares(rejected, run.predictor.logits, logits, split, outliers, outsiders)


def _shares(
    rejected: Callable[[np.ndarray, np.ndarray], np.ndarray],
    compute_logits: Callable[[np.ndarray], np.ndarray],
    logits: np.ndarray,
    split: Split,
    outliers: np.ndarray | None,
    outsiders: np.ndarray | None,
) -> RejectedShares:
    mask = rejected(logits, split["image"])
    correct = mean_probability(probabilities(logits)).argmax(-1) == split["label"]
    shares = [
        float(rejected(compute_logits(images), images).mean())
        if images is not None and len(images)
        else None
        for images in (outliers, outsiders)
    ]
    accuracy = None if mask.all() else float(correct[~mask].mean())
    return RejectedShares(float(mask.mean()), accuracy, *shares)
