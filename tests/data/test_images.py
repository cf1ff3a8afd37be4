"""Encoded images are decoded after checks of their headers."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.fuzz.samples import png
from twostage_jax.data.images import decode
from twostage_jax.errors import UserError

GREY = np.arange(20, dtype=np.uint8).reshape(5, 4)
COLOUR = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)


def saved(mode, size=(4, 5), kind="PNG"):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("image", [GREY[..., None], COLOUR])
def test_pixels_survive_encoding(image):
    split = decode([(png(image.squeeze()), 1)] * 2, (5, None, image.shape[2]), 3, "here")
    np.testing.assert_array_equal(split["image"], np.stack([image] * 2))
    assert split["label"].tolist() == [1, 1] and split["label"].dtype == np.int32


def test_a_palette_is_replaced_by_its_colours():
    buffer = io.BytesIO()
    Image.fromarray(GREY).convert("P").save(buffer, "PNG")
    image = decode([(buffer.getvalue(), 0)], (5, 4, 3), 1, "here")["image"][0]
    np.testing.assert_array_equal(image, np.stack([GREY] * 3, -1))


@pytest.mark.parametrize(
    ("examples", "shape", "expected"),
    [
        ([(b"GIF89a", 0)], (5, 4, 1), "not a PNG or JPEG"),
        ([(saved("L", kind="GIF"), 0)], (5, 4, 1), "not a PNG or JPEG"),
        ([(saved("L"), 0)], (5, 5, 1), "declares"),
        ([(saved("L"), 0), (saved("L", (5, 4)), 0)], (None, None, 1), "several sizes"),
        ([(saved("L"), 3)], (5, 4, 1), "label 3, out of range"),
        ([(saved("L"), -2)], (5, 4, 1), "label -2, out of range"),
        ([(saved("RGB"), 0)], (5, 4, 1), "mode RGB and declares L"),
        ([(saved("I;16"), 0)], (5, 4, 1), "mode I;16"),
        ([(png(GREY)[:-25], 0)], (5, 4, 1), "corrupted image|not a PNG"),
        ([(saved("L", (14_000, 14_000)), 0)], (None, None, 1), "more than 89,478,485 pixels"),
        ([(saved("L", (8_000, 8_000)), 0)] * 3, (None, None, 1), "192,000,000"),
    ],
)
def test_unusable_images_get_one_message(examples, shape, expected):
    with pytest.raises(UserError, match=expected) as error:
        decode(examples, shape, 3, "here")
    assert "\n" not in str(error.value)
