"""Adam and AdamW with a bias correction that is exact in float32; learning-rate schedules."""

import math

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from twostage_jax.stages.stage import Scalar

LAST_RATE = 0.005  # learning rate at the end of a cosine, as a share of the largest


def adam(
    learning_rate: Scalar | optax.Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: Scalar | optax.Schedule = 0.0,
    decay_vectors: bool = True,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015), as in PyTorch.

    `optax.adam` computes the correction `1 - b2**t` in float32, which cannot represent 0.999: the
    correction is off by 1e-5 for hundreds of steps, and the loss of the blog's program by 5e-3
    after 200 steps. Here it is `-expm1(t log b2)` with the logarithm computed by Python: the loss
    differs from PyTorch's by 3e-7.

    Args:
        learning_rate: step size; may be a traced array, so that `vmap` can sweep it, or a schedule:
            a function of the number of steps taken, such as `optax.cosine_decay_schedule`.
        b1: decay of the mean of the gradients, in (0, 1).
        b2: decay of the mean of the squared gradients, in (0, 1).
        eps: added to the root of the mean square.
        weight_decay: decoupled decay, multiplied by the learning rate (AdamW: Loshchilov and
            Hutter, "Decoupled Weight Decay Regularization", 2019); may be a traced array or a
            schedule, too.
        decay_vectors: False to decay only arrays of at least two dimensions: matrices and kernels,
            not biases and the scales of a normalisation.

    Raises:
        ValueError: a decay outside (0, 1).

    >>> import twostage_jax as ts
    >>> tx = ts.adam(0.1)
    >>> updates, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
    >>> [round(value, 4) for value in updates.tolist()]
    [-0.1, -0.1]
    """
    if not (0 < b1 < 1 and 0 < b2 < 1):
        raise ValueError(f"b1 {b1} and b2 {b2} must lie between 0 and 1")

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        assert isinstance(state, optax.ScaleByAdamState)
        # As in Optax, the first step gets the schedule's value at 0.
        rate = _at(learning_rate, state.count)
        decay = _at(weight_decay, state.count)
        count = optax.safe_increment(state.count)  # stays at the largest int32, does not wrap
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        steps = jnp.asarray(count, float)  # float64 if jax has it enabled
        # Reciprocals, because XLA rounds the division of a single array and of a batched array
        # differently.
        scale_1 = -1 / jnp.expm1(steps * math.log(b1))
        scale_2 = -1 / jnp.expm1(steps * math.log(b2))

        def direction(m: jax.Array, v: jax.Array) -> jax.Array:
            return -rate * (m * scale_1) / (jnp.sqrt(v * scale_2) + eps)

        changes = jax.tree.map(direction, mu, nu)
        # A Python 0 adds nothing to the program; an array is swept and may have any value.
        if not isinstance(decay, float | int) or decay:
            shrink = rate * decay

            def decayed(change: jax.Array, value: jax.Array) -> jax.Array:
                return change - shrink * value if decay_vectors or value.ndim > 1 else change

            changes = jax.tree.map(decayed, changes, params)
        return changes, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def make_schedule(
    kind: str, learning_rate: Scalar, steps: int, warmup: int
) -> Scalar | optax.Schedule:
    """Return the learning rate of a stage: a number, or a function of the number of steps taken.

    Args:
        kind: `constant`, or `cosine`: half a period of a cosine from `learning_rate` down to 0.005
            times that (Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm
            Restarts", 2017).
        learning_rate: largest rate; may be a traced array.
        steps: number of steps of the stage, over which the cosine falls.
        warmup: number of steps in which the rate first rises linearly from 0; at most a tenth of
            `steps`.

    >>> schedule = make_schedule("cosine", 1.0, steps=100, warmup=10)
    >>> [round(float(schedule(count)), 3) for count in (0, 5, 10, 55, 100)]
    [0.0, 0.5, 1.0, 0.502, 0.005]
    """
    warmup = min(warmup, steps // 10)
    if kind == "constant" and not warmup:
        return learning_rate  # a number gives the same program as a training without a schedule

    def schedule(count: ArrayLike) -> jax.Array:
        count = jnp.asarray(count)
        share = jnp.ones(())
        if kind == "cosine":
            progress = jnp.clip((count - warmup) / max(steps - warmup, 1), 0, 1)
            share = LAST_RATE + (1 - LAST_RATE) * (1 + jnp.cos(jnp.pi * progress)) / 2
        if warmup:
            share = jnp.where(count < warmup, count / warmup, share)
        return jnp.asarray(learning_rate * share)

    return schedule


def _at(setting: Scalar | optax.Schedule, count: ArrayLike) -> Scalar:
    """Value of a number, or of a schedule after `count` steps."""
    return jnp.asarray(setting(count)) if callable(setting) else setting
