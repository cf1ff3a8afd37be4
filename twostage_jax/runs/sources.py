"""Data for an evaluation: the run's own, another labelled source, outliers."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostage_jax.config.reading import reading_of, with_form
from twostage_jax.data.dataset import Dataset
from twostage_jax.data.examples import Examples
from twostage_jax.data.sources import load, load_examples, load_images
from twostage_jax.data.spec import READING, Progress, Reading, absolute, fitting, takes_data_dir
from twostage_jax.errors import UserError, shown
from twostage_jax.runs.open import Run
from twostage_jax.runs.outsiders import without_outsiders
from twostage_jax.show.terminal import Terminal


class Sources(NamedTuple):
    """Everything that an evaluation reads.

    Attributes:
        run_data: the run's own data; None if another source is evaluated and they cannot be read.
        examples: all examples of another source; None for a split of the own data.
        outliers: images of an out-of-distribution source, or None.
        outsiders: images of the run's other class in the other source, or None.
    """

    run_data: Dataset | None
    examples: Examples | None
    outliers: np.ndarray | None
    outsiders: np.ndarray | None = None


def load_sources(
    run: Run,
    terminal: Terminal,
    split: str | None,
    data: str | None,
    ood: str | None,
    data_dir: Path | None,
    own_needed: bool,
    reading: Reading = READING,
    progress: Progress | None = None,
) -> Sources:
    """Load everything that is evaluated.

    Args:
        run: from `open_run`.
        terminal: prints a notice if the own data cannot be read.
        split: split that the user asks for; by default `test`, or all of another source.
        data: another source, or the own data in another place.
        ood: out-of-distribution source.
        data_dir: folder of TensorFlow Datasets' data.
        own_needed: True if there is no evaluation without the run's own data.
        reading: settings of reading that the user gives, for another source.
        progress: called with the number of images decoded and of all.

    Raises:
        UserError: data that cannot be read or that do not fit the run.
    """
    own_spec = run.config.data
    if ood is not None and absolute(ood) == own_spec:
        raise UserError(f"{ood} is the run's own data: give another source to --ood")
    specs = [spec for spec in (data or own_spec, ood) if spec is not None]
    if data_dir and not any(map(takes_data_dir, specs)):
        raise UserError(
            "--data-dir goes with mnist and tfds:NAME, but neither is read: leave it out"
        )
    # With --ood the folder belongs to the source that is in one.
    own_dir = None if ood and not takes_data_dir(own_spec) else data_dir
    outliers = None
    if ood is not None:
        folder = data_dir or run.config.data_dir
        folder = folder if takes_data_dir(ood) else None
        outliers = load_outliers(run, ood, folder, terminal, reading, progress)

    def read_own(spec: str, folder: Path | None) -> Dataset:
        return load_own(run, spec, folder, reading.cache_dir, progress)

    if data is None:
        _check_unused(reading, ood)
        return Sources(read_own(own_spec, own_dir or run.config.data_dir), None, outliers)
    folder = (data_dir or run.config.data_dir) if takes_data_dir(data) else None
    scale = run.manifest.data.scale
    options = reading_for(run, data, reading)._asdict()
    other_class = run.config.other_class
    classes = [*run.manifest.classes, *([] if other_class is None else [other_class])]
    examples = load_examples(data, classes, None, folder, scale, progress=progress, **options)
    if examples.fingerprint == run.manifest.data.fingerprint:
        # The run's own data in any location: its splits are those of the run.
        terminal.line(
            f"{data} is the run's own data: its {split or 'test'} split is scored", hang=2
        )
        return Sources(read_own(data, folder), None, outliers)
    if split is not None:
        examples = load_examples(data, classes, split, folder, scale, progress=progress, **options)
    examples, outsiders = _without_other_class(run, examples)
    _check_images(run, data, examples.image.shape[1:])
    run_data = None
    try:
        run_data = read_own(own_spec, run.config.data_dir)
    except UserError as error:
        if own_needed:
            raise
        terminal.notice(
            "temperature and prediction sets are left out, and training images are not found, "
            f"because the run's own data cannot be read: {error}"
        )
    return Sources(run_data, examples, outliers, outsiders)


def _without_other_class(run: Run, examples: Examples) -> tuple[Examples, np.ndarray | None]:
    """Separate the examples of the run's other class, which is no class of its head.

    Raises:
        UserError: if there are no other examples.
    """
    if run.config.other_class is None:
        return examples, None
    inside = examples.label < len(run.manifest.classes)
    if not inside.any():
        raise UserError(
            f"{examples.name} has only images of the other class {shown(run.config.other_class)}: "
            "give it as --ood to measure how many of them are rejected"
        )
    columns = {
        name: getattr(examples, name)[inside]
        for name in ("image", "label", "rows", "path", "group")
        if getattr(examples, name) is not None
    }
    return examples._replace(**columns), examples.image[~inside]


def load_own(
    run: Run,
    spec: str,
    data_dir: Path | None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Load the run's own data from `spec`, read and split as for the run.

    Raises:
        UserError: data that have changed.
    """
    reading = fitting(reading_of(run.config), spec)._replace(cache_dir=cache_dir)
    dataset = load(
        spec,
        run.config.validation,
        data_dir,
        run.manifest.data.scale,
        needs_labels=bool(run.manifest.classes),
        progress=progress,
        **reading._asdict(),
    )
    dataset = without_outsiders(dataset, run.config.other_class)
    if not is_own_data(run, dataset):
        raise UserError(
            f"{spec} has changed since {run.folder} was made: its fingerprint is "
            f"{dataset.fingerprint}; give it with --data to evaluate on it anyway"
        )
    return dataset


def reading_for(run: Run, spec: str, asked: Reading) -> Reading:
    """Return the settings with which a source is read for a run.

    The form is that of the run's images. The run's own source is read as it was for the run, unless
    the user gives other values. Of another source, only groups and pixel limit are those of the
    run: columns of its csv mean nothing there.
    """
    run_reading = reading_of(run.config)
    if absolute(spec) == run.config.data:
        inherited = run_reading._replace(cache_dir=None)._asdict()
    else:
        inherited = {name: getattr(run_reading, name) for name in ("group_by", "pixel_limit")}
    asked_values = {name: x for name, x in asked._asdict().items() if x not in (None, False, ())}
    preprocessing = run.manifest.preprocessing
    reading = with_form(READING, preprocessing.image_shape, preprocessing.fit)
    reading = fitting(reading._replace(**inherited), spec)
    return reading._replace(**asked_values)


def _check_unused(reading: Reading, ood: str | None) -> None:
    """Raise `UserError` for settings of reading without a source that they apply to."""
    for name, value in reading._asdict().items():
        if ood is None and name != "cache_dir" and value not in (None, False, ()):
            raise UserError(
                f"--{name.replace('_', '-')} applies to another source, and the run's own data are "
                "read as before: leave it out, or add --data SPEC"
            )


def is_own_data(run: Run, dataset: Dataset) -> bool:
    """Return True if a data set is the one that the run was trained on.

    Raises:
        UserError: its examples in another order, so that other examples would be tested.
    """
    recorded = run.manifest.data
    if dataset.fingerprint != recorded.fingerprint:
        return False
    if dataset.parts != recorded.parts:
        raise UserError(
            f"{dataset.name} has the examples of {run.folder} in another order, so other examples "
            "would be tested: give them in the order of the run"
        )
    return True


def load_outliers(
    run: Run,
    spec: str,
    data_dir: Path | None,
    terminal: Terminal,
    reading: Reading = READING,
    progress: Progress | None = None,
) -> np.ndarray:
    """Load images of another source with the run's image shape, and print how they are read.

    Its classes do not matter.

    Raises:
        UserError: images of another shape.
    """
    options = reading_for(run, spec, reading)._asdict()
    scale = run.manifest.data.scale
    images, notes = load_images(spec, data_dir, scale, progress=progress, **options)
    for note in notes:
        terminal.line(f"{spec}: {note}", hang=2)
    _check_images(run, spec, images.shape[1:])
    return images


def _check_images(run: Run, spec: str, shape: tuple[int, ...]) -> None:
    check_shape(spec, shape, run.folder, run.manifest.preprocessing.image_shape)


def check_shape(spec: str, shape: tuple[int, ...], model: Path, expected: tuple[int, ...]) -> None:
    """Raise `UserError` if the images of a source do not have the shape that a model takes."""
    if tuple(shape) != tuple(expected):
        size = "×".join(map(str, shape))
        wanted = "×".join(map(str, expected))
        raise UserError(
            f"{spec} has images {size}, but {model} was trained on {wanted}: give images of that "
            "shape"
        )
