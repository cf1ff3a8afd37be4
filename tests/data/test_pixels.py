"""Axes and values of images: used where they are certain, and refused where they are not."""

import numpy as np
import pytest

from twostage_jax.data.pixels import BYTES, Array, Scale, as_images, parse_scale
from twostage_jax.errors import UserError


def convert(*images, trained=None):
    """Images of one or more splits as uint8, the scale, and the notes."""
    notes = []
    parts = {f"part{k}": Array(image, f"file: x{k}") for k, image in enumerate(images)}
    converted, scale = as_images(parts, notes, trained)
    return [converted[name] for name in parts], str(scale), " / ".join(notes)


RAMP = np.arange(2 * 8 * 8).reshape(2, 8, 8) * 2  # 0 to 254
RAMP[-1, -1, -1] = 255
GREY = RAMP[..., None].astype(np.uint8)


@pytest.mark.parametrize("largest", [1, 2, 3, 7, 10, 15, 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i2", np.float32])
def test_whole_numbers_up_to_sixteen_are_scaled_with_a_note(largest, dtype):
    image = (np.arange(2 * 8 * 8) % (largest + 1)).reshape(2, 8, 8)
    (converted,), scale, notes = convert(image.astype(dtype))
    expected = np.round(image * (255 / largest))
    np.testing.assert_array_equal(converted[..., 0], expected)
    assert scale == f"0 to {largest}, scaled to 0 to 255"
    assert (f"{largest} becomes 255" in notes) == (dtype != np.float32 or largest > 1)


def test_the_scale_is_that_of_all_splits_together():
    one = np.full((2, 8, 8), 12, np.uint8)
    two = np.full((2, 8, 8), 16, np.uint8)
    (first, second), scale, _ = convert(one, two)
    assert (first[0, 0, 0, 0], second[0, 0, 0, 0]) == (191, 255) and "0 to 16" in scale


# Values, and a part of the note; None if nothing needs to be said.
CERTAIN = {
    "bytes": (RAMP.astype(np.uint8), "0 to 255", None),
    "whole numbers": (RAMP.astype(">i8"), "0 to 255", None),
    "unsigned 16 bits": (RAMP.astype(np.uint16), "0 to 255", None),
    "floats to 1": (RAMP / 255, "0 to 1, scaled", None),
    "half-precision": ((RAMP / 255).astype(np.float16), "0 to 1, scaled", None),
    "floats to 255": (RAMP.astype(np.float32), "0 to 255", None),
    "interpolated floats": (RAMP + np.where(RAMP < 200, 0.25, 0), "0 to 255", "are rounded"),
    "from -1 to 1": (RAMP / 127.5 - 1, "-1 to 1, scaled", "-1 to 1 are scaled"),
    "a rounding above": (RAMP / 255 * 1.0000001 - 1e-9, "0 to 1, scaled", "clipped to 0 to 1"),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_values_of_a_certain_scale_become_the_bytes_that_they_mean(name):
    image, expected, note = CERTAIN[name]
    (converted,), scale, notes = convert(image)
    np.testing.assert_array_equal(converted, GREY)
    assert converted.dtype == np.uint8 and converted.flags["C_CONTIGUOUS"]
    assert scale.startswith(expected)
    assert note in notes if note else notes == ""


SIXTEEN = Scale(0, 16)
SIGNED = Scale(-1, 1)


@pytest.mark.parametrize(
    ("image", "trained", "factor", "said"),
    [
        (np.arange(128) % 13, SIXTEEN, 255 / 16, "from 0 to 12 are read in the scale of the run"),
        (np.arange(128) % 17, SIXTEEN, 255 / 16, "the run"),
        (np.arange(128), BYTES, 1, "from 0 to 127 are read in the scale of the run"),
        (np.arange(128) % 13, BYTES, 255 / 12, "that the run was trained on are 0 to 255"),
        (RAMP, SIXTEEN, 1, "that the run was trained on are 0 to 16"),
        (RAMP / 255, SIGNED, 255, "that the run was trained on are -1 to 1"),
    ],
)
def test_images_for_a_run_are_read_in_its_scale_if_they_fit(image, trained, factor, said):
    image = image.reshape(2, 8, 8)
    (converted,), scale, notes = convert(image, trained=trained)
    np.testing.assert_array_equal(converted[..., 0], np.round(image * factor))
    # The scale of the run itself needs no word.
    assert (said in notes) == (scale != str(trained) or image.max() != trained.high)


def test_signed_floats_for_a_run_need_not_reach_its_limits():
    image = np.linspace(-1, 0.9, 128).reshape(2, 8, 8)
    (converted,), scale, _ = convert(image, trained=SIGNED)
    np.testing.assert_array_equal(converted[..., 0], np.round((image + 1) * 127.5))
    assert parse_scale(scale) == SIGNED


def test_integers_of_another_scale_than_those_of_a_run_or_a_split_are_refused():
    binary = np.ones((2, 8, 8), np.uint8)
    with pytest.raises(UserError, match="largest value of file: x0 is 1, and the run was trained"):
        convert(binary, trained=SIXTEEN)
    with pytest.raises(UserError, match="x0 is 16 and that of file: x1 is 200"):
        convert(binary * 16, binary * 200)


@pytest.mark.parametrize("scale", [BYTES, SIXTEEN, SIGNED])
def test_a_scale_is_read_from_its_words(scale):
    assert parse_scale(str(scale)) == scale and parse_scale("") is None


def test_bools_are_black_and_white():
    (converted,), scale, notes = convert(RAMP > 100)
    np.testing.assert_array_equal(converted, np.where(GREY > 100, 255, 0))
    assert scale == "0 to 1, scaled to 0 to 255" and "1 becomes 255" in notes


@pytest.mark.parametrize(
    ("image", "factor"), [(np.full((2, 8, 8), 100, np.uint8), 1), (RAMP / 999, 255)]
)
def test_dark_images_are_not_scaled_and_get_a_note(image, factor):
    (converted,), _, notes = convert(image)
    np.testing.assert_array_equal(converted[..., 0], np.round(image * factor))
    assert "the images are dark" in notes
    assert "black" in convert(np.zeros((2, 8, 8), np.uint8))[2]


NAN = np.where(RAMP == 0, np.nan, RAMP / 255)
REFUSED = {
    "whole numbers to 100": (
        [np.full((2, 8, 8), 100)],
        "int64 values up to 100, whose scale is not",
    ),
    "whole floats to 100": ([np.full((2, 8, 8), 100.0)], "float64 values up to 100, whose scale"),
    "16 bits": ([np.full((2, 8, 8), 4095, np.uint16)], "uint16 values from 4095 to 4095: give"),
    "signed": ([RAMP.astype(np.int64) - 128], "int64 values from -128 to 127: give"),
    "standardised": ([(RAMP - 33.0) / 78], "float64 values from -0.4"),
    "floats to 1.5": ([RAMP / 170], "float64 values from 0.0 to 1.5: give"),
    "not a number": ([NAN], "from nan to nan"),
    "infinite": ([np.where(RAMP == 0, np.inf, RAMP)], "to inf"),
    "two types": ([GREY, RAMP / 255], "x0 has uint8 and file: x1 has float64: give the images"),
    "two scales": ([GREY, GREY // 255], "x1 is 1 and that of file: x0 is 255: give all splits on"),
    "two scales of floats": ([RAMP / 255.0, RAMP * 1.0], "x0 is 1.0 and that of file: x1 is 255.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_of_an_uncertain_scale_are_refused(name):
    images, expected = REFUSED[name]
    with pytest.raises(UserError, match=expected) as error:
        convert(*images)
    assert "\n" not in str(error.value)


COLOUR = np.random.RandomState(0).randint(0, 256, (6, 8, 8, 3)).astype(np.uint8)
GREY_STACK = COLOUR[..., :1]


@pytest.mark.parametrize(
    ("image", "expected", "note"),
    [
        (GREY_STACK[..., 0], GREY_STACK, None),
        (GREY_STACK, GREY_STACK, None),
        (COLOUR, COLOUR, None),
        (COLOUR[..., [0, 1, 2, 0]], COLOUR[..., [0, 1, 2, 0]], None),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR, "channel first"),
        (GREY_STACK.transpose(0, 3, 1, 2), GREY_STACK, "channel first"),
        (GREY_STACK.reshape(6, 64), GREY_STACK, "rows of 64 values are read as images of 8×8"),
        (np.tile(GREY_STACK, 10), np.tile(GREY_STACK, 10), "10 channels"),
    ],
)
def test_certain_axes_are_used(image, expected, note):
    (converted,), _, notes = convert(image)
    np.testing.assert_array_equal(converted, expected)
    assert note in notes if note else notes == ""


@pytest.mark.parametrize(
    "shape",
    [
        (6, 3 * 64),
        (6, 60),
        (6, 1),
        (6,),
        (6, 3, 3, 3),
        (6, 3, 32, 3),
        (6, 28, 28, 28),
        (6, 13, 64, 64),
    ]
    + [(6, 0, 8), (6, 2, 8, 8, 3)],
)
def test_uncertain_axes_are_refused(shape):
    with pytest.raises(UserError, match=r"file: x0 has shape \(6,.*: (re|or )?.*\[N, H, W"):
        convert(np.zeros(shape, np.uint8))
