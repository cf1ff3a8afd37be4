"""Pictures of a run, drawn after its result is printed."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from twostage_jax.data.split import Split
from twostage_jax.runs.finish import Finished
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


class Reconstructions(NamedTuple):
    """Images of a split, and what the decoder makes of their features; uint8 `[n, H, W, C]`."""

    images: np.ndarray
    decoded: np.ndarray
    split: str


def draw_pictures(
    plan: Plan,
    records: Sequence[EpochRecord],
    finished: Finished,
    reconstructions: Reconstructions | None,
) -> dict[str, bytes]:
    """Draw the pictures of a finished run; returns the content of PNG files by name."""
    pictures = draw_stage_1(records, reconstructions)
    classes = plan.dataset.classes
    assert finished.record.test.confusion is not None, "the test split is not empty"
    pictures[CONFUSION] = plot_confusion(finished.record.test.confusion, classes, "test")
    mistakes = find_mistakes(finished.probability, finished.test["image"], finished.test["label"])
    pictures[MISTAKES] = draw_mistakes(mistakes, classes, "test")
    return pictures


def draw_stage_1(
    records: Sequence[EpochRecord], reconstructions: Reconstructions | None
) -> dict[str, bytes]:
    """Draw the curves, if there are epochs, and reconstructions, if there is a decoder."""
    pictures = {}
    if records:
        pictures[CURVES] = plot_curves(records)
    if reconstructions is not None:
        pictures[RECONSTRUCTIONS] = draw_reconstructions(*reconstructions)
    return pictures


def reconstruct(
    plan: Plan, pretrained: Params, encoder: int, name: str, split: Split
) -> Reconstructions | None:
    """Reconstruct some images of a split; None without a decoder or without images.

    Args:
        plan: the run.
        pretrained: groups `[E, ...]` of stage 1.
        encoder: number of the encoder that reconstructs.
        name: of the split.
        split: its examples.
    """
    if plan.networks.decode is None or not len(split["label"]):
        return None
    images = split["image"][sample_rows(split["label"], SHOWN)]
    params = jax.tree.map(lambda leaf: leaf[encoder], jax.device_get(pretrained))
    decoded = jax.jit(_decode, static_argnums=0)(plan.networks.decode, params, images)
    return Reconstructions(images, as_pixels(decoded).reshape(images.shape), name)


def as_pixels(images: jax.Array | np.ndarray) -> np.ndarray:
    """Convert images in [-1, 1] to uint8; values outside are clipped."""
    return np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255).astype(np.uint8)


def _decode(decode: Decode, params: Params, images: jax.Array) -> jax.Array:
    return decode(params, as_image(images))


def sample_rows(label: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of the first examples of every class, in turn, until there are `count`."""
    order = np.argsort(label, kind="stable")
    _, first, counts = np.unique(label[order], return_index=True, return_counts=True)
    # Number of each example within its class.
    turn = np.arange(len(label)) - np.repeat(first, counts)
    return order[np.lexsort((label[order], turn))][:count]
