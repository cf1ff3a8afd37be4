"""Examples and labels that each trial trains on.

A trial's own data are arrays: `--labels` draws examples for each trial, and `--noise` changes their
labels. Everything else is shared by all trials.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.config.choices import SUPERVISED
from twostage_jax.config.schema import Config
from twostage_jax.config.sweep import swept
from twostage_jax.data.dataset import TrainingData
from twostage_jax.data.labels import balanced_weights, draw_labels, flip_labels
from twostage_jax.data.split import Split
from twostage_jax.engine.members import TrialData, gather
from twostage_jax.errors import UserError
from twostage_jax.runs.handover import from_encoders
from twostage_jax.runs.trials import INITIAL, Trials, stage_key


class Examples(NamedTuple):
    """Training examples of all trials, on the host.

    Attributes:
        dataset: data without the test split.
        images: images of stage 1: train, then the unlabelled pool.
        drawn: rows of train with a label, int32 `[R, n]` for the trials; None if all have one.
        encoder_drawn: the same for the encoders, `[E, n]`.
        label: labels of stage 2, int32 `[R, n]`, or `[n]` if all trials share them.
        encoder_label: the same for stage 1, `[E, n]` or `[n]`, if the objective trains only on the
            labelled images; None if it trains on all images.
        weight: weights of the examples of stage 2 by class, float32 of the shape of `label`; None
            without class weights.
    """

    dataset: TrainingData
    images: np.ndarray
    drawn: np.ndarray | None
    encoder_drawn: np.ndarray | None
    label: np.ndarray
    encoder_label: np.ndarray | None = None
    weight: np.ndarray | None = None

    @property
    def labelled(self) -> int:
        """Number of labelled examples of one trial."""
        return self.label.shape[-1]

    @property
    def counts(self) -> dict[str, int]:
        """Number of training examples of one trial, by stage."""
        images = len(self.images)
        if self.encoder_label is not None:
            images = self.encoder_label.shape[-1]
        return {"pretrain": images, "head": self.labelled}

    @property
    def index(self) -> np.ndarray:
        """Rows of the labelled examples among `images`, int32 `[R, n]`, or `[n]` if shared."""
        if self.drawn is None:
            return np.arange(len(self.dataset.train["label"]), dtype=np.int32)
        return self.drawn.astype(np.int32)

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
    classes = len(dataset.classes)
    if config.noise or "noise" in swept(config):
        label = _with_noise(label, shares, [trial.seed for trial in trials.heads], classes)
    encoder_label = None
    if config.pretrain.objective in SUPERVISED:
        encoder_label = _encoder_labels(config, dataset, trials, encoder_drawn)
    # In the order of the source, whatever is drawn: stage 1 then has the same bits with any
    # number of labels.
    images = dataset.train["image"]
    pool = dataset.unlabelled["image"]
    if len(pool):
        images = np.concatenate([images, pool])
    weight = balanced_weights(label) if config.class_weights == "auto" else None
    return Examples(dataset, images, drawn, encoder_drawn, label, encoder_label, weight)


def _draws(config: Config, dataset: TrainingData, seeds: list[int]) -> np.ndarray:
    label = dataset.train["label"]
    return np.stack([draw_labels(label, config.labels, dataset.classes, seed) for seed in seeds])


def _encoder_labels(
    config: Config, dataset: TrainingData, trials: Trials, drawn: np.ndarray | None
) -> np.ndarray:
    """Return labels `[n]` or `[E, n]` of a supervised stage 1, with the noise of its seed.

    Raises:
        UserError: a sweep of the noise, because its trials share one encoder.
    """
    if "noise" in swept(config):
        raise UserError(
            f"cannot sweep noise with --pretrain.objective {config.pretrain.objective}: all points "
            "share an encoder, which is trained on labels; run once per value of --noise"
        )
    label = dataset.train["label"]
    if drawn is not None:
        label = label[drawn]
    if not config.noise:
        return label
    seeds = [encoder.seed for encoder in trials.encoders]
    return _with_noise(label, [config.noise] * len(seeds), seeds, len(dataset.classes))


def _with_noise(
    label: np.ndarray, shares: list[float], seeds: list[int], classes: int
) -> np.ndarray:
    """Return labels `[R, n]` with the noise of each of R seeds, from `[n]` or `[R, n]`."""
    flip = jax.jit(partial(flip_labels, classes=classes))
    # Trials without a draw share the labels that noise starts from.
    label = np.broadcast_to(label, (len(seeds), label.shape[-1]))
    noisy = []
    for seed, clean, share in zip(seeds, label, shares, strict=True):
        key = stage_key(seed, "noise", INITIAL)
        noisy.append(jax.device_get(flip(key, jnp.asarray(clean), np.float32(share))))
    return np.stack(noisy)


def pretrain_data(examples: Examples) -> TrialData:
    """Return the training data of stage 1.

    Objectives that ignore labels see all images. `weight` is 0 for an image without a label.
    """
    train = examples.dataset.train
    if examples.encoder_label is not None:
        return _labelled_images(train, examples.encoder_drawn, examples.encoder_label)
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


def _labelled_images(train: Split, drawn: np.ndarray | None, label: np.ndarray) -> TrialData:
    """Return the training data of a stage 1 that uses only the labelled images."""
    images = TrialData({"image": train["image"]}, {})
    if drawn is not None:
        images = TrialData({}, {"image": gather(train["image"], drawn)})
    return images | _own_labels(label)


def head_data(examples: Examples, features: np.ndarray | None, trials: Trials) -> TrialData:
    """Return the training data of stage 2.

    Args:
        examples: training examples.
        features: features `[E, U, D]` of the U rows `examples.used`, from each encoder; None if the
            encoder runs in every step, on images.
        trials: all trainings.
    """
    data = _head_images(examples, features, trials) | _own_labels(examples.label)
    return data if examples.weight is None else data | _own_labels(examples.weight, "weight")


def _head_images(examples: Examples, features: np.ndarray | None, trials: Trials) -> TrialData:
    images = examples.dataset.train["image"]
    drawn = examples.drawn
    if drawn is None:
        if features is None:
            return TrialData({"image": images}, {})
        return from_encoders("image", features, trials)
    if features is None:
        return TrialData({}, {"image": gather(images, drawn)})
    # `used` is sorted, so this is the place of each drawn row among the encoded ones.
    positions = np.searchsorted(examples.used, drawn)
    return TrialData({}, {"image": gather(features, trials.encoder_numbers[:, None], positions)})


def _own_labels(values: np.ndarray, name: str = "label") -> TrialData:
    """Return labels or weights `[n]` that all trials share, or `[R, n]`."""
    if values.ndim == 1:
        return TrialData({name: values}, {})
    return TrialData({}, {name: gather(values, np.arange(len(values)))})


def with_index(data: TrialData, needed: bool) -> TrialData:
    """Return training data with `index`, the position of each example, if a stage needs it."""
    if not needed:
        return data
    count = data.shapes["image"].shape[0]
    return data | TrialData({"index": np.arange(count, dtype=np.int32)}, {})


def validation_data(
    examples: Examples, features: np.ndarray | None, trials: Trials
) -> TrialData | None:
    """Return the validation examples of a stage; None if there are none.

    Args:
        examples: training examples, with the data set.
        features: features `[E, V, D]` of the split, from each encoder; None if the stage sees
            images.
        trials: all trainings.
    """
    split = examples.dataset.validation
    if not len(split["label"]):
        return None
    label = TrialData({"label": split["label"]}, {})
    if features is None:
        return label | TrialData({"image": split["image"]}, {})
    return label | from_encoders("image", features, trials)


def _index_data(examples: Examples) -> TrialData:
    index = examples.index
    if index.ndim == 1:
        return TrialData({"index": index}, {})
    return TrialData({}, {"index": gather(index, np.arange(len(index)))})


def solve_data(
    examples: Examples, data: TrialData, validation: np.ndarray, label: np.ndarray, trials: Trials
) -> TrialData:
    """Return the input of a solved head: all of `data`, weights, and the validation features.

    Args:
        examples: training examples.
        data: labelled examples of stage 2, as features.
        validation: features `[E, V, D]` of the validation split.
        label: its labels `[V]`.
        trials: all trainings.
    """
    if examples.weight is None:
        weight = np.ones(data.shapes["label"].shape, np.float32)
        data |= TrialData({"weight": weight}, {})
    data = data | TrialData({"validation_label": label}, {}) | _index_data(examples)
    return data | from_encoders("validation_image", validation, trials)
