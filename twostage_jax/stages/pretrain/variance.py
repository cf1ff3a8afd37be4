"""Objective without negatives: it keeps the variance of each projection high."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from twostage_jax.errors import UserError
from twostage_jax.stages.modules import init_on_features, make_finish, module_init
from twostage_jax.stages.pretrain.two_views import Augment, make_project
from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Scalar, Stage


def vicreg(
    encoder: nn.Module,
    projector: nn.Module,
    augment: Augment,
    invariance: Scalar = 25.0,
    variance: Scalar = 25.0,
    covariance: Scalar = 1.0,
) -> Stage:
    """Invariance to augmentation, with two terms that prevent collapse: variance and covariance.

    Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
    Learning", 2022. Groups: `encoder`, `projector`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features `[B, D]`.
        projector: Linen module, features to projections `[B, P]`.
        augment: `(key, image [B, H, W, C]) -> image` of the same shape.
        invariance: weight of the squared distance between two views, at least 0.
        variance: weight of the hinge on each projection's standard deviation, at least 0.
        covariance: weight of the squared covariances, at least 0. All weights may be traced arrays.

    Raises:
        UserError: a negative weight.

    >>> import twostage_jax as ts
    >>> stage = ts.vicreg(ts.MLP((4,)), ts.MLP((2,)), augment=lambda key, image: image)
    >>> batch = {"image": jnp.ones((3, 2, 2, 1))}
    >>> params = stage.init(jax.random.key(0), batch)
    >>> round(float(stage.loss(params, jax.random.key(1), batch)[0]), 4)  # a collapsed batch
    24.75
    """
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
    for name, weight in weights.items():
        if isinstance(weight, float | int) and weight < 0:
            raise UserError(f"{name} is {weight}: give a weight of at least 0")
    project = make_project(encoder, projector, augment)

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        first, second = jnp.split(project(params, key, batch["image"]), 2)
        terms = {
            "invariance": jnp.mean((first - second) ** 2),
            "variance": (deviation_hinge(first) + deviation_hinge(second)) / 2,
            "covariance": squared_covariances(first) + squared_covariances(second),
        }
        return sum((weights[name] * terms[name] for name in terms), jnp.float32(0)), terms

    init = init_on_features(encoder, "projector", module_init(projector))
    return Stage(init, loss, make_finish(encoder, projector=projector))


def deviation_hinge(projected: jax.Array) -> jax.Array:
    """Mean of `max(0, 1 - standard deviation)` over the columns of projections `[B, P]`."""
    variances = (_centred(projected) ** 2).sum(0) / max(len(projected) - 1, 1)
    # The square root of 0 has no finite gradient.
    return jnp.mean(jax.nn.relu(1 - jnp.sqrt(variances + 1e-4)))


def squared_covariances(projected: jax.Array) -> jax.Array:
    """Sum of the squared covariances of different columns of projections `[B, P]`, over P."""
    centred = _centred(projected)
    # A single example has no covariance: the divisor 1 gives 0.
    covariances = centred.T @ centred / max(len(projected) - 1, 1)
    different = covariances * (1 - jnp.eye(len(covariances)))
    return jnp.sum(different**2) / projected.shape[1]


def _centred(projected: jax.Array) -> jax.Array:
    return projected - projected.mean(0, keepdims=True)
