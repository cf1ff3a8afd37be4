"""Shift, rotation, scale, aspect, shear, elastic field, crop and flip as one field of coordinates.

The pixel `(i, j)` of a view reads the image at the place `matrix @ ((i, j) - centre) + centre +
offset + elastic displacement`. An image is therefore interpolated only once, whatever the number of
transformations. Places are in pixels.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.stages.stage import Key
from twostage_jax.stages.views.settings import Views


def draw(key: Key, count: int, low: float = -1.0, high: float = 1.0) -> jax.Array:
    """Return `count` uniform numbers in [low, high)."""
    return jax.random.uniform(key, (count,), minval=low, maxval=high)


def move(views: Views, key: Key, image: jax.Array, ground: jax.Array) -> jax.Array:
    """Return images `[B, H, W, C]` with their pixels moved as the settings require.

    Args:
        views: settings.
        key: random key.
        image: `[B, H, W, C]`.
        ground: `[B, C]`, value of the pixels from outside.
    """
    count, height, width, _ = image.shape
    matrix, offset = draw_maps(views, key, count, (height, width))
    row, column = field(matrix, offset, (height, width))
    if views.elastic:
        shape = (2, count, views.grid**2)
        points = views.elastic * jax.random.normal(jax.random.fold_in(key, 8), shape)
        spline = jnp.asarray(spline_matrix(views.grid, height, width))
        row += height * points[0] @ spline
        column += width * points[1] @ spline

    def sample_image(arrays: tuple[jax.Array, ...]) -> jax.Array:
        return sample(*(array[None] for array in arrays))[0]

    # A loop over two halves. Otherwise XLA:CPU repeats the gather for every value that a later blur
    # reads, which takes 3.6 times the CPU time.
    half = max(1, count // 2)
    return jax.lax.map(sample_image, (image, row, column, ground), batch_size=half)


def draw_maps(
    views: Views, key: Key, count: int, size: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Return random maps from the pixels of views to those of images.

    Returns:
        `matrix [B, 2, 2]` and `offset [B, 2]`, in pixels; the first coordinate is the row.
    """
    keys = jax.random.split(key, 8)
    angle = math.radians(views.rotation) * draw(keys[0], count)
    shear = views.shear * draw(keys[1], count)
    scale = views.scale * draw(keys[2], count)
    aspect = views.aspect * draw(keys[3], count)
    # Height and width of the region that a view shows, relative to the image.
    tall = jnp.exp(scale - aspect)
    wide = jnp.exp(scale + aspect)
    offset = views.shift * jax.random.uniform(keys[4], (count, 2), minval=-1.0)
    if views.crop:
        extent, place = _draw_crops(views.crop, keys[5], count)
        tall *= extent[:, 0]
        wide *= extent[:, 1]
        offset += place
    sign = jnp.ones(count)
    if views.flip:
        sign = jnp.where(draw(keys[6], count, 0.0) < views.flip, -1.0, 1.0)
    cosine = jnp.cos(angle)
    sine = jnp.sin(angle)
    # Scale × rotation × shear × flip, written out.
    rows = [tall * (sine * shear + cosine), tall * sine * sign]
    columns = [wide * (cosine * shear - sine), wide * cosine * sign]
    matrix = jnp.stack([jnp.stack(rows, -1), jnp.stack(columns, -1)], 1)
    return matrix, offset * np.array([size], np.float32)


def _draw_crops(crop: float, key: Key, count: int) -> tuple[jax.Array, jax.Array]:
    """Return height and width `[B, 2]` of random crops and their centres, as shares of the side."""
    keys = jax.random.split(key, 3)
    side = jnp.sqrt(draw(keys[0], count, 1 - crop))
    ratio = jnp.exp(math.log(4 / 3) / 2 * draw(keys[1], count))
    extent = jnp.minimum(1.0, jnp.stack([side / ratio, side * ratio], -1))
    place = jax.random.uniform(keys[2], (count, 2), minval=-1.0) * (1 - extent) / 2
    return extent, place


def field(
    matrix: jax.Array, offset: jax.Array, size: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Return the rows and columns `[B, H*W]` that affine maps read for the pixels of views.

    Args:
        matrix: `[B, 2, 2]`.
        offset: `[B, 2]`, pixels.
        size: `(H, W)`.
    """
    height, width = size
    centre = (np.array(size) - 1) / 2
    grid = np.mgrid[:height, :width].reshape(2, -1) - centre[:, None]
    grid = grid.astype(np.float32)[:, None, None]
    # Two products of numbers: a matrix product may round to bfloat16.
    places = matrix[:, :, :1] * grid[0] + matrix[:, :, 1:] * grid[1]
    places += (offset + centre.astype(np.float32)[None])[:, :, None]
    return places[:, 0], places[:, 1]


def spline_matrix(points: int, height: int, width: int) -> np.ndarray:
    """Return the matrix `[points², H*W]` from a coarse grid to a smooth field, by cubic B-splines.

    The grid covers the image from border to border. Weights of a pixel add up to 1.
    """
    weights = np.kron(_spline(points, height), _spline(points, width))
    return np.ascontiguousarray(weights.T, dtype=np.float32)


def _spline(points: int, size: int) -> np.ndarray:
    """Return the weights `[size, points]` of cubic B-splines along one axis."""
    step = size / (points - 1)
    places = np.linspace(-0.5, size - 0.5, points)
    distance = np.abs(np.arange(size)[:, None] - places) / step
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    return weights / weights.sum(1, keepdims=True)


def sample(image: jax.Array, row: jax.Array, column: jax.Array, ground: jax.Array) -> jax.Array:
    """Interpolate images bilinearly.

    Args:
        image: `[B, H, W, C]`.
        row: row to read for each pixel, `[B, H*W]`; any real number.
        column: the same for columns.
        ground: `[B, C]`, the value outside of the image.

    Returns:
        `[B, H, W, C]`.
    """
    count, height, width, channels = image.shape
    # A frame of one pixel has the ground's value. All places outside read it.
    inside = np.zeros((1, height + 2, width + 2, 1), bool)
    inside[:, 1:-1, 1:-1] = True
    framed = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    framed = jnp.where(inside, framed, ground[:, None, None, :])
    # One long list of pixels: XLA gathers from it faster than with batch dimensions.
    stride = width + 2
    pixels = framed.reshape(-1, channels)
    row = jnp.clip(row + 1, 0, height + 1)
    column = jnp.clip(column + 1, 0, width + 1)
    top = jnp.minimum(jnp.floor(row), height)
    left = jnp.minimum(jnp.floor(column), width)
    down = (row - top)[..., None]
    right = (column - left)[..., None]
    first = jnp.arange(count, dtype=jnp.int32)[:, None] * (height + 2) * stride
    index = first + (top * stride + left).astype(jnp.int32)

    def pixel(step: int) -> jax.Array:
        return pixels.at[index + step].get(mode="promise_in_bounds")

    above = pixel(0) * (1 - right) + pixel(1) * right
    below = pixel(stride) * (1 - right) + pixel(stride + 1) * right
    return (above * (1 - down) + below * down).reshape(image.shape)
