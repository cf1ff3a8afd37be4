"""Pictures of a run, drawn after its result is printed."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import numpy as np

from twostage_jax.data.split import Split
from twostage_jax.runs.finish import Finished, Trained
from twostage_jax.runs.plan import Plan
from twostage_jax.show.mosaics import draw_mistakes, draw_reconstructions, find_mistakes
from twostage_jax.show.plots import plot_confusion, plot_curves
from twostage_jax.stages.stage import Params, as_image
from twostage_jax.store.epochs import EpochRecord

CURVES = "curves.png"
RECONSTRUCTIONS = "reconstructions.png"
CONFUSION = "confusion.png"
MISTAKES = "mistakes.png"
PICTURES = (CURVES, RECONSTRUCTIONS, CONFUSION, MISTAKES)
Decode: TypeAlias = Callable[[Params, jax.Array], jax.Array]
SHOWN = 10  # images with their reconstructions


def draw_pictures(plan: Plan, trained: Trained, finished: Finished) -> dict[str, bytes]:
    """Draw the pictures of a finished run; returns the content of PNG files by name."""
    records = [record for stage in trained.records.values() for record in stage]
    # The first of the chosen encoders stands for all of them.
    encoder = int(plan.trials.encoder_numbers[finished.record.ensemble.rows[0]])
    pictures = draw_stage_1(plan, trained.pretrained, encoder, records, "test", finished.test)
    classes = plan.dataset.classes
    assert finished.record.test.confusion is not None, "the test split is not empty"
    pictures[CONFUSION] = plot_confusion(finished.record.test.confusion, classes, "test")
    mistakes = find_mistakes(finished.probability, finished.test["image"], finished.test["label"])
    pictures[MISTAKES] = draw_mistakes(mistakes, classes, "test")
    return pictures


def draw_stage_1(
    plan: Plan,
    pretrained: Params,
    encoder: int,
    records: Sequence[EpochRecord],
    name: str,
    split: Split,
) -> dict[str, bytes]:
    """Draw the curves, if there are epochs, and reconstructions, if there is a decoder.

    Args:
        plan: the run.
        pretrained: groups `[E, ...]` of stage 1.
        encoder: number of the encoder that reconstructs.
        records: of all epochs.
        name: of the split with the images to reconstruct.
        split: its examples; there are no reconstructions without any.
    """
    pictures = {}
    if records:
        pictures[CURVES] = plot_curves(records)
    if plan.networks.decode is not None and len(split["label"]):
        images = split["image"][_sample(split["label"])]
        params = jax.tree.map(lambda leaf: leaf[encoder], jax.device_get(pretrained))
        decoded = jax.jit(_decode, static_argnums=0)(plan.networks.decode, params, images)
        pixels = np.clip(np.round((np.asarray(decoded) + 1) * 127.5), 0, 255).astype(np.uint8)
        shape = images.shape
        pictures[RECONSTRUCTIONS] = draw_reconstructions(images, pixels.reshape(shape), name)
    return pictures


def _decode(decode: Decode, params: Params, images: jax.Array) -> jax.Array:
    return decode(params, as_image(images))


def _sample(label: np.ndarray) -> np.ndarray:
    """Indices of the first examples of every class, in turn, until there are `SHOWN`."""
    order = np.argsort(label, kind="stable")
    _, first, counts = np.unique(label[order], return_index=True, return_counts=True)
    # Number of each example within its class.
    turn = np.arange(len(label)) - np.repeat(first, counts)
    return order[np.lexsort((label[order], turn))][:SHOWN]
