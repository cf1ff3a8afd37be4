"""Choice of an augmentation: by name, or from the images themselves, without a label.

Three figures of the images decide. Each is a median or mean over a sample, and a person can check
its meaning in a picture:

- similarity: of neighbouring pixels, 1 if they are equal, 0 if they are unrelated;
- ground: share of pixels with the background's value;
- filled: share of the ink that is left after the border of each shape is removed. The border is two
  pixels wide in a 28×28 image. Of strokes, nothing is left.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import jax
import numpy as np

from twostage_jax.config.schema import Config
from twostage_jax.errors import UserError
from twostage_jax.runs.own_code import find_function, trace_errors
from twostage_jax.runs.specs import batch_spec
from twostage_jax.stages.families import AUGMENTATIONS, OBJECTIVES
from twostage_jax.stages.pretrain.two_views import Augment
from twostage_jax.stages.signature import parameter_names
from twostage_jax.stages.stage import new_key
from twostage_jax.stages.views.augment import augmentation
from twostage_jax.stages.views.settings import Views
from twostage_jax.store.records import AugmentationRecord

SAMPLE = 2000
MOST_VALUES = 2**25  # values of a sample
SIMILAR = 0.2  # below it, neighbouring pixels are unrelated
GROUND = 0.4  # above it, the ground is plain
FILLED = 0.15  # below it, shapes are strokes
TOLERANCE = 0.25  # evidence is weak within this relative distance to a limit
LARGE = 32  # pixels; grey images above this size may be photographs


class Choice(NamedTuple):
    """Chosen augmentation family.

    Attributes:
        name: name of the family.
        reason: the reason in words.
        table: the figures that decided, by name.
    """

    name: str
    reason: str
    table: dict[str, float]


def choose_augmentation(images: np.ndarray, seed: int = 0) -> Choice:
    """Choose the augmentation family for images, without labels.

    Args:
        images: uint8 `[N, H, W, C]`, N at least 1.
        seed: seed of the sample, of at most 2,000 images.

    Returns:
        The same choice for the same images and seed.

    >>> import numpy as np
    >>> noise = np.random.default_rng(0).integers(0, 256, (50, 9, 9, 1), np.uint8)
    >>> choose_augmentation(noise).name
    'none'
    """
    table = measure_images(images, seed)
    name, reason = _decide(table, images.shape[1:])
    try:
        AUGMENTATIONS[name].check_size(images.shape[1:])
    except UserError as error:
        return Choice("none", f"{name} does not fit: {str(error).partition(':')[0]}", table)
    weak = [
        figure
        for figure, limit in (("similarity", SIMILAR), ("ground", GROUND), ("filled", FILLED))
        if figure in reason and abs(table[figure] / limit - 1) < TOLERANCE
    ]
    if weak:
        reason += f"; the evidence is weak ({' and '.join(weak)} near the limit)"
    return Choice(name, reason, table)


def _decide(table: Mapping[str, float], image_shape: tuple[int, ...]) -> tuple[str, str]:
    height, width, channels = image_shape
    similarity = f"similarity {table['similarity']:.2f}"
    ground = f"ground {table['ground']:.2f}"
    filled = f"filled {table['filled']:.2f}"
    if table["similarity"] < SIMILAR:
        return "none", f"neighbouring pixels are unrelated ({similarity}, limit {SIMILAR})"
    if table["ground"] > GROUND and table["filled"] < FILLED:
        limits = f"limits {GROUND} and {FILLED}"
        return "handwriting", f"thin strokes on a plain ground ({ground}, {filled}, {limits})"
    if channels == 3:
        return "photographs", "the images have colours"
    if max(height, width) > LARGE and table["ground"] <= GROUND:
        return "photographs", f"large grey images without a plain ground ({ground}, limit {GROUND})"
    if table["filled"] >= FILLED:
        return "objects", f"grey filled shapes and no thin strokes ({filled}, limit {FILLED})"
    return "objects", f"grey images without a plain ground ({ground}, limit {GROUND})"


def measure_images(images: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Return `similarity`, `ground` and `filled` of a sample of images, uint8 `[N, H, W, C]`."""
    limit = max(1, MOST_VALUES // int(np.prod(images.shape[1:])))
    count = min(len(images), SAMPLE, limit)
    rows = np.random.default_rng(seed).permutation(len(images))[:count]
    grey = images[np.sort(rows)].astype(np.float32).mean(-1) / 255
    corners = grey[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    # As in `stages.views.pixels.background`: the mean of the middle two corners.
    background = np.sort(corners, 1)[:, 1:3].mean(1)
    ink = np.abs(grey - background[:, None, None])
    total = ink.sum((1, 2))
    some = total > 0
    radius = max(1, round(min(grey.shape[1:]) / 14))
    left = _eroded(_eroded(ink, radius, 1), radius, 2).sum((1, 2))
    return {
        "similarity": _similarity(grey),
        "ground": float((ink < 0.1).mean()),
        "filled": float(np.median(left[some] / total[some])) if some.any() else 1.0,
    }


def _similarity(grey: np.ndarray) -> float:
    """Return 1 minus the mean squared difference of neighbours over that of any two pixels."""
    variance = float(grey.var())
    steps = [np.diff(grey, axis=axis) for axis in (1, 2) if grey.shape[axis] > 1]
    if not steps or variance == 0:
        return 1.0
    return 1 - float(np.mean([(step**2).mean() for step in steps])) / (2 * variance)


def _eroded(ink: np.ndarray, radius: int, axis: int) -> np.ndarray:
    """Return the smallest value within `radius` pixels along an axis; the outside has no ink."""
    widths = [(0, 0)] * ink.ndim
    widths[axis] = (radius, radius)
    padded = np.pad(ink, widths)
    size = ink.shape[axis]
    smallest = ink
    for step in range(2 * radius + 1):
        part = padded[(slice(None),) * axis + (slice(step, step + size),)]
        smallest = np.minimum(smallest, part)
    return smallest


def asks_for_views(config: Config) -> bool:
    """Return True if the objective of a resolved config has the parameter `augment`."""
    objective: Callable[..., object] = find_function(config.pretrain.objective, OBJECTIVES)
    return "augment" in parameter_names(objective)


def resolve_augment(config: Config, images: np.ndarray) -> tuple[Config, AugmentationRecord | None]:
    """Return a config that names its augmentation, and the record of it.

    The choice is made before the config is written, so a resumed or repeated run does not choose
    again.

    Args:
        config: resolved config.
        images: images of stage 1, uint8 `[N, H, W, C]`.
    """
    if not asks_for_views(config):
        return config, None
    if config.augment not in (None, "auto"):
        return config, AugmentationRecord(str(config.augment), "given", {})
    seed = config.seed or 0
    choice = choose_augmentation(images, seed)
    config = dataclasses.replace(config, augment=choice.name)
    return config, AugmentationRecord(choice.name, choice.reason, choice.table)


def make_augment(config: Config, image_shape: tuple[int, ...]) -> Augment | None:
    """Return the augmentation that a config names; None if it names none.

    Raises:
        UserError: code that cannot be imported or is not an augmentation, or settings that do not
            fit the images.
    """
    name = config.augment
    if name is None:
        return None
    strength = config.augment_strength
    views = AUGMENTATIONS.get(name)
    if views is None:
        imported: object = find_function(name, {})
        if not isinstance(imported, Views):
            return _check_own(name, imported, strength, image_shape)
        views = imported
    return augmentation(views if strength is None else views.scaled(strength), image_shape)


def _check_own(
    name: str, function: object, strength: float | None, image_shape: tuple[int, ...]
) -> Augment:
    """Return a user's own augmentation if it returns images of the same shape."""
    if not callable(function):
        kind = type(function).__name__
        raise UserError(f"{name} is {kind}: give ts.Views(…) or a function (key, image) -> image")
    if strength is not None:
        raise UserError(f"--augment-strength has no effect on the function {name}: leave it out")
    image = batch_spec(image_shape)["image"]
    with trace_errors(name, image_shape):
        views = jax.eval_shape(function, new_key(), image)
    if (getattr(views, "shape", None), getattr(views, "dtype", None)) != (image.shape, image.dtype):
        raise UserError(
            f"{name} returned {views} for images {image}: return float32 of the same shape"
        )
    return cast(Augment, function)
