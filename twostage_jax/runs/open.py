"""A finished run, opened again: verified parameters and a predictor."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import linen as nn

from twostage_jax.config.schema import Config
from twostage_jax.data.dataset import Dataset
from twostage_jax.data.sources import load, load_images
from twostage_jax.data.spec import takes_data_dir
from twostage_jax.engine.predictor import Predictor
from twostage_jax.errors import Corrupted, UserError
from twostage_jax.runs.build import make_networks
from twostage_jax.runs.handover import Sizes, chosen_groups, head_axes, load_heads
from twostage_jax.runs.prepare import read_config
from twostage_jax.runs.result import ResultRecord
from twostage_jax.runs.trials import make_trials, own_numbers
from twostage_jax.stages.stage import Params
from twostage_jax.store.checksums import check
from twostage_jax.store.layout import RESULT
from twostage_jax.store.records import Manifest, read_manifest, read_result


class Run(NamedTuple):
    """A finished run, read and verified.

    Attributes:
        folder: folder of the run.
        config: resolved config.
        manifest: content of `manifest.json`.
        record: content of `result.json`.
        encoder: module of the encoder.
        params: groups `encoder` and `head` of the chosen trials, `[M, ...]` if there are several.
        predictor: the classifier, or the ensemble that was chosen.
    """

    folder: Path
    config: Config
    manifest: Manifest
    record: ResultRecord
    encoder: nn.Module
    params: Params
    predictor: Predictor


def open_run(folder: Path, trust_code: bool = False) -> Run:
    """Open a finished run and verify its parameters.

    Args:
        folder: folder of the run.
        trust_code: True if its config may import the code that it names.

    Raises:
        UserError: if there is no finished run, or it needs code and `trust_code` is False.
        Corrupted: if a file differs from what was written.
    """
    config = read_config(folder, trust_code)
    if not (folder / RESULT).is_file():
        raise UserError(
            f"{folder} is not complete, it has no {RESULT}: finish it with twostage run --resume "
            f"--out {folder}"
        )
    check(folder)
    record = read_result(folder, ResultRecord)
    manifest = read_manifest(folder)
    trials = make_trials(config)
    shape = manifest.preprocessing.image_shape
    sizes = Sizes(record.data.labelled, record.data.validation)
    networks = make_networks(config, shape, len(manifest.classes), sizes.labelled, sizes.validation)
    params = load_heads(folder, manifest, networks, trials, sizes)
    rows = np.array(record.ensemble.rows)
    if rows[-1] >= len(trials.heads):
        raise Corrupted(f"{folder / RESULT} is corrupted: there is no trial {rows[-1]}")
    numbers = own_numbers(trials, networks)
    # The batches of the run itself, so that an evaluation repeats its figures to the bit.
    largest = max(record.data.validation, record.data.test)
    everybody = Predictor(networks.network, numbers, params, head_axes(trials), shape, largest)
    chosen = everybody.select(rows)
    groups = chosen_groups(chosen.params, trials, config.members)
    return Run(folder, config, manifest, record, networks.encoder, groups, chosen)


def load_dataset(run: Run, spec: str | None = None, data_dir: Path | None = None) -> Dataset:
    """Load the run's own data, or `spec` if its images and classes fit the run.

    Raises:
        UserError: own data that has changed, or other data of another shape or with more classes.
    """
    config = run.config
    if spec is None:
        dataset = load(config.data, config.validation, data_dir or config.data_dir)
        if not is_own_data(run, dataset):
            raise UserError(
                f"{config.data} has changed since {run.folder} was made: its fingerprint is "
                f"{dataset.fingerprint}; name it with --data to evaluate on it anyway"
            )
        return dataset
    if takes_data_dir(spec):
        data_dir = data_dir or config.data_dir
    dataset = load(spec, None, data_dir)
    if dataset.fingerprint == run.manifest.data.fingerprint:
        # The run's own data in any location: its validation split is that of the run.
        dataset = load(spec, config.validation, data_dir)
        is_own_data(run, dataset)
    _check_images(run, spec, dataset.image_shape)
    classes = len(run.manifest.classes)
    if len(dataset.classes) > classes:
        raise UserError(
            f"{spec} has {len(dataset.classes)} classes, but {run.folder} was trained on "
            f"{classes}: give data with these classes"
        )
    return dataset


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


def load_outliers(run: Run, spec: str, data_dir: Path | None = None) -> np.ndarray:
    """Load images of another source with the run's image shape; its classes do not matter.

    Raises:
        UserError: images of another shape.
    """
    images = load_images(spec, data_dir)
    _check_images(run, spec, images.shape[1:])
    return images


def _check_images(run: Run, spec: str, shape: tuple[int, ...]) -> None:
    expected = run.manifest.preprocessing.image_shape
    if tuple(shape) != expected:
        size = "×".join(map(str, shape))
        wanted = "×".join(map(str, expected))
        raise UserError(
            f"{spec} has images {size}, but {run.folder} was trained on {wanted}: give images of "
            "that shape"
        )
