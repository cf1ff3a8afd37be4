"""Conversion of a user's images to the input of an opened run's network."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from twostage_jax.errors import UserError, shown

# Integers up to this value may have another scale than 0 to 255: binary images have 0 and 1,
# scikit-learn's digits have 0 to 16.
SMALL_SCALE = 16
ROUNDING = 1e-4  # floats may exceed [0, 1] by the error of float16
WHOLE = "give integers in 0 to 255, or floats in 0 to 1"


def network_images(
    images: object, shape: tuple[int, ...], run: Path, decoded: bool = False
) -> np.ndarray:
    """Convert a user's images to uint8 or to normalised float32, `[N, H, W, C]`.

    Args:
        images: integers in 0 to 255 or floats in [0, 1], as NumPy, JAX or PyTorch arrays, PIL
            images, or lists of them. `[N, H, W, C]`; `[N, H, W]` if the run has one channel; or one
            image without the axis N.
        shape: `(H, W, C)` of the run's images.
        run: folder of the run, for messages.
        decoded: True for integers that are certainly in 0 to 255, even if all are small.

    Returns:
        uint8 as it is, and floats as `(x - 0.5)/0.5`. `stages.stage.as_image` takes both.

    Raises:
        UserError: another shape or type, or values out of range or not finite.
    """
    array = _with_shape(_as_array(images), shape, run)
    if array.dtype == np.bool_:
        array = array.astype(np.float32)
    if np.issubdtype(array.dtype, np.integer):
        return _integers(array, decoded)
    # NumPy does not know bfloat16 as a float; jax does.
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f"images are {array.dtype}: {WHOLE}")
    return _floats(array.astype(np.float32))


def _as_array(images: object) -> np.ndarray:
    try:
        if hasattr(images, "detach"):  # a PyTorch tensor, perhaps with a gradient or on a GPU
            images = images.detach().cpu()  # pyright: ignore[reportAttributeAccessIssue]
        array = np.asarray(images)
    except Exception as error:  # PyTorch raises on a tensor that needs a gradient or is on a GPU
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot convert {type(images).__name__} to an array: {reason[:200]}; give a NumPy "
            "array"
        ) from error
    if array.dtype == object or array.dtype.kind in "US":
        raise UserError(
            f"images are {shown(images)}: give an array, for instance the entry 'image' of a split"
        )
    return array


def _with_shape(array: np.ndarray, shape: tuple[int, ...], run: Path) -> np.ndarray:
    """Return images `[N, H, W, C]`.

    Raises:
        UserError: another shape.
    """
    height, width, channels = shape
    plain = channels == 1 and array.shape[-2:] == (height, width)
    if array.shape[1:] == shape and array.ndim == 4:
        return array
    # A single image first: with one channel, its axes could be read as N, H and W.
    if array.shape == shape:
        return array[None]
    if plain and array.ndim in (2, 3):
        return array.reshape(-1, *shape)
    wanted = "×".join(map(str, shape))
    size = "×".join(map(str, array.shape)) or "a single number"
    hint = f"give [N, {height}, {width}, {channels}]"
    if array.ndim == 4 and array.shape[1:] == (channels, height, width):
        hint = "move the channels to the end with images.transpose(0, 2, 3, 1)"
    elif array.ndim == 2 and array.shape[1] == height * width * channels:
        hint = f"reshape them with images.reshape(-1, {height}, {width}, {channels})"
    raise UserError(f"images are {size}, but {run} was trained on {wanted}: {hint}")


def _integers(array: np.ndarray, decoded: bool) -> np.ndarray:
    if not array.size:
        return array.astype(np.uint8)
    least = int(array.min())
    largest = int(array.max())
    if least < 0 or largest > 255:
        raise UserError(f"images are integers from {least} to {largest}: {WHOLE}")
    # Read as 0 to 255, they would be nearly black, and every prediction would be wrong.
    if 0 < largest <= SMALL_SCALE and not decoded:
        raise UserError(
            f"images are integers from {least} to {largest}, so their scale is uncertain: give "
            f"floats in 0 to 1, for instance images / {largest}, or images / 255 if they are dark"
        )
    return array.astype(np.uint8)


def _floats(array: np.ndarray) -> np.ndarray:
    if not array.size:
        return array
    least = float(array.min())
    largest = float(array.max())
    if not np.isfinite([least, largest]).all():
        raise UserError("images have values that are not finite (NaN or infinity): replace them")
    if least < -ROUNDING or largest > 1 + ROUNDING:
        hint = f"give floats in 0 to 1, or integers in 0 to 255 ({_remedy(least, largest)})"
        raise UserError(f"images are floats from {least:g} to {largest:g}: {hint}")
    return (np.clip(array, 0, 1) - 0.5) / np.float32(0.5)


def _remedy(least: float, largest: float) -> str:
    """Return a formula that may bring floats into [0, 1]."""
    if least >= -1 - ROUNDING and largest <= 1 + ROUNDING:
        return "(images + 1) / 2 if they were normalised to -1 to 1"
    if least >= 0 and largest <= 255:
        return f"images / {255 if largest > SMALL_SCALE else int(np.ceil(largest))}"
    return "undo the normalisation"
