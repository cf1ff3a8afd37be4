"""Transductive scores: accuracy on training images whose labels the head did not use."""

from typing import TypedDict

import jax
import numpy as np

from twostage_jax.engine.placement import map_members
from twostage_jax.engine.predictor import Predictor
from twostage_jax.runs.handover import head_axes
from twostage_jax.runs.networks import BANK
from twostage_jax.runs.plan import Plan
from twostage_jax.scores.detection import mean_probability
from twostage_jax.scores.figures import MemberScores, Scores, compute_scores, probabilities


class TransductiveFields(TypedDict):
    """Transductive fields of `ResultRecord`."""

    transductive: Scores | None
    member_transductive: MemberScores | None
    transductive_note: str | None


def transductive_fields(plan: Plan, chosen: Predictor, rows: np.ndarray) -> TransductiveFields:
    """Score the chosen trials on the images of the train split whose labels they did not use.

    Images of the unlabelled pool have no label to compare with. The comparison uses the labels of
    the source, without noise.

    Args:
        plan: the run.
        chosen: predictor of the chosen trials.
        rows: their numbers.
    """
    if plan.networks.head({}).transduce is None:
        return TransductiveFields(
            transductive=None, member_transductive=None, transductive_note=None
        )
    label = plan.dataset.train["label"]
    unused = np.ones((len(rows), len(label)), bool)
    index = np.broadcast_to(plan.examples.index, (len(plan.trials.heads), plan.examples.labelled))
    np.put_along_axis(unused, index[rows], False, axis=1)
    everywhere = unused.all(0)
    if not everywhere.any():
        note = (
            "every known label trains the head, so none is left to score other training images: "
            "give fewer --labels to measure this"
        )
        return TransductiveFields(
            transductive=None, member_transductive=None, transductive_note=note
        )
    logits = _transduce(plan, chosen, len(rows))
    probability = probabilities(logits[:, : len(label)])
    members = [
        vars(compute_scores(values[mask], label[mask]))
        for values, mask in zip(probability, unused, strict=True)
    ]
    names = ("accuracy", "nll", "ece", "brier")
    return TransductiveFields(
        transductive=compute_scores(
            mean_probability(probability[:, everywhere]), label[everywhere]
        ),
        member_transductive={name: [scores[name] for scores in members] for name in names},
        transductive_note=None,
    )


def _transduce(plan: Plan, chosen: Predictor, count: int) -> np.ndarray:
    """Logits `[M, N, K]` of all training images from each of the trials."""
    groups = {name: x for name, x in chosen.params.items() if name in ("head", BANK)}
    axes = head_axes(plan.trials, groups)
    logits = []
    for trial in range(count):
        params = map_members(lambda leaf, row=trial: leaf[row], axes, groups)
        numbers = {name: values[trial].item() for name, values in chosen.numbers.items()}
        transduce = plan.networks.head(numbers).transduce
        assert transduce is not None
        logits.append(jax.device_get(transduce({**params["head"], **params.get(BANK, {})})))
    return np.stack(logits)
