"""Predictions of one arm of a noise study, for all noises and draws in one `vmap`."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.engine.state import make_init
from twostage_jax.engine.train import make_train
from twostage_jax.engine.watch import encode_blocks
from twostage_jax.runs.study.noise_arms import HIDDEN, KNN, LOSSES, NoiseArm
from twostage_jax.runs.study.parallel import Parallel
from twostage_jax.stages.families import HEADS
from twostage_jax.stages.heads.trained import attach, mlp
from twostage_jax.stages.modules import forward
from twostage_jax.stages.nets.mlp import Identity
from twostage_jax.stages.optimiser import adam
from twostage_jax.stages.signature import call
from twostage_jax.stages.stage import Head, Params, new_key
from twostage_jax.trees import PyTree

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-4
EPOCHS = 10
END_TO_END_EPOCHS = 5
STEPS = 500  # smallest number of steps of a training
BATCH = 256
SMALLEST_BATCH = 16
BATCHES = 20  # smallest number of batches of an epoch, unless batches become too small


class Images(NamedTuple):
    """Images or features of the splits.

    Attributes:
        train: of the labelled training images `[N, ...]`.
        validation: `[V, ...]`.
        test: `[T, ...]`.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Labels(NamedTuple):
    """Noisy labels of M members.

    Attributes:
        train: int32 `[M, N]`.
        validation: int32 `[M, V]`.
        draw: number of each member's draw, which also determines its initial values, int32 `[M]`.
    """

    train: np.ndarray
    validation: np.ndarray
    draw: np.ndarray


def normalised(images: Images) -> Images:
    """Scale features to the same length, then all of them by one number to a mean variance of 1.

    The length of a feature vector says little about its class. With this scale, one learning rate
    fits every encoder.
    """
    parts = [_unit(part) for part in images]
    scale = 1 / max(float(np.sqrt(parts[0].var(0, dtype=np.float64).mean())), 1e-12)
    return Images(*(np.float32(scale) * part for part in parts))


def _unit(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, 1e-12)


def batch_size(examples: int) -> int:
    """Return the batch size: 256, or less so that an epoch has 20 steps."""
    return min(BATCH, max(SMALLEST_BATCH, examples // BATCHES), examples)


def epochs_of(requested: int | None, examples: int, default: int) -> int:
    """Return the epochs of a training; by default at least 500 steps."""
    steps = -(-examples // batch_size(examples))
    return requested or max(default, -(-STEPS // steps))


def predict_head(
    parallel: Parallel,
    arm: NoiseArm,
    images: Images,
    labels: Labels,
    classes: int,
    epochs: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Fit the head of an arm to the labels of every member, and predict.

    Args:
        parallel: compiles and runs.
        arm: frozen or random features with a head.
        images: normalised features.
        labels: noisy labels.
        classes: number of classes K.
        epochs: epochs of a trained head.
        seed: seed of the study, for initial values and the order of examples.

    Returns:
        Predicted classes `[M, V]` and `[M, T]`, as `validation` and `test`.
    """
    head = make_head(arm, classes, len(images.train))
    if not arm.trained:
        # A graph of neighbours depends on no label.
        prepared = {} if head.prepare is None else dict(head.prepare(images.train))
        return _map(parallel, arm, _solve(head), images, labels, seed, prepared)
    stage = attach(Identity(), head, frozen=True)
    stage_fit = _make_fit(stage, len(images.train), epochs)

    def logits(params: Params, features: jax.Array) -> jax.Array:
        return head.logits(params["head"], features)

    return _map(parallel, arm, _train(stage_fit, logits, blocks=False), images, labels, seed)


def predict_network(
    parallel: Parallel,
    arm: NoiseArm,
    encoder: PyTree,
    images: Images,
    labels: Labels,
    classes: int,
    epochs: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Train an encoder with a linear head end to end from scratch, and predict as `predict_head`.

    `encoder` is a Linen module, and `images` has uint8 images instead of features.
    """
    head = make_head(arm, classes, len(images.train))
    fit = _make_fit(attach(encoder, head), len(images.train), epochs)

    def logits(params: Params, image: jax.Array) -> jax.Array:
        return head.logits(params["head"], forward(encoder, params["encoder"], image))

    return _map(parallel, arm, _train(fit, logits, blocks=True), images, labels, seed)


def make_head(arm: NoiseArm, classes: int, examples: int) -> Head:
    """Return the head of an arm."""
    if arm.trained:
        widths = (HIDDEN,) if arm.head == "mlp" else ()
        options = dict(LOSSES[arm.loss])
        if options.get("loss") == "elr":
            options["examples"] = examples
        return mlp(classes, widths, **options)  # pyright: ignore[reportArgumentType] by name
    offered: dict[str, object] = {"classes": classes}
    if arm.method:
        # All images are labelled, so the labels tell the class sizes.
        offered |= {"method": arm.method, "class_sizes": "labels"}
    settings = {"k": float(arm.k)} if arm.head == KNN else {}
    return call(HEADS[arm.head], offered, settings)


Fit = Callable[[jax.Array, jax.Array, jax.Array], Params]
Predict = Callable[..., dict[str, jax.Array]]


def _make_fit(stage, examples: int, epochs: int) -> Fit:
    """Make `(key, image, label) -> params`, a whole training."""
    tx = adam(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    tx = tx if stage.optimiser is None else stage.optimiser(tx)
    train = make_train(stage, tx, batch_size(examples), epochs)
    start = make_init(stage, tx)

    def fit(key: jax.Array, image: jax.Array, label: jax.Array) -> Params:
        data = {"image": image, "label": label, "index": jnp.arange(examples, dtype=jnp.int32)}
        sample = {name: values[:2] for name, values in data.items()}
        init_key, train_key = jax.random.split(key)
        state = start(init_key, sample, {})
        return train(state, data, train_key)[0].params

    return fit


def _train(fit: Fit, logits: Callable, blocks: bool) -> Predict:
    """Make the function of one member that trains, and predicts images in blocks."""

    def predict(key, label, validation_label, train, validation, test, prepared):
        params = fit(key, train, label)

        def classify(image: jax.Array) -> jax.Array:
            values = encode_blocks(logits, params, image) if blocks else logits(params, image)
            return values.argmax(-1)

        return {"validation": classify(validation), "test": classify(test)}

    return predict


def _solve(head: Head) -> Predict:
    """Make the function of one member that solves a head and predicts.

    Features have no member axis, so that neighbours and decompositions are computed once.
    """
    solution = head.solve
    assert solution is not None

    def predict(key, label, validation_label, train, validation, test, prepared):
        batch = {
            "image": train,
            "label": label,
            "weight": jnp.ones(len(label)),
            "validation_image": validation,
            "validation_label": validation_label,
            "features": train,
            "index": jnp.arange(len(label), dtype=jnp.int32),
            "prepared": prepared,
        }
        params = solution(key, batch)
        return {
            "validation": head.logits(params, validation).argmax(-1),
            "test": head.logits(params, test).argmax(-1),
        }

    return predict


def _map(
    parallel: Parallel,
    arm: NoiseArm,
    predict: Predict,
    images: Images,
    labels: Labels,
    seed: int,
    prepared: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Run a function of one member for all members."""

    def member(draw, label, validation_label, *shared):
        # Members of one draw have the same initial values for every noise.
        key = jax.random.fold_in(new_key(seed), draw)
        return predict(key, label, validation_label, *shared)

    rows = (labels.draw, labels.train, labels.validation)
    size = labels.train.shape[1] + len(images.test)
    if not arm.representation:
        # Activations of a step, as a rough guess: images are larger than features.
        size += 20 * batch_size(len(images.train)) * int(np.prod(images.train.shape[1:]))
    result = parallel.map((arm.name,), member, rows, (*images, prepared or {}), size)
    return {name: values.astype(np.int32) for name, values in result.items()}
