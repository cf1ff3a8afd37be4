import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import twostage_jax as ts
from twostage_jax.stages.families import AUGMENTATIONS
from twostage_jax.stages.stage import new_key
from twostage_jax.stages.views import geometry, pixels


def key(seed=3):
    """A new key: the tests of this project refuse a key that is used twice."""
    return new_key(seed)


def views_of(views, image):
    """Views of images, as a run computes them."""
    return jax.jit(ts.augmentation(views, image.shape[1:]))(key(), image)


def photographs(count=6, height=8, width=10, channels=3):
    random = np.random.default_rng(0)
    return jnp.asarray(random.uniform(-1, 1, (count, height, width, channels)), jnp.float32)


def warped(image, matrix, offset, ground=-1.0):
    """One affine map for all images."""
    count, *size, channels = image.shape
    matrix = jnp.broadcast_to(jnp.asarray(matrix, jnp.float32), (count, 2, 2))
    offset = jnp.broadcast_to(jnp.asarray(offset, jnp.float32), (count, 2))
    places = geometry.field(matrix, offset, tuple(size))
    return np.asarray(geometry.sample(image, *places, jnp.full((count, channels), ground)))


def test_zero_strength_returns_the_images():
    image = photographs()
    assert jnp.array_equal(ts.augmentation("none", (8, 10, 3))(key(), image), image)
    # The field itself is exact, too: it reads every pixel at its own place.
    np.testing.assert_array_equal(warped(image, np.eye(2), (0, 0)), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_shifts_mirror_images_and_right_angles_are_exact(channels):
    image = photographs(2, 8, 8, channels)
    shifted = warped(image, np.eye(2), (2, -3), ground=0.5)
    expected = np.full(image.shape, 0.5, np.float32)
    expected[:, :6, 3:] = image[:, 2:, :5]
    np.testing.assert_array_equal(shifted, expected)
    mirrored = warped(image, np.diag([1, -1]), (0, 0))
    np.testing.assert_array_equal(mirrored, image[:, :, ::-1])
    turned = warped(image, [[0, 1], [-1, 0]], (0, 0))
    np.testing.assert_array_equal(turned, np.rot90(image, axes=(1, 2)))


def test_an_affine_map_agrees_with_scipy():
    image = photographs(1, 12, 9, 1)
    matrix = np.array([[0.9, 0.3], [-0.2, 1.1]])
    offset = np.array([0.4, -1.3])
    centre = (np.array([12, 9]) - 1) / 2
    shift = centre + offset - matrix @ centre
    # Its `grid-constant` also interpolates between the border and the outside.
    mode = {"order": 1, "mode": "grid-constant", "cval": -1.0}
    expected = ndimage.affine_transform(np.asarray(image[0, :, :, 0]), matrix, shift, **mode)
    found = warped(image, matrix, offset)[0, :, :, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_maps_have_the_drawn_strengths():
    size = (20, 20)
    matrix, _ = geometry.draw_maps(ts.Views(rotation=30), key(), 500, size)
    np.testing.assert_allclose(np.linalg.det(matrix), 1, rtol=1e-5)
    angle = np.degrees(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    assert 28 < np.abs(angle).max() <= 30.001
    matrix, _ = geometry.draw_maps(ts.Views(scale=0.5), key(), 500, size)
    assert np.exp(1) * 0.9 < np.linalg.det(matrix).max() <= np.exp(1) + 1e-4
    matrix, _ = geometry.draw_maps(ts.Views(flip=0.25), key(), 2000, size)
    assert abs(np.mean(matrix[:, 1, 1] < 0) - 0.25) < 0.04
    _, offset = geometry.draw_maps(ts.Views(shift=0.1), key(), 500, size)
    assert 1.9 < np.abs(offset).max() <= 2


def test_a_crop_stays_within_the_image():
    matrix, offset = geometry.draw_maps(ts.Views(crop=0.8), key(), 500, (20, 30))
    row, column = geometry.field(matrix, offset, (20, 30))
    # The border of a view may show the border of the image: half a pixel, if it is not enlarged.
    assert -0.51 < row.min() < 1 and 18 < row.max() < 19.51
    assert -0.51 < column.min() < 1 and 28 < column.max() < 29.51
    assert 0.19 < np.linalg.det(matrix).min() < 0.25


def test_an_elastic_field_moves_a_constant_grid_by_a_constant():
    spline = geometry.spline_matrix(5, 7, 9)
    np.testing.assert_allclose(np.ones(25) @ spline, 1, rtol=1e-6)
    # A linear grid gives a linear field, away from the border.
    ramp = (np.repeat(np.arange(5.0), 5) @ spline).reshape(7, 9)[2:5, 4]
    np.testing.assert_allclose(np.diff(ramp), 4 / 7, rtol=1e-5)


def test_strokes_get_thicker_or_thinner_on_dark_and_on_bright_ground_alike():
    image = jnp.full((200, 12, 12, 1), -1.0).at[:, 3:9, 5:7].set(1.0)
    changed = views_of(ts.Views(stroke=0.8), image)
    ink = changed.mean((1, 2, 3)) - image.mean()
    assert ink.min() < -0.02 and ink.max() > 0.02
    np.testing.assert_allclose(changed[:, 0], -1)
    np.testing.assert_allclose(views_of(ts.Views(stroke=0.8), -image), -changed, atol=1e-6)


def test_light_and_colour_change_what_they_say():
    image = 0.5 * photographs()
    value = (image + 1) / 2
    light = (pixels.change_light(ts.Views(brightness=0.3), key(), image) + 1) / 2
    ratio = np.asarray(light / value)
    np.testing.assert_allclose(ratio.std((1, 2, 3)), 0, atol=1e-5)
    assert 0.7 <= ratio.min() < 1 < ratio.max() <= 1.3
    contrast = pixels.change_light(ts.Views(contrast=0.3), key(), image)
    np.testing.assert_allclose(contrast.mean((1, 2, 3)), image.mean((1, 2, 3)), atol=1e-6)
    grey = pixels.change_colour(ts.Views(grey=1), key(), image)
    np.testing.assert_allclose(grey, jnp.repeat(image @ pixels.LUMA[:, None], 3, -1), atol=1e-6)
    # A turn by 120 degrees makes red of green, and so on; grey pixels stay.
    hue = pixels.change_colour(ts.Views(hue=90), key(), image)
    np.testing.assert_allclose(hue.sum(-1), image.sum(-1), atol=1e-5)
    assert not np.allclose(hue, image, atol=0.01)


def test_noise_swaps_and_squares_touch_the_share_of_pixels_that_they_say():
    image = 0.5 * photographs(300, 12, 12, 1)
    noisy = views_of(ts.Views(noise=0.1), image)
    assert abs(float((noisy - image).std()) - 0.1) < 0.003
    swapped = views_of(ts.Views(swap=0.4), image)
    moved = swapped != image
    assert abs(moved.mean() - 0.3) < 0.02
    assert jnp.array_equal(swapped, jnp.where(moved, jnp.roll(image, -1, 0), image))
    erased = views_of(ts.Views(erase=0.5, erase_size=0.5), image)
    changed = (erased != image).any((1, 2, 3))
    assert abs(changed.mean() - 0.5) < 0.1
    assert (erased != image).sum((1, 2, 3)).max() <= 36


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_families_are_pure_and_stay_in_range(name):
    image = photographs(4, 9, 12, 3 if name == "photographs" else 1)
    augment = jax.jit(ts.augmentation(name, image.shape[1:]))
    views = augment(key(), image)
    assert views.shape == image.shape and views.dtype == jnp.float32
    assert jnp.abs(views).max() <= 1 and jnp.isfinite(views).all()
    assert jnp.array_equal(augment(key(), image), views)
    if name != "none":
        assert not jnp.array_equal(augment(key(4), image), views)


def test_members_of_a_vmap_get_the_views_of_their_keys():
    image = photographs(4, 8, 8, 1)
    augment = ts.augmentation("handwriting", (8, 8, 1))
    keys = jnp.stack([key(1), key(2)])
    together = jax.jit(jax.vmap(augment, (0, None)))(keys, image)
    alone = jax.jit(augment)
    apart = jnp.stack([alone(key(seed), image) for seed in (1, 2)])
    np.testing.assert_allclose(together, apart, atol=1e-6)


def test_digits_keep_their_mean_intensity():
    image = ts.as_image(ts.load("digits").train["image"][:400])
    assert abs(views_of("handwriting", image).mean() - image.mean()) < 0.15


def test_a_scaled_family_keeps_its_chances():
    half = ts.Views(rotation=20, flip=0.5, erase=0.3).scaled(0.5)
    assert half == ts.Views(rotation=10, flip=0.5, erase=0.3)


MISTAKES = {
    r"Views\(rotation=-1\): give a number from 0 to 180": lambda: ts.Views(rotation=-1),
    r"erase_size=1.5\): give a number from 0 to 1": lambda: ts.Views(erase_size=1.5),
    r"Views\(shift=nan\)": lambda: ts.Views(shift=float("nan")),
    r"Views\(grid=2\): give a whole number": lambda: ts.Views(grid=2),
    r"6×6 points does not fit images of 5×9 pixels: give Views\(grid=5\)": lambda: ts.augmentation(
        "handwriting", (5, 9, 1)
    ),
    r"needs 4×4 pixels": lambda: ts.augmentation("handwriting", (3, 3, 1)),
    r"smaller than a pixel": lambda: ts.augmentation("objects", (2, 2, 1)),
    r"unknown augmentation 'digits'": lambda: ts.augmentation("digits", (8, 8, 1)),
    r"give \(height, width, channels\)": lambda: ts.augmentation("none", (8, 8)),
    r"images are \[8, 8, 1\], but": lambda: ts.augmentation("none", (8, 8, 3))(
        key(), jnp.zeros((2, 8, 8, 1))
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_one_line(message):
    with pytest.raises(ts.UserError, match=message):
        MISTAKES[message]()


def test_every_strength_has_a_limit():
    names = {field.name for field in dataclasses.fields(ts.Views)}
    from twostage_jax.stages.views.settings import LIMITS

    assert set(LIMITS) == names - {"grid"}
