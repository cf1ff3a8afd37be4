"""Function of an augmentation family for images of one shape."""

import jax

from twostage_jax.errors import UserError, did_you_mean
from twostage_jax.stages.families import AUGMENTATIONS
from twostage_jax.stages.pretrain.two_views import Augment
from twostage_jax.stages.stage import Key
from twostage_jax.stages.views import geometry, pixels
from twostage_jax.stages.views.settings import Views


def augmentation(views: Views | str, image_shape: tuple[int, ...]) -> Augment:
    """Return a function that makes a random view of each image.

    Every transformation has a key of its own, so turning one off does not change the random
    numbers of the others. Zero strengths return the images as they are.

    Args:
        views: settings, or the name of a family: `none`, `handwriting`, `objects`, `photographs`.
        image_shape: `(H, W, C)`.

    Returns:
        `(key, image float32 [B, H, W, C] in [-1, 1]) -> views` of the same shape and range. Pure;
        it can be jitted and vmapped.

    Raises:
        UserError: an unknown name, or settings that do not fit the shape.

    >>> import jax, jax.numpy as jnp, twostage_jax as ts
    >>> augment = ts.augmentation("handwriting", (28, 28, 1))
    >>> augment(jax.random.key(0), jnp.zeros((2, 28, 28, 1))).shape
    (2, 28, 28, 1)
    """
    views = find_views(views)
    shape = tuple(image_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"image_shape is {shape}: give (height, width, channels)")
    views.check_size(shape)

    def augment(key: Key, image: jax.Array) -> jax.Array:
        if image.shape[1:] != shape:
            raise UserError(
                f"images are {list(image.shape[1:])}, but this augmentation was made for "
                f"{list(shape)}: give images [B, H, W, C] of that shape"
            )
        return make_views(views, key, image)

    return augment


def find_views(views: Views | str) -> Views:
    """Return the settings of a family, or `views` if they are settings already.

    Raises:
        UserError: an unknown name, or another type.
    """
    if isinstance(views, Views):
        return views
    if not isinstance(views, str) or views not in AUGMENTATIONS:
        hint = did_you_mean(str(views), AUGMENTATIONS)
        raise UserError(f"unknown augmentation {views!r}: {hint}, or give ts.Views(…)")
    return AUGMENTATIONS[views]


def make_views(views: Views, key: Key, image: jax.Array) -> jax.Array:
    """Return one view of each image `[B, H, W, C]`."""
    ground = pixels.background(image)
    keys = [jax.random.fold_in(key, number) for number in range(8)]
    if views.moves:
        image = geometry.move(views, keys[0], image, ground)
    if views.stroke:
        image = pixels.change_stroke(views.stroke, keys[1], image, ground)
    if views.erase:
        # Before light and colour change, because they also change the background.
        image = pixels.erase(views, keys[7], image, ground)
    if views.blur:
        image = pixels.blur(views.blur, keys[2], image)
    if views.brightness or views.contrast:
        image = pixels.change_light(views, keys[3], image)
    if image.shape[-1] == 3 and (views.saturation or views.hue or views.grey):
        image = pixels.change_colour(views, keys[4], image)
    if views.swap:
        image = pixels.swap_pixels(views.swap, keys[5], image)
    if views.noise:
        image = pixels.add_noise(views.noise, keys[6], image)
    return image
