"""Encoded images, decoded after their headers were held against what they may be."""

import io

import numpy as np
import pytest
from PIL import Image

from scripts.fuzzing.targets import png
from twostage_jax.data.images import decode
from twostage_jax.errors import UserError

GREY = np.arange(20, dtype=np.uint8).reshape(5, 4)
COLOUR = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)


def saved(mode, size=(4, 5), kind="PNG"):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("image", [GREY[..., None], COLOUR])
def test_pixels_are_the_ones_that_were_encoded(image):
    found = decode([(png(image.squeeze()), 1)] * 2, (5, None, image.shape[2]), 3, "here")
    np.testing.assert_array_equal(found["image"], np.stack([image] * 2))
    assert found["label"].tolist() == [1, 1] and found["label"].dtype == np.int32


def test_a_palette_becomes_the_colours_it_stands_for():
    buffer = io.BytesIO()
    Image.fromarray(GREY).convert("P").save(buffer, "PNG")
    found = decode([(buffer.getvalue(), 0)], (5, 4, 3), 1, "here")["image"][0]
    np.testing.assert_array_equal(found, np.stack([GREY] * 3, -1))


@pytest.mark.parametrize(
    ("examples", "shape", "expected"),
    [
        ([(b"GIF89a", 0)], (5, 4, 1), "no PNG or JPEG"),
        ([(saved("L", kind="GIF"), 0)], (5, 4, 1), "no PNG or JPEG"),
        ([(saved("L"), 0)], (5, 5, 1), "declares"),
        ([(saved("L"), 0), (saved("L", (5, 4)), 0)], (None, None, 1), "several sizes"),
        ([(saved("L"), 3)], (5, 4, 1), "label 3, out of range"),
        ([(saved("L"), -1)], (5, 4, 1), "label -1, out of range"),
        ([(saved("RGB"), 0)], (5, 4, 1), "mode RGB: L is declared"),
        ([(saved("I;16"), 0)], (5, 4, 1), "mode I;16"),
        ([(png(GREY)[:-25], 0)], (5, 4, 1), "damaged image|no PNG"),
        ([(saved("L", (14_000, 14_000)), 0)], (None, None, 1), "more than 89,478,485 pixels"),
        ([(saved("L", (8_000, 8_000)), 0)] * 3, (None, None, 1), "announces 192,000,000"),
    ],
)
def test_what_is_no_set_of_images_gets_one_sentence(examples, shape, expected):
    with pytest.raises(UserError, match=expected):
        decode(examples, shape, 3, "here")
