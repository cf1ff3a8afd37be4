"""Examples and labels that each trial trains on.

A trial's own data are arrays: `--labels` draws examples for each trial, and `--noise` changes their
labels. Everything else is shared by all trials.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.config.schema import Config
from twostage_jax.config.sweep import swept
from twostage_jax.data.dataset import TrainingData
from twostage_jax.data.labels import draw_labels, flip_labels
from twostage_jax.engine.members import TrialData
from twostage_jax.runs.trials import INITIAL, Trials, stage_key

Rows = Callable[[np.ndarray], np.ndarray]


class Examples(NamedTuple):
    """Training examples of all trials, on the host.

    Attributes:
        dataset: data without the test split.
        images: images of stage 1: train, then the unlabelled pool.
        drawn: rows of train with a label, int32 `[R, n]` for the trials; None if all have one.
        encoder_drawn: the same for the encoders, `[E, n]`.
        label: labels of stage 2, int32 `[R, n]`, or `[n]` if all trials share them.
    """

    dataset: TrainingData
    images: np.ndarray
    drawn: np.ndarray | None
    encoder_drawn: np.ndarray | None
    label: np.ndarray

    @property
    def labelled(self) -> int:
        """Number of labelled examples of one trial."""
        return self.label.shape[-1]

    @property
    def used(self) -> np.ndarray:
        """Rows of train that have a label in any trial."""
        if self.drawn is None:
            return np.arange(len(self.dataset.train["label"]))
        return np.unique(self.drawn)


def make_examples(config: Config, dataset: TrainingData, trials: Trials) -> Examples:
    """Draw labels and add noise, for each trial with its own seed.

    Raises:
        UserError: more labels than examples, fewer than classes, or a class without an example.
    """
    label = dataset.train["label"]
    drawn = None
    encoder_drawn = None
    if config.labels is not None:
        drawn = _draws(config, dataset, [trial.seed for trial in trials.heads])
        encoder_drawn = _draws(config, dataset, [encoder.seed for encoder in trials.encoders])
        label = label[drawn]
    shares = [trial.values.get("noise", config.noise) for trial in trials.heads]
    if config.noise or "noise" in swept(config):
        label = _with_noise(label, shares, trials, len(dataset.classes))
    # In the order of the source, whatever is drawn: stage 1 then has the same bits with any
    # number of labels.
    images = dataset.train["image"]
    pool = dataset.unlabelled["image"]
    if len(pool):
        images = np.concatenate([images, pool])
    return Examples(dataset, images, drawn, encoder_drawn, label)


def _draws(config: Config, dataset: TrainingData, seeds: list[int]) -> np.ndarray:
    label = dataset.train["label"]
    return np.stack([draw_labels(label, config.labels, dataset.classes, seed) for seed in seeds])


def _with_noise(label: np.ndarray, shares: list[float], trials: Trials, classes: int) -> np.ndarray:
    """Return labels `[R, n]` with each trial's noise, from `[n]` or `[R, n]`."""
    flip = jax.jit(partial(flip_labels, classes=classes))
    # Trials without a draw share the labels that noise starts from.
    label = np.broadcast_to(label, (len(trials.heads), label.shape[-1]))
    noisy = []
    for trial, clean, share in zip(trials.heads, label, shares, strict=True):
        key = stage_key(trial.seed, "noise", INITIAL)
        noisy.append(jax.device_get(flip(key, jnp.asarray(clean), np.float32(share))))
    return np.stack(noisy)


def pretrain_data(examples: Examples) -> TrialData:
    """Return what stage 1 trains on.

    Objectives that ignore labels see all images. `weight` is 0 for an image without a label.
    """
    train = examples.dataset.train
    count = len(examples.images)
    pool = np.zeros(count - len(train["label"]), np.int32)
    label = np.concatenate([train["label"], pool])
    if examples.encoder_drawn is None:
        shared = {"image": examples.images, "label": label}
        if len(pool):
            shared["weight"] = np.float32(np.arange(count) < len(train["label"]))
        return TrialData(shared, {})
    drawn = examples.encoder_drawn

    def weight(encoders: np.ndarray) -> np.ndarray:
        weights = np.zeros((len(encoders), count), np.float32)
        np.put_along_axis(weights, drawn[encoders], 1.0, axis=1)
        return weights

    def own_label(encoders: np.ndarray) -> np.ndarray:
        # A label that was not drawn is unknown to the trial.
        return np.where(weight(encoders) > 0, label, 0)

    return TrialData({"image": examples.images}, {"label": own_label, "weight": weight})


def head_data(
    examples: Examples, features: np.ndarray | None, encoder_numbers: np.ndarray
) -> TrialData:
    """Return what stage 2 trains on.

    Args:
        examples: training examples.
        features: features `[E, U, D]` of the U rows `examples.used`, from each encoder; None if the
            encoder runs in every step, on images.
        encoder_numbers: number of each trial's encoder, `[R]`.
    """
    shared: dict[str, np.ndarray] = {}
    per_trial: dict[str, Rows] = {}
    drawn = examples.drawn
    images = examples.dataset.train["image"]
    if features is None and drawn is None:
        shared["image"] = images
    elif features is None:
        per_trial["image"] = _rows(images, drawn)
    elif drawn is not None:
        # `used` is sorted, so this is the place of each drawn row among the encoded ones.
        positions = np.searchsorted(examples.used, drawn)
        per_trial["image"] = _rows(features, encoder_numbers[:, None], positions)
    elif len(features) == 1:
        # One encoder: all trials train on one array, which is on each device once.
        shared["image"] = features[0]
    else:
        per_trial["image"] = _rows(features, encoder_numbers)
    if examples.label.ndim == 1:
        shared["label"] = examples.label
    else:
        per_trial["label"] = _rows(examples.label, np.arange(len(examples.label)))
    return TrialData(shared, per_trial)


def _rows(values: np.ndarray, *indices: np.ndarray | None) -> Rows:
    """Return a function of trials that takes `values[indices of these trials]`."""

    def rows_of_trials(trials: np.ndarray) -> np.ndarray:
        return values[tuple(index[trials] for index in indices if index is not None)]

    return rows_of_trials


def solve_data(
    data: TrialData, validation: np.ndarray, label: np.ndarray, encoder_numbers: np.ndarray
) -> TrialData:
    """Return what a solved head gets: all of `data`, weights, and the validation features.

    Args:
        data: labelled examples of stage 2, as features.
        validation: features `[E, V, D]` of the validation split.
        label: its labels `[V]`.
        encoder_numbers: number of each trial's encoder, `[R]`.
    """
    count = data.rows(np.arange(1))["label"].shape[-1]
    shared = {**data.shared, "weight": np.ones(count, np.float32), "validation_label": label}
    per_trial = dict(data.per_trial)
    if len(validation) == 1:
        shared["validation_image"] = validation[0]
    else:
        per_trial["validation_image"] = _rows(validation, encoder_numbers)
    return TrialData(shared, per_trial)


def data_axes(data: TrialData) -> dict[str, int | None]:
    """Return 0 for arrays that each trial has of its own, and None for shared ones."""
    return {**dict.fromkeys(data.shared), **dict.fromkeys(data.per_trial, 0)}


def one_trial(data: TrialData) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the examples of one trial."""
    axes = data_axes(data)
    shapes = {}
    for name, values in data.rows(np.zeros(1, int)).items():
        shape = values.shape if axes[name] is None else values.shape[1:]
        shapes[name] = jax.ShapeDtypeStruct(shape, values.dtype)
    return shapes
