"""Decode PNG and JPEG files in memory, after checks of their headers."""

import io
import math
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from twostage_jax.data.split import Split
from twostage_jax.errors import UserError
from twostage_jax.files import check_expanded

FORMATS = ("PNG", "JPEG")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# TensorFlow, too, converts these to the declared channels.
LOSSLESS_MODES = ("1", "P", "L")


def decode(
    examples: Sequence[tuple[bytes, int]],
    shape: tuple[int | None, ...],
    classes: int,
    where: str,
) -> Split:
    """Decode images to uint8 `[N, H, W, C]`, with labels int32 `[N]`.

    Args:
        examples: encoded image and label of each example; at least one.
        shape: declared `(H, W, C)`, None for an open axis. All images must have one size.
        classes: number of classes; labels are below it.
        where: name of the source, for messages.

    Raises:
        UserError: an image that is not a PNG or JPEG file or is corrupted, images of several sizes,
            a label out of range, or more pixels than `check_expanded` allows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about corrupted metadata, which is not used
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        size = _open(examples[0][0], where).size
        full = (size[1], size[0], shape[2] or 3)
        if any(declared not in (None, axis) for declared, axis in zip(shape, full, strict=True)):
            raise UserError(f"{where} has images {full} and declares {shape}: prepare it again")
        compressed = sum(len(content) for content, _ in examples)
        announced = len(examples) * math.prod(full)
        # Before the array is allocated; each image is compared with this size before it is decoded.
        check_expanded(where, announced, compressed, "unpack it into an uncompressed npz:FILE")
        images = np.empty((len(examples), *full), np.uint8)
        for index, (content, label) in enumerate(examples):
            if not -1 <= label < classes:
                raise UserError(
                    f"{where} has label {label}, out of range: it has {classes} classes"
                )
            image = _open(content, where)
            if image.size != size:
                raise UserError(
                    f"{where} has images of several sizes, such as {size} and {image.size}: resize "
                    "them to one size, in an npz:FILE"
                )
            images[index] = _read_pixels(image, full[2], where)
    return {"image": images, "label": np.array([label for _, label in examples], np.int32)}


def _open(content: bytes, where: str) -> Image.Image:
    """Open an image and read its header alone."""
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"{where} has an image of more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels, which is "
            "the limit: make it smaller"
        ) from error
    except Exception as error:  # Pillow lets the errors of its parsers through
        raise UserError(
            f"{where} has an image that is not a PNG or JPEG file: prepare it again"
        ) from error


def _read_pixels(image: Image.Image, channels: int, where: str) -> np.ndarray:
    """Decode an image to uint8 `[H, W, C]`."""
    mode = MODES[channels]
    if image.mode not in (mode, *LOSSLESS_MODES):
        raise UserError(
            f"{where} has an image of mode {image.mode} and declares {mode}: prepare it again"
        )
    try:
        pixels = np.asarray(image.convert(mode))
    except Exception as error:  # Pillow lets the errors of its parsers through
        raise UserError(f"{where} has a corrupted image: {error}; prepare it again") from error
    return pixels.reshape(*pixels.shape[:2], channels)
