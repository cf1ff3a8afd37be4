"""Rejection of images of no class: fitted on validation, measured on test, stored in the run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.data.npz import read_archive
from twostage_jax.engine.passes import apply_pass
from twostage_jax.engine.predictor import Predictor
from twostage_jax.errors import Corrupted, UserError
from twostage_jax.runs.handover import FROZEN
from twostage_jax.runs.plan import Plan
from twostage_jax.runs.programs import RunPrograms
from twostage_jax.scores.detection import Gaussians, Outputs, fit_gaussians, mean_probability
from twostage_jax.scores.figures import arrays_file, probabilities
from twostage_jax.scores.rejection import (
    TARGET,
    Threshold,
    fit_threshold,
    needed_images,
    reject,
)
from twostage_jax.stages.stage import Params
from twostage_jax.store.checksums import check_output
from twostage_jax.store.layout import REJECTION
from twostage_jax.store.records import Rejection

# Limits for the Mahalanobis distance, which needs a matrix [D, D] of each encoder.
MOST_FEATURES = 1024
MOST_ENCODERS = 8
LEAST_PER_CLASS = 5  # mean number of labels of a class
# More images would cost time and change the threshold little.
SAMPLE = 10_000

Features = Callable[[np.ndarray], np.ndarray]


class FittedRejection(NamedTuple):
    """A threshold, and the Gaussians of the encoders, empty without `mahalanobis`."""

    threshold: Threshold
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
    threshold = fit_threshold(inside, validation["label"], gaussians, outside)
    return FittedRejection(threshold, gaussians if threshold.score == "mahalanobis" else ())


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
    fitted: FittedRejection,
    plan: Plan,
    chosen: Predictor,
    features: Features,
    logits: np.ndarray,
    test: dict[str, np.ndarray],
    outsiders: np.ndarray | None,
) -> Rejection:
    """Measure the rejected shares on test.

    Args:
        fitted: from `fit_rejection`.
        plan: the run.
        chosen: predictor of the chosen trials.
        features: from `make_features`.
        logits: their logits on test, `[M, N, K]`.
        test: the test split.
        outsiders: images of the other class in the test split, or None.
    """
    threshold, gaussians = fitted
    outputs = _outputs(logits, test["image"], features, gaussians)
    _, rejected = reject(outputs, threshold.score, threshold.limit, gaussians)
    correct = mean_probability(outputs.probability).argmax(-1) == test["label"]
    rejected_outsiders = None
    if outsiders is not None and len(outsiders):
        outputs = _outputs(chosen.logits(outsiders), outsiders, features, gaussians)
        _, far = reject(outputs, threshold.score, threshold.limit, gaussians)
        rejected_outsiders = float(far.mean())
    return Rejection(
        score=threshold.score,
        threshold=threshold.limit,
        target=TARGET,
        count=len(plan.dataset.validation["label"]),
        known_rejected=float(rejected.mean()),
        accepted_accuracy=None if rejected.all() else float(correct[~rejected].mean()),
        chosen_by=threshold.chosen_by,
        auroc=threshold.auroc,
        other_class=plan.config.other_class,
        other_count=None if outsiders is None else len(outsiders),
        other_rejected=rejected_outsiders,
    )


def rejection_files(fitted: FittedRejection | None) -> dict[str, bytes]:
    """Return the content of the file with the Gaussians, by name; empty without any."""
    if fitted is None or not fitted.gaussians:
        return {}
    arrays = {
        f"{name}_{number}": values
        for number, gaussians in enumerate(fitted.gaussians)
        for name, values in gaussians._asdict().items()
    }
    return {REJECTION: arrays_file(arrays)}


def load_gaussians(folder: Path, rejection: Rejection | None) -> tuple[Gaussians, ...]:
    """Load the Gaussians of a run's threshold; empty if it needs none.

    Raises:
        Corrupted: if the file is missing or differs from what was written.
    """
    if rejection is None or rejection.score != "mahalanobis":
        return ()
    check_output(folder, REJECTION)
    try:
        arrays = read_archive(folder / REJECTION)
        count = sum(name.startswith("whiten_") for name in arrays)
        return tuple(
            Gaussians(*(arrays[f"{name}_{number}"] for name in Gaussians._fields))
            for number in range(count)
        )
    except (UserError, KeyError) as error:
        raise Corrupted(f"{folder / REJECTION} is corrupted: {error}") from error
