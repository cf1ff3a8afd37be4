"""Drawings get the form of the images of MNIST and of the digits."""

import numpy as np
import pytest

from twostage_jax.serve.drawing import centred

MNIST = (28, 28, 1)
DIGITS = (8, 8, 1)


def paper(top=0, left=0, height=0, width=0):
    """White paper with a black rectangle."""
    drawing = np.full((280, 280, 1), 255, np.uint8)
    drawing[top : top + height, left : left + width] = 0
    return drawing


def ink_box(image):
    rows = np.flatnonzero(image[..., 0].any(1))
    columns = np.flatnonzero(image[..., 0].any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def test_a_digit_of_mnist_fills_20_of_28_pixels_in_the_middle():
    # By hand: 200×100 becomes 20×10 with its centre at 14, 14.
    image = centred(paper(10, 30, 200, 100), MNIST, dark_ink=False)
    assert ink_box(image) == (4, 24, 9, 19)
    assert set(image[4:24, 9:19].ravel()) == {255}


def test_the_centre_of_mass_is_in_the_middle():
    drawing = paper(100, 100, 100, 100)
    drawing[100:120, 100:180] = 255  # the ink is heavier at the bottom right
    image = centred(drawing, MNIST, dark_ink=False)[..., 0].astype(float)
    for axis in (0, 1):
        mass = image.sum(1 - axis)
        assert (mass * np.arange(28)).sum() / mass.sum() == pytest.approx(13.5, abs=0.5)


def test_a_digit_of_8_by_8_fills_the_height():
    image = centred(paper(50, 20, 160, 80), DIGITS, dark_ink=False)
    assert ink_box(image) == (0, 8, 2, 6)


@pytest.mark.parametrize("shape", [MNIST, DIGITS])
def test_place_and_size_of_the_drawing_do_not_matter(shape):
    image = centred(paper(0, 0, 80, 40), shape, dark_ink=False)
    assert np.array_equal(image, centred(paper(120, 200, 160, 80), shape, dark_ink=False))


@pytest.mark.parametrize("shape", [MNIST, DIGITS])
def test_the_ink_is_as_dark_as_in_the_training_images(shape):
    drawing = paper(50, 20, 160, 80)
    light = centred(drawing, shape, dark_ink=False)
    assert np.array_equal(255 - light, centred(drawing, shape, dark_ink=True))
    assert not centred(paper(), shape, dark_ink=False).any()


def test_a_thin_line_and_a_dot_are_drawings():
    line = centred(paper(0, 140, 280, 3), MNIST, dark_ink=False)
    assert ink_box(line)[:2] == (4, 24)
    assert centred(paper(3, 3, 1, 1), MNIST, dark_ink=False).sum() == 20 * 20 * 255
