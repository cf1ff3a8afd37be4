"""Pictures made of images: reconstructions, and mistakes with their captions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from twostage_jax.show.figure import (
    BLUE,
    ORANGE,
    WIDTH,
    as_png,
    new_figure,
    place_axes,
    short_name,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 5  # mistakes in a row
MISTAKES = 15
SMALL = 64  # pixels up to which an image is drawn with sharp pixels
TALLEST = 12.0  # inches
CAPTION = 17  # characters of a class name below an image


class Mistakes(NamedTuple):
    """Images that are taken for another class.

    Attributes:
        images: uint8 `[n, H, W, C]`, the most confident mistake first.
        label: true classes `[n]`.
        predicted: predicted classes `[n]`.
        confidence: probabilities `[n]` of the predicted classes.
        errors: number of all mistakes.
        count: number of all images of the split.
    """

    images: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    errors: int
    count: int


def find_mistakes(probability: np.ndarray, images: np.ndarray, label: np.ndarray) -> Mistakes:
    """Find the most confident mistakes.

    Args:
        probability: of an ensemble's mean, `[N, K]`.
        images: uint8 `[N, H, W, C]`.
        label: int `[N]`.
    """
    predicted = probability.argmax(-1)
    confidence = probability.max(-1)
    wrong = np.flatnonzero(predicted != label)
    # Stable, so that ties have the order of the split.
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    return Mistakes(
        images[chosen],
        label[chosen],
        predicted[chosen],
        confidence[chosen],
        len(wrong),
        len(label),
    )


def draw_mistakes(mistakes: Mistakes, classes: Sequence[str], split: str) -> bytes:
    """Draw the most confident mistakes with truth, prediction and probability.

    Args:
        mistakes: from `find_mistakes`.
        classes: names of the K classes.
        split: name of the split.

    Returns:
        Content of a PNG file.
    """
    number = len(mistakes.images)
    with style():
        if not number:
            figure = new_figure(1.2)
            text = f"no mistakes: all {mistakes.count:,} {split} images are correct"
            figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color=BLUE)
            return as_png(figure)
        rows = -(-number // COLUMNS)
        cell = WIDTH / COLUMNS
        height, width = mistakes.images.shape[1:3]
        shown = min(cell - 0.15, (TALLEST / rows - 0.7) * width / height)
        tall = shown * height / width
        figure = new_figure(rows * (tall + 0.6) + 0.4)
        for index, image in enumerate(mistakes.images):
            row = index // COLUMNS
            left = index % COLUMNS * cell + (cell - shown) / 2
            top = 0.4 + row * (tall + 0.6)
            bottom = figure.get_size_inches()[1] - top - tall
            axes = place_axes(figure, left, WIDTH - left - shown, bottom, top)
            _show_image(axes, as_rgb(image), sharp=max(height, width) <= SMALL)
            truth = short_name(classes[mistakes.label[index]], CAPTION)
            guess = short_name(classes[mistakes.predicted[index]], CAPTION)
            guess += f", {_percent(mistakes.confidence[index])}"
            for line, (text, colour) in enumerate(((f"is {truth}", BLUE), (guess, ORANGE))):
                y = bottom - 0.05 - 0.17 * line
                figure.text(
                    (left + shown / 2) / WIDTH,
                    y / figure.get_size_inches()[1],
                    text,
                    ha="center",
                    va="top",
                    fontsize=9,
                    color=colour,
                    parse_math=False,
                )
        figure.text(
            0.5,
            1 - 0.1 / figure.get_size_inches()[1],
            _title(mistakes, split),
            ha="center",
            va="top",
        )
        return as_png(figure)


def _title(mistakes: Mistakes, split: str) -> str:
    total = f"{mistakes.errors:,} of {mistakes.count:,} {split} images are wrong"
    shown = len(mistakes.images)
    most = f"the {shown} most confident: " if mistakes.errors > shown else ""
    return f"{total}; {most}truth in blue, prediction in orange"


def draw_reconstructions(images: np.ndarray, decoded: np.ndarray, split: str) -> bytes:
    """Draw images above their reconstructions.

    Args:
        images: uint8 `[n, H, W, C]`, n at least 1.
        decoded: uint8, the same shape.
        split: name of the split.

    Returns:
        Content of a PNG file.
    """
    height, width = images.shape[1:3]
    gap = max(1, round(width / 10))
    rows = [_row(as_rgb(values), gap) for values in (images, decoded)]
    between = np.full((gap, *rows[0].shape[1:]), 255, np.uint8)
    mosaic = np.concatenate([rows[0], between, rows[1]])
    left = 1.25
    tall = min((WIDTH - left - 0.1) * mosaic.shape[0] / mosaic.shape[1], TALLEST)
    with style():
        figure = new_figure(tall + 0.5)
        axes = place_axes(figure, left, 0.1, 0.1, 0.4)
        _show_image(axes, mosaic, sharp=max(height, width) <= SMALL)
        centres = (height / 2, height + gap + height / 2)
        for centre, text in zip(centres, ("image", "reconstruction"), strict=True):
            axes.text(-gap, centre, text, ha="right", va="center")
        title = f"{split} images and what the decoder makes of their features"
        figure.text(0.5, 1 - 0.1 / (tall + 0.5), title, ha="center", va="top")
        return as_png(figure)


def _row(images: np.ndarray, gap: int) -> np.ndarray:
    """Join images `[n, H, W, 3]` side by side, with white gaps."""
    white = np.full((images.shape[1], gap, 3), 255, np.uint8)
    parts = [part for image in images for part in (image, white)]
    return np.concatenate(parts[:-1], axis=1)


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Convert images uint8 `[..., C]` with any number of channels to `[..., 3]`.

    Images with another number than three are shown as the mean of their channels, in grey.
    """
    if images.shape[-1] == 3:
        return images
    grey = images.mean(-1, keepdims=True).round().astype(np.uint8)
    return np.repeat(grey, 3, axis=-1)


def _show_image(axes: "Axes", image: np.ndarray, sharp: bool) -> None:
    axes.imshow(image, interpolation="nearest" if sharp else "antialiased", aspect="equal")
    axes.axis("off")


def _percent(probability: float) -> str:
    # 99.96 % must not read as certain.
    return f"{np.floor(1000 * probability) / 10:.3g} %" if probability < 1 else "100 %"
