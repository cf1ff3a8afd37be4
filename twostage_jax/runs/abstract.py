"""Placeholders for the examples of stage 2 before its features exist; only shapes matter."""

import numpy as np

from twostage_jax.engine.members import TrialData
from twostage_jax.runs.examples import head_data, solve_data, validation_data
from twostage_jax.runs.plan import Plan


def abstract_validation(plan: Plan, stage: str) -> TrialData | None:
    """Return validation examples of a stage before the features exist."""
    features = None
    if stage == "head" and plan.features_once:
        features = _no_features(plan, len(plan.dataset.validation["label"]))
    return validation_data(plan.examples, features, plan.trials)


def abstract_head_data(plan: Plan) -> TrialData:
    """Return data of stage 2 before the features exist; only shapes matter."""
    features = None
    if plan.features_once:
        features = _no_features(plan, len(plan.examples.used))
    return head_data(plan.examples, features, plan.trials)


def _no_features(plan: Plan, count: int) -> np.ndarray:
    """Return features `[E, count, D]` that take no memory."""
    # All strides are 0: the shapes of 60,000 images cost four bytes.
    shape = (len(plan.trials.encoders), count, *plan.networks.feature_shape)
    return np.broadcast_to(np.float32(0), shape)


def solve_examples(plan: Plan) -> TrialData:
    """Return examples of a solved head before the features exist; only shapes matter."""
    label = plan.dataset.validation["label"]
    validation = _no_features(plan, len(label))
    return solve_data(plan.examples, abstract_head_data(plan), validation, label, plan.trials)
