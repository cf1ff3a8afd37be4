"""Heads that see all training images: what they prepare, and what all their trials share."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from twostage_jax.engine.members import TrialData
from twostage_jax.engine.solve import FEATURES, PREPARED
from twostage_jax.runs.build import BANK, head_shapes, prepared_shapes
from twostage_jax.runs.handover import from_encoders
from twostage_jax.runs.plan import Plan
from twostage_jax.runs.trials import first_numbers
from twostage_jax.stages.stage import Params


class Prepared(NamedTuple):
    """Input of a head that sees all training images.

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
