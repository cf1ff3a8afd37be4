"""Losses of trained heads: cross-entropy, and three that tolerate wrong labels.

A `Loss` returns one value per example, and a term that is added to their mean. Arrays that it needs
in addition to the logits, such as a memory of predictions, are parameters of the head: they are
saved, resumed and vmapped like all others.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from twostage_jax.errors import UserError, did_you_mean
from twostage_jax.stages.dropout import training_key
from twostage_jax.stages.stage import Batch, Key, Scalar

Arrays = dict[str, jax.Array]
Value = tuple[jax.Array, jax.Array]
Adapt = Callable[[optax.GradientTransformation], optax.GradientTransformation]
MEMORY = "elr_memory"
TRANSITION = "transition_logits"
_LEAST = 1e-7  # smallest probability in a logarithm
# Weight of the volume of the transition matrix. With 1e-4 (Li et al., 2021), a head that is trained
# for many epochs fits the noise itself. On the digits with 40 % flipped labels, the absolute errors
# in a row of the estimate summed to 0.32 with 1e-4, to 0.24 with 0.01 and to 0.63 with 0.03.
_VOLUME = 0.01
# The transition matrix has few numbers and must be found while the head trains.
_TRANSITION_RATE = 10.0


def _no_arrays(classes: int) -> Arrays:
    return {}


class Loss(NamedTuple):
    """Loss of a head for each example.

    Attributes:
        value: `(arrays, logits [B, K], batch, key) -> (losses [B], term)`; `label` in the batch is
            a class, 0 for examples of weight 0, and `term` is added to the mean loss.
        arrays: `classes -> arrays`: initial values of its own parameters, by name.
        optimisers: how the run's optimiser is adapted to these parameters, by name.
    """

    value: Callable[[Arrays, jax.Array, Batch, Key | None], Value]
    arrays: Callable[[int], Arrays] = _no_arrays
    optimisers: Mapping[str, Adapt] = {}


# Numbers of `mlp` and `finetune` that belong to one loss.
LOSS_NUMBERS = {
    "cross-entropy": ("label_smoothing",),
    "gce": ("q",),
    "elr": ("elr_weight", "elr_momentum"),
    "forward": (),
}


def make_loss(
    name: str,
    classes: int,
    label_smoothing: Scalar = 0.0,
    transition: ArrayLike | None = None,
    examples: int | None = None,
    q: Scalar = 0.7,
    elr_weight: Scalar = 3.0,
    elr_momentum: Scalar = 0.7,
) -> Loss:
    """Return a loss by its name; the other arguments are those of `mlp`.

    Raises:
        UserError: an unknown name, a number out of range, or an argument of another loss.
    """
    if name not in LOSS_NUMBERS:
        raise UserError(f"unknown loss {name!r}: {did_you_mean(str(name), LOSS_NUMBERS)}")
    if name != "cross-entropy" and (isinstance(label_smoothing, jax.Array) or label_smoothing):
        raise UserError(f"label_smoothing goes with cross-entropy, not with {name}: leave it out")
    if name != "forward" and transition is not None:
        raise UserError(f"transition goes with the loss forward, not with {name}: leave it out")
    if name == "gce":
        return generalised_cross_entropy(q)
    if name == "elr":
        return early_learning(examples, elr_weight, elr_momentum)
    if name == "forward":
        return forward_correction(
            None if transition is None else check_transition(transition, classes)
        )
    return cross_entropy(label_smoothing)


def cross_entropy(label_smoothing: Scalar = 0.0) -> Loss:
    """Softmax cross-entropy with label smoothing (Szegedy et al., 2016)."""
    _check("label_smoothing", label_smoothing, "a number in [0, 1)", lambda x: 0 <= x < 1)

    def value(arrays: Arrays, logits: jax.Array, batch: Batch, key: Key | None) -> Value:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        # A Python 0 adds nothing to the program. An array is swept and can have any value.
        if not isinstance(label_smoothing, float | int) or label_smoothing:
            uniform = -jax.nn.log_softmax(logits).mean(-1)
            losses += label_smoothing * (uniform - losses)
        return losses, jnp.zeros(())

    return Loss(value)


def generalised_cross_entropy(q: Scalar = 0.7) -> Loss:
    """`(1 - p**q) / q` with the probability p of the label.

    Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
    Labels", 2018. It is the cross-entropy for q → 0, and the mean absolute error, which tolerates
    wrong labels but trains slowly, for q = 1.
    """
    _check("q", q, "a number above 0, at most 1", lambda x: 0 < x <= 1)

    def value(arrays: Arrays, logits: jax.Array, batch: Batch, key: Key | None) -> Value:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return -jnp.expm1(-q * losses) * (1 / q), jnp.zeros(())

    return Loss(value)


def early_learning(examples: int | None, weight: Scalar = 3.0, momentum: Scalar = 0.7) -> Loss:
    """Cross-entropy with early-learning regularisation (ELR).

    Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", 2020. A
    memory `[N, K]` holds the moving average t of the predictions of each example, and the term
    `weight · log(1 - <p, t>)` keeps the prediction p close to it.

    The memory is a parameter with the gradient `t - (momentum · t + (1 - momentum) · p)`. Plain SGD
    of rate 1 makes it the moving average. XLA rounds it differently with a member axis, so members
    equal single runs up to rounding, not to the bit.
    """
    _check("elr_weight", weight, "a number of at least 0", lambda x: x >= 0)
    _check("elr_momentum", momentum, "a number in [0, 1)", lambda x: 0 <= x < 1)
    if examples is None:
        raise UserError(
            "the loss elr keeps a memory of each example: give examples, the number of training "
            "examples"
        )

    def value(arrays: Arrays, logits: jax.Array, batch: Batch, key: Key | None) -> Value:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        if "index" not in batch:
            if training_key(key) is not None:
                raise UserError("the loss elr needs index int32 [N] in its data: add np.arange(N)")
            return losses, jnp.zeros(())  # validation examples have no memory
        share = jnp.minimum(_softmax(logits), 1 - 1e-4)
        fixed = jax.lax.stop_gradient(share)
        memory = arrays[MEMORY][batch["index"]]
        target = jax.lax.stop_gradient(momentum * memory + (1 - momentum) * fixed)
        # A sum, not a mean: each example moves its own row by the whole step. Its value is
        # subtracted again, only its gradient counts.
        move = (memory * jax.lax.stop_gradient(memory - target)).sum()
        step = move - jax.lax.stop_gradient(move)
        return losses + weight * jnp.log1p(-(target * share).sum(-1)), step

    def arrays(classes: int) -> Arrays:
        return {MEMORY: jnp.zeros((examples, classes))}

    return Loss(value, arrays, {MEMORY: lambda tx: optax.sgd(1.0)})


def forward_correction(transition: np.ndarray | None = None) -> Loss:
    """Cross-entropy of the predicted probabilities after the noise of the labels.

    Patrini et al., "Making Deep Neural Networks Robust to Label Noise: A Loss Correction Approach",
    2017: p are the probabilities of the true class, and `p @ T` those of the given label, with the
    transition matrix T. Without a given matrix, T is trained with the head. At the start, the
    largest entry of each row is on the diagonal. A term keeps the volume `log|det T|` small (Li et
    al., "Provably End-to-end Label-Noise Learning without Anchor Points", 2021).

    Args:
        transition: `T[i, j]`, the probability of the label j for an example of class i, `[K, K]`.
    """

    def value(arrays: Arrays, logits: jax.Array, batch: Batch, key: Key | None) -> Value:
        matrix = transition if transition is not None else transition_matrix(arrays[TRANSITION])
        probability = _softmax(logits) @ matrix
        log_probability = jnp.log(jnp.maximum(probability, _LEAST))
        # As in Optax, a label out of range has the loss NaN.
        losses = -jnp.take_along_axis(
            log_probability, batch["label"][:, None], axis=-1, mode="fill"
        )[:, 0]
        volume = 0.0 if transition is not None else _VOLUME * jnp.linalg.slogdet(matrix)[1]
        return losses, jnp.asarray(volume)

    def arrays(classes: int) -> Arrays:
        return {} if transition is not None else {TRANSITION: jnp.full((classes, classes), -2.0)}

    def faster(tx: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.chain(tx, optax.scale(_TRANSITION_RATE))

    return Loss(value, arrays, {TRANSITION: faster})


def transition_matrix(logits: jax.Array) -> jax.Array:
    """Return the transition matrix `[K, K]` of trained logits; the diagonal is the largest.

    >>> transition_matrix(jnp.full((2, 2), -jnp.inf)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    identity = jnp.eye(len(logits))
    matrix = identity + (1 - identity) * jax.nn.sigmoid(logits)
    return matrix * (1 / matrix.sum(-1, keepdims=True))


def _softmax(logits: jax.Array) -> jax.Array:
    # Without a division, which XLA rounds differently for a single array and for a batched one.
    return jnp.exp(jax.nn.log_softmax(logits))


def check_transition(transition: ArrayLike, classes: int) -> np.ndarray:
    """Return a transition matrix as float32 `[K, K]`.

    Raises:
        UserError: another shape, an entry outside [0, 1], or a row that does not sum to 1.
    """
    matrix = np.asarray(transition, np.float64)
    if matrix.shape != (classes, classes):
        raise UserError(
            f"the transition matrix is {list(matrix.shape)} for {classes} classes: give "
            f"[{classes}, {classes}], one row for each true class"
        )
    if not ((matrix >= 0) & (matrix <= 1)).all():
        raise UserError("the transition matrix has entries outside [0, 1]: give probabilities")
    sums = matrix.sum(-1)
    wrong = np.flatnonzero(np.abs(sums - 1) > 1e-4)
    if len(wrong):
        raise UserError(
            f"row {wrong[0]} of the transition matrix sums to {sums[wrong[0]]:.4g}: give "
            "probabilities that sum to 1, one row for each true class"
        )
    return matrix.astype(np.float32)


def _check(name: str, value: Scalar, allowed: str, accepts: Callable[[float], bool]) -> None:
    """Raise `UserError` for a Python number out of range; an array is swept and not checked."""
    if isinstance(value, float | int) and not accepts(value):
        raise UserError(f"{name} is {value}: give {allowed}")
