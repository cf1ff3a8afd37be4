"""Stroke width, blur, light, colour, noise, swapped and erased pixels."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.stages.stage import Key
from twostage_jax.stages.views.geometry import draw
from twostage_jax.stages.views.settings import Views

# Share of red, green and blue in the grey value of a pixel (ITU-R BT.601).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def background(image: jax.Array) -> jax.Array:
    """Return the background `[B, C]` of images: the mean of the middle two of the four corners.

    If one corner lies on the object, the result changes little.
    """
    corners = image[:, :: max(1, image.shape[1] - 1), :: max(1, image.shape[2] - 1)]
    corners = corners[:, :2, :2].reshape(len(image), -1, image.shape[-1])
    total = corners.sum(1) - corners.max(1) - corners.min(1)
    return total / (corners.shape[1] - 2) if corners.shape[1] > 2 else corners.mean(1)


def _blurred(image: jax.Array) -> jax.Array:
    """Blur by 3×3 pixels with the weights 0.3, 0.4, 0.3 along each axis; borders are repeated."""
    for axis in (1, 2):
        size = image.shape[axis]
        before = jax.lax.slice_in_dim(image, 0, 1, axis=axis)
        after = jax.lax.slice_in_dim(image, size - 1, size, axis=axis)
        wide = jnp.concatenate([before, image, after], axis)
        parts = [jax.lax.slice_in_dim(wide, i, i + size, axis=axis) for i in range(3)]
        image = 0.4 * parts[1] + 0.3 * (parts[0] + parts[2])
    return image


def change_stroke(stroke: float, key: Key, image: jax.Array, ground: jax.Array) -> jax.Array:
    """Make strokes thicker or thinner: a blend with a blurred image, then a gain or a threshold.

    Strokes are the pixels that differ from `ground` `[B, C]`, bright on dark or dark on bright.
    """
    keys = jax.random.split(key)
    count = len(image)
    sign = jnp.where(ground > 0, -1.0, 1.0)[:, None, None, :]
    ink = (sign * image + 1) / 2
    amount = (stroke * draw(keys[0], count, 0.0))[:, None, None, None]
    ink += amount * (_blurred(ink) - ink)
    thicker = (draw(keys[1], count) > 0)[:, None, None, None]
    thick = ink * (1 + amount)
    thin = (ink - 0.25 * amount) * (1 + 0.3 * amount)
    ink = jnp.clip(jnp.where(thicker, thick, thin), 0.0, 1.0)
    return sign * (2 * ink - 1)


def blur(amount: float, key: Key, image: jax.Array) -> jax.Array:
    """Blend each image with its blurred copy, by up to `amount`."""
    share = (amount * draw(key, len(image), 0.0))[:, None, None, None]
    return image + share * (_blurred(image) - image)


def change_light(views: Views, key: Key, image: jax.Array) -> jax.Array:
    """Change brightness and contrast."""
    keys = jax.random.split(key)
    count = len(image)
    value = (image + 1) / 2
    bright = 1 + views.brightness * draw(keys[0], count)
    value *= bright[:, None, None, None]
    if views.contrast:
        factor = (1 + views.contrast * draw(keys[1], count))[:, None, None, None]
        mean = value.mean((1, 2, 3), keepdims=True)
        value = mean + factor * (value - mean)
    return jnp.clip(2 * value - 1, -1.0, 1.0)


def change_colour(views: Views, key: Key, image: jax.Array) -> jax.Array:
    """Change saturation and hue, or drop the colours; one 3×3 matrix for each image."""
    keys = jax.random.split(key, 3)
    count = len(image)
    factor = 1 + views.saturation * draw(keys[0], count)
    if views.grey:
        factor = jnp.where(draw(keys[1], count, 0.0) < views.grey, 0.0, factor)
    angle = math.radians(views.hue) * draw(keys[2], count)
    # The grey value stays; the colour is scaled and rotated around the axis (1, 1, 1).
    grey = np.tile(LUMA, (1, 3, 1))
    mean = np.full((1, 3, 3), 1 / 3, np.float32)
    turn = np.array([[[0, -1, 1], [1, 0, -1], [-1, 1, 0]]], np.float32) / math.sqrt(3)
    cosine = jnp.cos(angle)[:, None, None]
    sine = jnp.sin(angle)[:, None, None]
    rotation = mean + cosine * (np.eye(3, dtype=np.float32)[None] - mean) + sine * turn
    matrix = grey + factor[:, None, None] * (rotation - grey)
    turned = sum(image[..., None, i] * matrix[:, None, None, :, i] for i in range(3))
    return jnp.clip(turned, -1.0, 1.0)


def add_noise(noise: float, key: Key, image: jax.Array) -> jax.Array:
    """Add Gaussian noise, and keep the values in [-1, 1]."""
    return jnp.clip(image + noise * jax.random.normal(key, image.shape), -1.0, 1.0)


def swap_pixels(swap: float, key: Key, image: jax.Array) -> jax.Array:
    """Replace a random share of pixels by those of the next image in the batch."""
    keys = jax.random.split(key)
    share = swap * draw(keys[0], len(image), 0.5)
    chosen = jax.random.uniform(keys[1], image.shape[:3]) < share[:, None, None]
    return jnp.where(chosen[..., None], jnp.roll(image, -1, 0), image)


def erase(views: Views, key: Key, image: jax.Array, ground: jax.Array) -> jax.Array:
    """Fill a square with the background, in a share `views.erase` of the images."""
    keys = jax.random.split(key, 4)
    count, height, width, _ = image.shape
    chosen = draw(keys[0], count, 0.0) < views.erase
    half = views.erase_size * min(height, width) / 2 * draw(keys[1], count, 0.4)
    # The centre keeps a distance from the border, so that most of the square is in the image.
    row = height * draw(keys[2], count, 0.07, 0.93) - 0.5
    column = width * draw(keys[3], count, 0.07, 0.93) - 0.5
    rows = jnp.abs(jnp.arange(height)[None] - row[:, None]) < half[:, None]
    columns = jnp.abs(jnp.arange(width)[None] - column[:, None]) < half[:, None]
    square = rows[:, :, None] & columns[:, None, :] & chosen[:, None, None]
    return jnp.where(square[..., None], ground[:, None, None, :], image)
