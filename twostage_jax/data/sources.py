"""Everything that reads somebody's files; `load` turns a SPEC into a `Dataset`."""

from pathlib import Path

import numpy as np

from twostage_jax.data.dataset import Dataset, Source, make_dataset
from twostage_jax.data.spec import check_spec
from twostage_jax.errors import UserError


def load(spec: str, validation: int | None = None, data_dir: str | Path | None = None) -> Dataset:
    """The data set that `spec` names.

    Args:
        spec: `digits` (bundled), `mnist` or `tfds:NAME` (TensorFlow Datasets), `idx:DIR` (the four
            MNIST-style files), `npz:FILE` (`x_train, y_train, x_test, y_test` or `image, label`).
        validation: examples carved from train; by default a tenth of them, at most 5,000.
        data_dir: where TensorFlow Datasets keeps its data; by default its own folder.

    Returns:
        A `Dataset` of uint8 images `[N, H, W, C]` and int32 labels. A source without a test part
        gets a stratified fifth of its examples cut off for one, always the same.

    Raises:
        UserError: an unknown spec, or files that are missing, broken or out of range.
    """
    check_spec(spec, data_dir is not None)
    return make_dataset(_read(spec, data_dir), validation)


def load_images(spec: str, data_dir: str | Path | None = None) -> np.ndarray:
    """Images uint8 `[N, H, W, C]` of a source: its test part, or all where it has none.

    Raises:
        UserError: an unknown spec, files that are missing or broken, or no images in them.
    """
    check_spec(spec, data_dir is not None)
    source = _read(spec, data_dir)
    images = (source.test or source.train)["image"]
    if not len(images):
        raise UserError(f"{spec} has no images to tell apart: give a source that has some")
    return images


def _read(spec: str, data_dir: str | Path | None) -> Source:
    try:
        return _read_kind(spec, data_dir)
    except OSError as error:  # a name that is too long, a disk that fails
        raise UserError(
            f"cannot read {spec}: {error.strerror or error}; give files that can be read"
        ) from error
    except MemoryError as error:
        raise UserError(
            f"{spec} needs more memory than there is: give fewer or smaller images"
        ) from error


def _read_kind(spec: str, data_dir: str | Path | None) -> Source:
    # Each source is imported where it is used: TFDS alone costs half a second.
    kind, _, rest = spec.partition(":")
    match kind:
        case "digits":
            from twostage_jax.data import digits

            return digits.read()
        case "idx":
            from twostage_jax.data import idx

            return idx.read(Path(rest))
        case "npz":
            from twostage_jax.data import npz

            return npz.read(Path(rest))
        case _:
            from twostage_jax.data.tfds import prepare as tfds

            return tfds.read(rest or kind, data_dir)
