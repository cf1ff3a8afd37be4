"""Arrays of users as uint8 images and int32 labels."""

import numpy as np

from twostage_jax.errors import UserError

SLICE = 4096  # images converted at a time


def as_images(image: np.ndarray, where: str) -> np.ndarray:
    """Convert to uint8 `[N, H, W, C]` in 0 to 255.

    Args:
        image: `[N, H, W]` or `[N, H, W, C]`, integers in 0 to 255 or floats in 0 to 1.
        where: name of the array, for messages.

    Raises:
        UserError: another number of axes, type or range.
    """
    if image.ndim not in (3, 4) or 0 in image.shape[1:]:
        raise UserError(f"{where} has shape {image.shape}: give [N, H, W] or [N, H, W, C]")
    low = image.min() if image.size else 0
    high = image.max() if image.size else 0
    if np.issubdtype(image.dtype, np.floating):
        if not (low >= 0 and high <= 1):  # so written that NaN is refused too
            raise UserError(
                f"{where} has floats from {low} to {high}: floats must lie in 0 to 1; scale them, "
                "or save uint8 values in 0 to 255"
            )
        image = _as_bytes(image)
    elif not np.issubdtype(image.dtype, np.integer) or low < 0 or high > 255:
        raise UserError(
            f"{where} has {image.dtype} values from {low} to {high}: give integers in 0 to 255 or "
            "floats in 0 to 1"
        )
    if image.ndim == 3:
        image = image[..., None]
    return image.astype(np.uint8, copy=False)


def _as_bytes(image: np.ndarray) -> np.ndarray:
    # Slice by slice, because a second copy in floats may not fit into memory.
    converted = np.empty(image.shape, np.uint8)
    for start in range(0, len(image), SLICE):
        converted[start : start + SLICE] = np.round(image[start : start + SLICE] * 255)
    return converted


def as_labels(label: np.ndarray, where: str) -> np.ndarray:
    """Convert to int32 `[N]`.

    Args:
        label: `[N]` or `[N, 1]`, whole numbers from 0 of an integer or float type.
        where: name of the array, for messages.

    Raises:
        UserError: another shape, type or range.
    """
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    numeric = any(np.issubdtype(label.dtype, kind) for kind in (np.integer, np.floating))
    if label.ndim != 1 or not numeric:
        raise UserError(
            f"{where} has shape {label.shape} of {label.dtype}: give one whole number for each "
            "example, [N]"
        )
    fractional = label != np.floor(label)  # True for NaN
    if fractional.any():
        raise UserError(
            f"{where} has label {label[fractional][0]}: labels must be whole numbers from 0"
        )
    # Compared as Python's numbers, because a float16 cannot hold 2**31.
    if label.size and not 0 <= label.min().item() <= label.max().item() < 2**31:
        outlier = label.min() if label.min() < 0 else label.max()
        raise UserError(f"{where} has label {outlier}, out of range: labels must be 0 to K-1")
    return label.astype(np.int32)
