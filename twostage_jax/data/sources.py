"""Load the data set that a SPEC names."""

from pathlib import Path

import numpy as np

from twostage_jax.data import digits, idx, npz
from twostage_jax.data.dataset import Dataset, Source, make_dataset
from twostage_jax.data.spec import check_spec
from twostage_jax.errors import UserError


def load(spec: str, validation: int | None = None, data_dir: str | Path | None = None) -> Dataset:
    """Load the data set that `spec` names.

    >>> import twostage_jax as ts
    >>> dataset = ts.load("digits", validation=100)
    >>> dataset.train["image"].shape
    (1338, 8, 8, 1)

    Args:
        spec: `digits` (bundled), `mnist` or `tfds:NAME` (TensorFlow Datasets), `idx:DIR` (the four
            MNIST-style files), `npz:FILE` (`x_train, y_train, x_test, y_test` or `image, label`).
        validation: number of examples to carve from train; by default a tenth, at most 5,000.
        data_dir: folder of TensorFlow Datasets' data; by default its own folder.

    Returns:
        A `Dataset` of uint8 images `[N, H, W, C]` and int32 labels `[N]`. If the source has no test
        split, a stratified fifth of its examples is set aside as one, always the same fifth.

    Raises:
        UserError: an unknown spec, or files that are missing, corrupted or out of range.
    """
    return make_dataset(_read(spec, data_dir), validation)


def load_images(spec: str, data_dir: str | Path | None = None) -> np.ndarray:
    """Load the images uint8 `[N, H, W, C]` of a source: its test split, or all if it has none.

    Raises:
        UserError: as `load`, or a source without images.
    """
    source = _read(spec, data_dir)
    split = source.test or source.train
    if not len(split["image"]):
        raise UserError(f"{spec} has no images: give a source that has some")
    return split["image"]


def _read(spec: str, data_dir: str | Path | None) -> Source:
    check_spec(spec, data_dir is not None)
    try:
        return _read_kind(spec, data_dir)
    except OSError as error:  # for example a name that is too long, or a failing disk
        file = error.filename or spec
        reason = error.strerror or error
        raise UserError(f"cannot read {file}: {reason}; give files that can be read") from error
    except MemoryError as error:
        raise UserError(
            f"{spec} needs more memory than this machine has: give fewer or smaller images"
        ) from error


def _read_kind(spec: str, data_dir: str | Path | None) -> Source:
    kind, _, rest = spec.partition(":")
    match kind:
        case "digits":
            return digits.read()
        case "idx":
            return idx.read(Path(rest))
        case "npz":
            return npz.read(Path(rest))
    # Imported only when it is used, because TFDS alone costs half a second.
    from twostage_jax.data.tfds import prepare

    return prepare.read(rest or kind, data_dir)
