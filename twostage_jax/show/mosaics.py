"""Pictures made of images: reconstructions, and mistakes with their captions."""

from collections.abc import Mapping, Sequence
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
    from matplotlib.figure import Figure

COLUMNS = 5  # mistakes in a row
MISTAKES = 15
SMALL = 64  # pixels up to which an image is drawn with sharp pixels
TALLEST = 12.0  # inches
LINE = 0.17  # inches between lines of a caption
CAPTION = 12  # characters of a class name below an image
SHORT = 9  # characters of a class name and a probability that fit into one line


class Mistakes(NamedTuple):
    """Images that are classified wrongly.

    Attributes:
        rows: positions in the split `[n]`, the most confident mistake first.
        images: uint8 `[n, H, W, C]`.
        label: true classes `[n]`.
        predicted: predicted classes `[n]`.
        confidence: probabilities `[n]` of the predicted classes.
        errors: number of all mistakes.
        count: number of all images of the split.
    """

    rows: np.ndarray
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
        chosen,
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
    if not number:
        with style():
            figure = new_figure(1.2)
            text = f"no mistakes: all {mistakes.count:,} {split} images are classified correctly"
            figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color=BLUE)
            return as_png(figure)
    captions = [_caption(mistakes, index, classes) for index in range(number)]
    return draw_sheet(mistakes.images, captions, _title(mistakes, split))


def draw_sheet(
    images: np.ndarray, captions: Sequence[Sequence[str]], title: str, columns: int = COLUMNS
) -> bytes:
    """Draw images in rows, each above its caption.

    Args:
        images: uint8 `[n, H, W, C]`, n at least 1.
        captions: lines below each image; the first is blue, the others are orange.
        title: one line above all images.
        columns: number of images in a row.

    Returns:
        Content of a PNG file.
    """
    below = 0.25 + LINE * max(map(len, captions))
    rows = -(-len(images) // columns)
    cell = WIDTH / columns
    height, width = images.shape[1:3]
    wide = min(cell - 0.15, (TALLEST / rows - below) * width / height)
    tall = wide * height / width
    total = rows * (tall + below) + 0.35
    with style():
        figure = new_figure(total)
        _write_title(figure, title)
        for index, image in enumerate(images):
            row, column = divmod(index, columns)
            left = column * cell + (cell - wide) / 2
            bottom = total - 0.4 - row * (tall + below) - tall
            axes = place_axes(figure, left, WIDTH - left - wide, bottom, total - bottom - tall)
            _show_image(axes, as_rgb(image), sharp=max(height, width) <= SMALL)
            x = (left + wide / 2) / WIDTH
            for line, text in enumerate(captions[index]):
                y = (bottom - 0.05 - LINE * line) / total
                colour = ORANGE if line else BLUE
                centred = {"ha": "center", "va": "top", "fontsize": 8}
                figure.text(x, y, text, color=colour, parse_math=False, **centred)
        return as_png(figure)


def _caption(mistakes: Mistakes, index: int, classes: Sequence[str]) -> list[str]:
    """Lines below an image: truth, then prediction and probability, in one line if they fit."""
    truth = short_name(classes[mistakes.label[index]], CAPTION)
    guess = short_name(classes[mistakes.predicted[index]], CAPTION)
    # Rounded down: 99.96 % must not read as certain.
    percent = f"{np.floor(1000 * mistakes.confidence[index]) / 10:.1f} %"
    if len(guess) + len(percent) <= SHORT:
        return [f"true {truth}", f"predicted {guess} ({percent})"]
    return [f"true {truth}", f"predicted {guess}", f"({percent})"]


def draw_predictions(arrays: Mapping[str, np.ndarray], row: int, classes: Sequence[str]) -> bytes:
    """Draw validation images with their predictions after one epoch.

    Args:
        arrays: `progress_image`, `progress_label`, `progress_predicted`, `progress_probability` and
            `progress_epoch` of a run.
        row: number of the epoch among those of the arrays.
        classes: names of the K classes.

    Returns:
        Content of a PNG file.
    """
    captions = []
    names = ("progress_label", "progress_predicted", "progress_probability")
    label, predicted, probability = (arrays[name] for name in names)
    for true, guess, value in zip(label, predicted[row], probability[row], strict=True):
        words = f"{short_name(classes[int(guess)], CAPTION)} ({100 * value:.1f} %)"
        captions.append([f"true {short_name(classes[int(true)], CAPTION)}", words])
    title = f"validation images after epoch {arrays['progress_epoch'][row]} of stage 2"
    return draw_sheet(arrays["progress_image"], captions, title, columns=6)


def _write_title(figure: "Figure", text: str) -> None:
    top = 1 - 0.1 / figure.get_size_inches()[1]
    figure.text(0.5, top, text, ha="center", va="top", fontsize=10)


def _title(mistakes: Mistakes, split: str) -> str:
    total = f"{mistakes.errors:,} of {mistakes.count:,} {split} images are wrong"
    shown = len(mistakes.images)
    # The captions say which colour is which, so the title fits the width of the picture.
    return f"{total}; the {shown} most confident" if mistakes.errors > shown else total


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
        centres = ((height - 1) / 2, height + gap + (height - 1) / 2)
        for centre, text in zip(centres, ("image", "reconstruction"), strict=True):
            axes.text(-gap, centre, text, ha="right", va="center")
        _write_title(figure, f"{split} images and their reconstructions")
        return as_png(figure)


def _row(images: np.ndarray, gap: int) -> np.ndarray:
    """Join images `[n, H, W, 3]` side by side, with white gaps."""
    white = np.full((images.shape[1], gap, 3), 255, np.uint8)
    parts = [part for image in images for part in (image, white)]
    return np.concatenate(parts[:-1], axis=1)


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Convert images uint8 `[..., C]` with any number of channels to `[..., 3]`.

    Images without exactly three channels are shown in grey, as the mean of their channels.
    """
    if images.shape[-1] == 3:
        return images
    grey = images.mean(-1, keepdims=True).round().astype(np.uint8)
    return np.repeat(grey, 3, axis=-1)


def _show_image(axes: "Axes", image: np.ndarray, sharp: bool) -> None:
    axes.imshow(image, interpolation="nearest" if sharp else "antialiased", aspect="equal")
    axes.axis("off")
