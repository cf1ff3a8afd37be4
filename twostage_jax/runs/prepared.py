"""Heads that use all training images: prepared arrays, and features that all trials share."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from twostage_jax.engine.compile import compile_all
from twostage_jax.engine.members import TrialData
from twostage_jax.engine.memory import Need
from twostage_jax.engine.placement import Placement
from twostage_jax.engine.solve import FEATURES, PREPARED, SolvePrograms, lower_solve
from twostage_jax.runs.handover import from_encoders
from twostage_jax.runs.networks import BANK, head_shapes, prepared_shapes
from twostage_jax.runs.plan import Plan
from twostage_jax.runs.trials import first_numbers
from twostage_jax.stages.stage import Params


class Prepared(NamedTuple):
    """Input of a head that uses all training images.

    Attributes:
        data: features of all images and prepared arrays, as examples of the trials.
        frozen: group of the features, which is stored once for all trials of an encoder; empty if
            the head needs none to predict.
        shapes: shapes of the groups of stage 2 of one trial.
    """

    data: TrialData
    frozen: Params
    shapes: Params


def prepare_head(plan: Plan, features: np.ndarray) -> Prepared:
    """Call `Head.prepare` for each encoder.

    Args:
        plan: the run.
        features: features `[E, N, D]` of all training images from each encoder.
    """
    prepare = plan.networks.head({}).prepare
    assert prepare is not None, "the head prepares nothing"
    prepared = [prepare(values) for values in features]
    data = from_encoders(FEATURES, features, plan.trials) | _stacked(prepared, plan)
    shapes = head_shapes(
        plan.networks,
        plan.examples.labelled,
        len(plan.dataset.validation["label"]),
        first_numbers(plan.head_numbers),
        prepared_shapes(features[0], prepared[0]),
    )
    frozen: Params = {}
    if BANK in shapes:
        bank = features[0]
        if len(plan.trials.encoders) > 1:
            bank = features[plan.trials.encoder_numbers]
        frozen[BANK] = {FEATURES: bank}
    return Prepared(data, frozen, shapes)


def _stacked(prepared: list[Mapping[str, np.ndarray]], plan: Plan) -> TrialData:
    """Return the prepared arrays of all encoders as examples of the trials."""
    data = TrialData({}, {})
    for name in prepared[0]:
        arrays = np.stack([arrays[name] for arrays in prepared])
        data = data | from_encoders(PREPARED + name, arrays, plan.trials)
    return data


def encoded_images(plan: Plan) -> np.ndarray:
    """Return the training images that are encoded before stage 2."""
    if plan.networks.prepared:
        return plan.examples.images
    # Only images that are labelled in a trial: with ten labels, ten images are encoded.
    return plan.dataset.train["image"][plan.examples.used]


def need_prepared(plan: Plan) -> Need:
    """Estimate the memory of a trial whose head uses all training images."""
    images = len(plan.examples.images)
    scores = 4 * images * plan.networks.classes
    shared = 4 * images * int(np.prod(plan.networks.feature_shape))
    # About eight arrays of scores are in use at once, and the prepared arrays are as large as a
    # few hundred features.
    return Need(scores, 8 * scores, 2 * shared + 4 * 200 * images)


def compile_solve(plan: Plan, data: TrialData, placement: Placement) -> SolvePrograms:
    """Compile the solution of a head with `prepare` for all its examples."""
    numbers = first_numbers(plan.head_numbers)
    make_head = plan.networks.head
    return compile_all(lower_solve(make_head, numbers, data.shapes, data.axes, placement))
