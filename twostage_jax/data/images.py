"""PNG and JPEG files in memory, decoded after their headers were held against what they may be."""

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from twostage_jax.data.dataset import Split
from twostage_jax.errors import UserError
from twostage_jax.files import check_expanded

FORMATS = ("PNG", "JPEG")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
WITHOUT_LOSS = ("1", "P", "L")  # what TensorFlow, too, converts to the channels that are declared


def decode(
    examples: Sequence[tuple[bytes, int]],
    shape: tuple[int | None, ...],
    classes: int,
    where: str,
) -> Split:
    """Images uint8 `[N, H, W, C]` and labels int32 `[N]`.

    Args:
        examples: encoded image and label.
        shape: declared `(H, W, C)`, None where it is open; all images must have one size.
        classes: labels are below it.
        where: the source, for messages.

    Raises:
        UserError: an image that is no PNG or JPEG or is damaged, images of several sizes, a label
            out of range, more pixels than the files can honestly hold.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that is damaged
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return _decode(examples, shape, classes, where)


def _decode(examples: Any, shape: Any, classes: int, where: str) -> Split:
    first = _open(examples[0][0], where).size
    full = (first[1], first[0], shape[2] or 3)
    if any(one not in (None, other) for one, other in zip(shape, full, strict=True)):
        raise UserError(f"{where} has images {full} and declares {shape}: prepare it again")
    packed = sum(len(image) for image, _ in examples)
    announced = len(examples) * math.prod(full)
    check_expanded(where, announced, packed, "unpack it into an uncompressed npz:FILE")
    images = np.empty((len(examples), *full), np.uint8)
    labels = np.empty(len(examples), np.int32)
    for index, (content, label) in enumerate(examples):
        if not 0 <= label < classes:
            raise UserError(f"{where} has label {label}, out of range: it has {classes} classes")
        image = _open(content, where)
        if image.size != first:
            raise UserError(
                f"{where} has images of several sizes, {first} and {image.size} among them: one "
                "size is needed; resize them into an npz:FILE"
            )
        labels[index], images[index] = label, _pixels(image, full[2], where)
    return {"image": images, "label": labels}


def _open(content: bytes, where: str) -> Image.Image:
    """An image of which only the header was read."""
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"{where} has an image of more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels, the most "
            "that is decoded: make it smaller"
        ) from error
    except Exception as error:  # Pillow raises what its parsers do
        raise UserError(f"{where} has an image that is no PNG or JPEG: prepare it again") from error


def _pixels(image: Image.Image, channels: int, where: str) -> np.ndarray:
    """uint8 `[H, W, C]`."""
    mode = MODES[channels]
    if image.mode != mode and image.mode not in WITHOUT_LOSS:
        raise UserError(f"{where} has an image of mode {image.mode}: {mode} is declared")
    try:
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except Exception as error:  # Pillow raises what its parsers do
        raise UserError(f"{where} has a damaged image: {error}; prepare it again") from error
    return pixels.reshape(*pixels.shape[:2], channels)
