"""Joint-embedding prediction, with a term that makes the projections Gaussian."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from twostage_jax.errors import UserError
from twostage_jax.stages.modules import init_on_features, make_finish, module_init
from twostage_jax.stages.pretrain.contrastive import check_count
from twostage_jax.stages.pretrain.two_views import Augment, make_project
from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Scalar, Stage

KNOTS = 17  # points of the characteristic function, equally spaced in [0, LARGEST_KNOT]
LARGEST_KNOT = 3.0


def lejepa(
    encoder: nn.Module,
    projector: nn.Module,
    augment: Augment,
    weight: Scalar = 0.05,
    slices: int = 256,
) -> Stage:
    """Prediction of each view's projection from the mean of both views, with SIGReg.

    Balestriero and LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the
    Heuristics", 2025: no teacher, no negatives, no stopped gradient. The loss is
    `(1 - weight) · prediction + weight · SIGReg`. Groups: `encoder`, `projector`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features `[B, D]`.
        projector: Linen module, features to projections `[B, P]`.
        augment: `(key, image [B, H, W, C]) -> image` of the same shape.
        weight: weight of SIGReg, from 0 to 1; may be a traced array.
        slices: number of random directions on which SIGReg compares distributions, at least 1.

    Raises:
        UserError: a number out of range, or traced `slices`, which decides shapes.

    >>> import twostage_jax as ts
    >>> stage = ts.lejepa(ts.MLP((4,)), ts.MLP((2,)), augment=lambda key, image: image, slices=8)
    >>> batch = {"image": jnp.ones((3, 2, 2, 1))}
    >>> params = stage.init(jax.random.key(0), batch)
    >>> loss, metrics = stage.loss(params, jax.random.key(1), batch)
    >>> float(metrics["prediction"]), bool(metrics["sigreg"] > 0.1)  # a collapsed batch
    (0.0, True)
    """
    if isinstance(weight, float | int) and not 0 <= weight <= 1:
        raise UserError(f"weight is {weight}: give a number from 0 to 1")
    check_count("slices", slices, 1)
    project = make_project(encoder, projector, augment)

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        views = jnp.stack(jnp.split(project(params, key, batch["image"]), 2))
        prediction = jnp.mean((views - views.mean(0, keepdims=True)) ** 2)
        # Both views are compared on the same directions.
        distances = jax.vmap(partial(sigreg, jax.random.fold_in(key, 3), slices=slices))(views)
        distance = distances.mean()
        metrics = {"prediction": prediction, "sigreg": distance}
        return (1 - weight) * prediction + weight * distance, metrics

    init = init_on_features(encoder, "projector", module_init(projector))
    return Stage(init, loss, make_finish(encoder, projector=projector))


def sigreg(key: Key, projected: jax.Array, slices: int) -> jax.Array:
    """Distance of a distribution from the isotropic standard Gaussian, on random directions.

    The statistic of Epps and Pulley: the squared difference between the empirical characteristic
    function of the B values on a direction and `exp(-t²/2)`, integrated over t in [-3, 3] with
    weight `exp(-t²/2)`, times B. Its expectation for Gaussian samples does not depend on B.

    Args:
        key: key for the directions.
        projected: samples `[B, P]`.
        slices: number of directions.

    Returns:
        Mean over the directions, at least 0.
    """
    directions = jax.random.normal(key, (projected.shape[1], slices), projected.dtype)
    values = projected @ (directions / jnp.linalg.norm(directions, axis=0, keepdims=True))
    knots = np.linspace(0, LARGEST_KNOT, KNOTS, dtype=np.float32)
    gaussian = np.exp(-(knots**2) / 2)
    step = LARGEST_KNOT / (KNOTS - 1)
    # The trapezoidal rule on [0, 3], doubled: the integrand is even.
    trapezoid = np.where((knots == 0) | (knots == LARGEST_KNOT), step, 2 * step)
    total = jnp.float32(0)
    for cosine, sine, target, share in zip(
        *_characteristic(values, step), gaussian, gaussian * trapezoid, strict=True
    ):
        total += share * jnp.mean((cosine - target) ** 2 + sine**2)
    return total * len(projected)


def _characteristic(values: jax.Array, step: float) -> tuple[list[jax.Array], list[jax.Array]]:
    """Means over B of cos(t x) and sin(t x) at each knot t, of values `[B, slices]`."""
    # The addition theorem gives the multiples of an angle: one cosine and sine instead of 17.
    first_cosine = jnp.cos(step * values)
    first_sine = jnp.sin(step * values)
    cosine = jnp.ones_like(values)
    sine = jnp.zeros_like(values)
    cosines = []
    sines = []
    for _ in range(KNOTS):
        cosines.append(cosine.mean(0))
        sines.append(sine.mean(0))
        turned = cosine * first_cosine - sine * first_sine
        sine = sine * first_cosine + cosine * first_sine
        cosine = turned
    return cosines, sines
