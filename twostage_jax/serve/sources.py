"""From `--label SPEC` to images that can be labelled."""

import numpy as np

from twostage_jax.config.reading import reading_of, with_form
from twostage_jax.config.serving import Serve, label_spec
from twostage_jax.data.dataset import Dataset
from twostage_jax.data.names import listed
from twostage_jax.data.parallel import Progress
from twostage_jax.data.sources import load
from twostage_jax.data.spec import FILE_KINDS, READING, Reading, absolute, fitting, kind_of
from twostage_jax.errors import UserError
from twostage_jax.runs.model import Model
from twostage_jax.runs.opened import Run
from twostage_jax.runs.sources import check_shape, load_own, reading_for
from twostage_jax.serve.label_file import LabelFile
from twostage_jax.serve.labelling import Labelling
from twostage_jax.serve.pool import Features, make_pool
from twostage_jax.show.terminal import Terminal

SHOWN = 3  # broken files in a message


def load_labelling(
    run: Run | None, model: Model | None, command: Serve, terminal: Terminal
) -> Labelling:
    """Read the images to label, put them in order, and continue the file of labels.

    Raises:
        UserError: images that cannot be read or have another shape than those of the model, no
            classes, or a file that was not written for these images.
    """
    assert command.label is not None and command.labels_out is not None, "checked before"
    spec = absolute(label_spec(command.label))
    with terminal.reading("reading the images to label") as progress:
        dataset, reading = load_dataset(run, model, spec, command, progress)
    if dataset.broken:
        count = len(dataset.broken)
        terminal.notice(
            f"{count:,} images cannot be shown: {listed(map(str, dataset.broken), SHOWN)}"
        )
    classes = find_classes(run, model, dataset, command)
    out = command.labels_out.expanduser()
    with terminal.status("putting the images in order"):
        pool = make_pool(dataset, spec, reading, out, features_of(run, model))
    file = LabelFile(out, pool.column, pool.keys, classes, pool.labelled)
    labelling = Labelling(pool, classes, file)
    state = labelling.state()
    terminal.line(
        f"{state['left']:,} images to label; {state['labelled']:,} have a label in {out}", hang=2
    )
    terminal.line(f"use the labels with {pool.remedy}", hang=2)
    return labelling


def load_dataset(
    run: Run | None, model: Model | None, spec: str, command: Serve, progress: Progress
) -> tuple[Dataset, Reading]:
    """Load the images to label in the form of the model's images; return also how they were read.

    The splits of the run's own data are those of the run.

    Raises:
        UserError: images that cannot be read, or of another shape.
    """
    asked = reading_of(command)
    is_plain = asked._replace(cache_dir=None) == READING
    if run is not None and is_plain and spec == run.config.data:
        folder = command.data_dir or run.config.data_dir
        dataset = load_own(run, spec, folder, command.cache_dir, progress)
        return dataset, fitting(reading_of(run.config), spec)
    if run is not None:
        shape = run.manifest.preprocessing.image_shape
        reading = reading_for(run, spec, asked)
        scale = run.manifest.data.scale
    else:
        assert model is not None, "a file is always a model"
        shape = model.image_shape
        reading = fitting(with_form(asked, shape, model.fit), spec)
        scale = ""
    if kind_of(spec) in FILE_KINDS:
        # A person labels the images that can be shown; the notes say which ones cannot.
        reading = reading._replace(skip_broken=True)
    dataset = load(
        spec,
        None,
        command.data_dir,
        scale,
        needs_labels=False,
        progress=progress,
        **reading._asdict(),
    )
    check_shape(spec, dataset.image_shape, command.model, shape)
    return dataset, reading


def find_classes(
    run: Run | None, model: Model | None, dataset: Dataset, command: Serve
) -> tuple[str, ...]:
    """Return the classes to choose from: those that are given, of the model, or of the images.

    Raises:
        UserError: fewer than two, or a name that comes twice.
    """
    if command.classes:
        classes = tuple(name.strip() for name in command.classes.split(","))
        if len(set(classes)) < len(classes) or "" in classes:
            raise UserError(f"--classes is {command.classes!r}: give each name once")
    elif model is not None:
        classes = model.classes
    else:
        classes = (run.classes if run is not None else ()) or dataset.classes
    if len(classes) < 2:
        raise UserError(
            f"{command.model} has the classes {listed(classes) or 'none'}, and labels need at "
            "least two: give --classes NAME,NAME"
        )
    return classes


def features_of(run: Run | None, model: Model | None) -> Features:
    """Return the function of the features `[N, D]`; with several encoders, of the first member."""

    def features(images: np.ndarray) -> np.ndarray:
        if run is None:
            assert model is not None, "a file is always a model"
            return model.passes.features(images)[0]
        values = run.features(images, decoded=True)
        return values[0] if run.several else values

    return features
