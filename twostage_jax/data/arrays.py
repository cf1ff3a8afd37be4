"""Arrays of users as a split: uint8 images and int32 labels."""

import numpy as np

from twostage_jax.data.split import Split
from twostage_jax.errors import UserError

SLICE = 4096  # images converted at a time


def as_split(image: np.ndarray, label: np.ndarray, image_name: str, label_name: str) -> Split:
    """Convert to `image` uint8 `[N, H, W, C]` in 0 to 255 and `label` int32 `[N]`.

    Args:
        image: `[N, H, W]` or `[N, H, W, C]`, integers in 0 to 255 or floats in 0 to 1.
        label: `[N]` or `[N, 1]`, whole numbers from 0 of an integer or float type.
        image_name: name of `image` in messages.
        label_name: name of `label` in messages.

    Raises:
        UserError: another shape or range, or numbers of images and labels that differ.
    """
    image = _as_images(image, image_name)
    label = _as_labels(label, label_name)
    if len(image) != len(label):
        raise UserError(
            f"{image_name} has {len(image)} images and {label_name} has {len(label)} labels: the "
            "numbers must agree; give two files or arrays that belong together"
        )
    return {"image": image, "label": label}


def _as_images(image: np.ndarray, where: str) -> np.ndarray:
    if image.ndim not in (3, 4) or 0 in image.shape[1:]:
        raise UserError(f"{where} has shape {image.shape}: give [N, H, W] or [N, H, W, C]")
    low = image.min() if image.size else 0
    high = image.max() if image.size else 0
    is_float = image.dtype.kind == "f"
    if not (low >= 0 and high <= (1 if is_float else 255)):  # so written that NaN is refused too
        raise UserError(
            f"{where} has {image.dtype} values from {low} to {high}: give integers in 0 to 255 or "
            "floats in 0 to 1"
        )
    if is_float:
        image = _as_bytes(image)
    if image.ndim == 3:
        image = image[..., None]
    return image.astype(np.uint8, copy=False)


def _as_bytes(image: np.ndarray) -> np.ndarray:
    # Slice by slice, because a second copy in floats may not fit into memory.
    converted = np.empty(image.shape, np.uint8)
    for start in range(0, len(image), SLICE):
        converted[start : start + SLICE] = np.round(image[start : start + SLICE] * 255)
    return converted


def _as_labels(label: np.ndarray, where: str) -> np.ndarray:
    if label.ndim == 2 and label.shape[1] == 1:  # as Keras and MedMNIST store them
        label = label[:, 0]
    if label.ndim != 1:
        raise UserError(
            f"{where} has shape {label.shape}: give one whole number for each example, [N]"
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
