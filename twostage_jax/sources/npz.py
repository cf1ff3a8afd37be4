"""Images and labels from a NumPy archive, as Keras names the arrays or as `image` and `label`."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from twostage_jax.data import Source, Split
from twostage_jax.errors import UserError

KERAS = ("x_train", "y_train", "x_test", "y_test")
PLAIN = ("image", "label")


def read(path: Path) -> Source:
    """Train and, with the names of Keras, test part of `path`. Nothing is ever unpickled.

    Raises:
        UserError: a missing or broken file, missing arrays, and values that are no images or
            labels.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}: give npz:FILE with a NumPy archive")
    try:
        arrays = np.load(path, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise UserError(f"{path} holds a single array: save both with numpy.savez")
        with arrays:
            parts = _read_parts(arrays, path)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read {path}: {_reason(error)}") from error
    train, test = parts[0], parts[1] if len(parts) == 2 else None
    return Source(path.stem, train, test)


def _reason(error: Exception) -> str:
    if "allow_pickle" in str(error) or "Object arrays" in str(error):
        return "it has an array of objects, which we never unpickle: save plain numbers"
    return f"{error}; save it again with numpy.savez"


def _read_parts(arrays: np.lib.npyio.NpzFile, path: Path) -> list[Split]:
    names = KERAS if any(name in arrays for name in KERAS) else PLAIN
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UserError(
            f"{path} has the arrays {', '.join(arrays) or 'none'} and lacks {', '.join(missing)}: "
            f"name them {', '.join(KERAS)}, or {', '.join(PLAIN)}"
        )
    pairs = zip(names[::2], names[1::2], strict=True)
    return [_part(arrays[x], arrays[y], f"{path}: {x}", f"{path}: {y}") for x, y in pairs]


def _part(image: np.ndarray, label: np.ndarray, x: str, y: str) -> Split:
    images, labels = as_images(image, x), as_labels(label, y)
    if len(images) != len(labels):
        raise UserError(
            f"{x} has {len(images)} examples and {y} has {len(labels)}: the counts must agree"
        )
    return {"image": images, "label": labels}


def as_images(image: np.ndarray, where: str) -> np.ndarray:
    """`[N, H, W]` or `[N, H, W, C]`, integers in 0..255 or floats in 0..1, as uint8 with C.

    Raises:
        UserError: another number of axes, type or range; `where` names the array in the message.
    """
    if image.ndim not in (3, 4) or 0 in image.shape[1:]:
        raise UserError(f"{where} has shape {image.shape}: [N, H, W] or [N, H, W, C] is expected")
    low, high = (image.min(), image.max()) if image.size else (0, 0)
    if np.issubdtype(image.dtype, np.floating):
        if not (low >= 0 and high <= 1):
            raise UserError(
                f"{where} has floats from {low} to {high}: floats must lie in 0 to 1; scale them, "
                "or save uint8 values in 0 to 255"
            )
        image = np.round(image * 255)
    elif not np.issubdtype(image.dtype, np.integer) or low < 0 or high > 255:
        raise UserError(
            f"{where} has {image.dtype} values from {low} to {high}: integers in 0 to 255 or "
            "floats in 0 to 1 are expected"
        )
    image = image.astype(np.uint8)
    return image if image.ndim == 4 else image[..., None]


def as_labels(label: np.ndarray, where: str) -> np.ndarray:
    """`[N]` or `[N, 1]` whole numbers from 0, as int32 `[N]`.

    Raises:
        UserError: anything else; `where` names the array in the message.
    """
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    whole, real = np.issubdtype(label.dtype, np.integer), np.issubdtype(label.dtype, np.floating)
    if label.ndim != 1 or not (whole or real):
        raise UserError(
            f"{where} has shape {label.shape} of {label.dtype}: one whole number for each example "
            "is expected, [N]"
        )
    if not np.array_equal(label, np.floor(label)):
        odd = label[label != np.floor(label)][0]
        raise UserError(f"{where} has label {odd}: labels must be whole numbers from 0")
    if label.size and not 0 <= label.min() <= label.max() < 2**31:
        odd = label.min() if label.min() < 0 else label.max()
        raise UserError(f"{where} has label {odd}, out of range: labels must be 0 to K-1")
    return label.astype(np.int32)
