"""Load the data set that a SPEC names."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostage_jax.data import digits, idx, npz, pool
from twostage_jax.data.dataset import Dataset, make_dataset
from twostage_jax.data.examples import Examples, make_examples
from twostage_jax.data.pixels import parse_scale
from twostage_jax.data.source import Source
from twostage_jax.data.spec import (
    FILE_KINDS,
    READING,
    Progress,
    Reading,
    check_reading,
    check_spec,
    expanded,
    fitting,
    kind_of,
    make_reading,
)
from twostage_jax.errors import UserError


class Request(NamedTuple):
    """Arguments of a source beside its SPEC.

    Attributes:
        data_dir: folder of TensorFlow Datasets' data.
        scale: `Dataset.scale` of the images that an encoder was trained on.
        reading: settings of reading.
        progress: called with the number of images decoded and of all.
    """

    data_dir: str | Path | None = None
    scale: str = ""
    reading: Reading = READING
    progress: Progress | None = None


def load(
    spec: str,
    validation: int | None = None,
    data_dir: str | Path | None = None,
    scale: str = "",
    *,
    needs_labels: bool = True,
    progress: Progress | None = None,
    **options: object,
) -> Dataset:
    """Load the data set that `spec` names.

    >>> import twostage_jax as ts
    >>> dataset = ts.load("digits", validation=100)
    >>> dataset.train["image"].shape
    (1338, 8, 8, 1)

    Args:
        spec: `digits` (bundled), `mnist` or `tfds:NAME` (TensorFlow Datasets), `idx:DIR` (the four
            MNIST-style files), `npz:FILE` (`x_train, y_train, x_test, y_test` or `image, label`),
            `folder:DIR` (`DIR/CLASS/*`, `DIR/{train,validation,test}/CLASS/*`, `DIR/unlabeled/*`),
            `csv:FILE` (columns `path,label`).
        validation: number of examples to take from train; by default a tenth, at most 5,000.
        data_dir: folder of TensorFlow Datasets' data; by default its own folder.
        scale: `Dataset.scale` of the images that an encoder was trained on. The values of this
            source are read in it if they fit.
        needs_labels: False for stage 1 alone: a source without labels is all unlabelled.
        progress: called with the number of images decoded and of all, for `folder:` and `csv:`.
        options: settings of reading, as the flags of the same names: `image_size=64`,
            `unlabeled="folder:more"`, `group_by="patient_[0-9]+"`, …

    Returns:
        A `Dataset` of uint8 images `[N, H, W, C]` and int32 labels `[N]`. If the source has no test
        split, a stratified fifth of its examples is set aside as one, always the same fifth.

    Raises:
        UserError: an unknown spec, or files that are missing, corrupted or out of range.
    """
    request = Request(data_dir, scale, make_reading(options), progress)
    return make_dataset(_read(spec, request), validation, needs_labels)


def load_examples(
    spec: str,
    classes: Sequence[str],
    split: str | None = None,
    data_dir: str | Path | None = None,
    scale: str = "",
    *,
    progress: Progress | None = None,
    **options: object,
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
        progress: as for `load`.
        options: as for `load`.

    Raises:
        UserError: as `load`; a split that the source lacks, or labels outside of the run's classes.
    """
    request = Request(data_dir, scale, make_reading(options), progress)
    return make_examples(_read(spec, request), classes, split)


def load_images(
    spec: str,
    data_dir: str | Path | None = None,
    scale: str = "",
    *,
    progress: Progress | None = None,
    **options: object,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Load the images uint8 `[N, H, W, C]` of a source, and notes on how they were read.

    They are its test split, or all if it has none; `scale` and the options are as for `load`.

    Raises:
        UserError: as `load`, or a source without images.
    """
    request = Request(data_dir, scale, make_reading(options), progress)
    source = _read(spec, request)
    image = source.unlabelled
    for split in source.splits.values():  # the last one is the test split, if there is one
        image = split["image"]
    if image is None or not len(image):
        raise UserError(f"{spec} has no images: give a source that has some")
    return image, source.notes


def _read(spec: str, request: Request) -> Source:
    check_spec(spec, request.data_dir is not None)
    check_reading(request.reading, spec)
    more = request.reading.unlabeled
    try:
        source = _read_kind(spec, request)
        if more is None:
            return source
        # In the form of the source, whatever its images look like.
        reading = pool.with_form_of(source, request.reading)._replace(unlabeled=None)
        reading = fitting(reading, more)
        notes = ()
        if kind_of(spec) == kind_of(more) == "csv":
            from twostage_jax.data import columns

            # The columns are those of the first table.
            path = expanded(more.partition(":")[2])
            reading, notes = columns.for_another_table(reading, path)
        asked = request._replace(data_dir=None, reading=reading)
        other = _read_kind(more, asked, as_pool=True)
        return pool.with_more(source, other._replace(notes=notes + other.notes), more)
    except OSError as error:  # for example a name that is too long, or a failing disk
        file = error.filename or spec
        reason = error.strerror or error
        raise UserError(f"cannot read {file}: {reason}; give files that can be read") from error
    except MemoryError as error:
        raise UserError(
            f"{spec} needs more memory than this machine has: give fewer or smaller images"
        ) from error


def _read_kind(spec: str, request: Request, as_pool: bool = False) -> Source:
    kind, _, rest = spec.partition(":")
    trained = parse_scale(request.scale)
    if kind in FILE_KINDS:
        # Imported only when it is used, because Pillow takes a while.
        from twostage_jax.data import pictures

        more = request.reading.unlabeled
        reading = fitting(request.reading._replace(unlabeled=None), kind_of(spec))
        reading = reading._replace(unlabeled=more)
        return pictures.read(kind, expanded(rest), reading, request.progress, as_pool)
    match kind:
        case "digits":
            return digits.read()
        case "idx":
            return idx.read(expanded(rest), trained)
        case "npz":
            return npz.read(expanded(rest), trained)
    # Imported only when it is used, because TFDS alone costs half a second.
    from twostage_jax.data.tfds import prepare

    data_dir = request.data_dir
    return prepare.read(rest or kind, expanded(data_dir) if data_dir else None)
