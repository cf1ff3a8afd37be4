"""Load the data set that a SPEC names."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from twostage_jax.data import digits, idx, npz
from twostage_jax.data.dataset import Dataset, make_dataset
from twostage_jax.data.examples import Examples, make_examples
from twostage_jax.data.pixels import Scale, parse_scale
from twostage_jax.data.source import Source
from twostage_jax.data.spec import check_spec, expanded
from twostage_jax.errors import UserError


def load(
    spec: str,
    validation: int | None = None,
    data_dir: str | Path | None = None,
    scale: str = "",
) -> Dataset:
    """Load the data set that `spec` names.

    >>> import twostage_jax as ts
    >>> dataset = ts.load("digits", validation=100)
    >>> dataset.train["image"].shape
    (1338, 8, 8, 1)

    Args:
        spec: `digits` (bundled), `mnist` or `tfds:NAME` (TensorFlow Datasets), `idx:DIR` (the four
            MNIST-style files), `npz:FILE` (`x_train, y_train, x_test, y_test` or `image, label`).
        validation: number of examples to take from train; by default a tenth, at most 5,000.
        data_dir: folder of TensorFlow Datasets' data; by default its own folder.
        scale: `Dataset.scale` of the images that an encoder was trained on. The values of this
            source are read in it if they fit.

    Returns:
        A `Dataset` of uint8 images `[N, H, W, C]` and int32 labels `[N]`. If the source has no test
        split, a stratified fifth of its examples is set aside as one, always the same fifth.

    Raises:
        UserError: an unknown spec, or files that are missing, corrupted or out of range.
    """
    return make_dataset(_read(spec, data_dir, scale), validation)


def load_examples(
    spec: str,
    classes: Sequence[str],
    split: str | None = None,
    data_dir: str | Path | None = None,
    scale: str = "",
) -> Examples:
    """Load the labelled examples of a source without cutting anything off, to score a run on them.

    A single class, a single example or a test split alone are fine.

    >>> from twostage_jax.data.sources import load_examples
    >>> examples = load_examples("digits", [str(k) for k in range(10)])
    >>> examples.part, len(examples.label)
    ('all', 1797)

    Args:
        spec: as for `load`.
        classes: class names of the run. Labels are matched with them by name if the source has
            class names, otherwise by number.
        split: split of a source that has several; by default its test split.
        data_dir: as for `load`.
        scale: as for `load`, of the run.

    Raises:
        UserError: as `load`; a split that the source lacks, or labels outside of the run's classes.
    """
    return make_examples(_read(spec, data_dir, scale), classes, split)


def load_images(
    spec: str, data_dir: str | Path | None = None, scale: str = ""
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Load the images uint8 `[N, H, W, C]` of a source, and notes on how they were read.

    They are its test split, or all if it has none; `scale` is as for `load`.

    Raises:
        UserError: as `load`, or a source without images.
    """
    source = _read(spec, data_dir, scale)
    image = source.unlabelled
    for split in source.splits.values():  # the last one is the test split, if there is one
        image = split["image"]
    if image is None or not len(image):
        raise UserError(f"{spec} has no images: give a source that has some")
    return image, source.notes


def _read(spec: str, data_dir: str | Path | None, scale: str) -> Source:
    check_spec(spec, data_dir is not None)
    try:
        return _read_kind(spec, data_dir, parse_scale(scale))
    except OSError as error:  # for example a name that is too long, or a failing disk
        file = error.filename or spec
        reason = error.strerror or error
        raise UserError(f"cannot read {file}: {reason}; give files that can be read") from error
    except MemoryError as error:
        raise UserError(
            f"{spec} needs more memory than this machine has: give fewer or smaller images"
        ) from error


def _read_kind(spec: str, data_dir: str | Path | None, trained: Scale | None) -> Source:
    kind, _, rest = spec.partition(":")
    match kind:
        case "digits":
            return digits.read()
        case "idx":
            return idx.read(expanded(rest), trained)
        case "npz":
            return npz.read(expanded(rest), trained)
    # Imported only when it is used, because TFDS alone costs half a second.
    from twostage_jax.data.tfds import prepare

    return prepare.read(rest or kind, expanded(data_dir) if data_dir else None)
