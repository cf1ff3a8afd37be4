"""Contrastive objectives: views of one image become similar, views of others different."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from twostage_jax.errors import UserError
from twostage_jax.stages.modules import (
    dropout_key,
    forward,
    init_module,
    init_on_features,
    make_finish,
    module_init,
)
from twostage_jax.stages.nets.mlp import MLP
from twostage_jax.stages.pretrain.two_views import Augment, make_encode, make_project
from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Scalar, Stage


def simclr(
    encoder: nn.Module, projector: nn.Module, augment: Augment, temperature: Scalar = 0.2
) -> Stage:
    """Contrast of two views of each image with all other views of the batch.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020.
    Groups: `encoder`, `projector`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features `[B, D]`.
        projector: Linen module, features to projections `[B, P]`.
        augment: `(key, image [B, H, W, C]) -> image` of the same shape.
        temperature: divisor of the cosine similarities, above 0; may be a traced array.

    Raises:
        UserError: a `temperature` that is not above 0.

    >>> import twostage_jax as ts
    >>> stage = ts.simclr(ts.MLP((4,)), ts.MLP((2,)), augment=lambda key, image: image)
    >>> batch = {"image": jnp.ones((3, 2, 2, 1))}
    >>> params = stage.init(jax.random.key(0), batch)
    >>> round(float(stage.loss(params, jax.random.key(1), batch)[0]), 4)  # log of 5 equal views
    1.6094
    """
    _check_temperature(temperature)
    project = make_project(encoder, projector, augment)

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        return nt_xent(project(params, key, batch["image"]), temperature), {}

    init = init_on_features(encoder, "projector", module_init(projector))
    return Stage(init, loss, make_finish(encoder, projector=projector))


def simclr_iic(
    encoder: nn.Module,
    projector: nn.Module,
    augment: Augment,
    temperature: Scalar = 0.2,
    heads: int = 4,
    clusters: int = 20,
    weight: Scalar = 2.0,
) -> Stage:
    """SimCLR minus `weight` times the mutual information of two views' cluster assignments.

    Ji et al., "Invariant Information Clustering for Unsupervised Image Classification and
    Segmentation", 2019: each head assigns a view to soft clusters, more of them than there are
    classes. Groups: `encoder`, `projector`, and `clusters`, which is a network like the projector
    on the same features.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features `[B, D]`.
        projector: Linen module, features to projections `[B, P]`.
        augment: `(key, image [B, H, W, C]) -> image` of the same shape.
        temperature: see `simclr`.
        heads: number of cluster heads, at least 1.
        clusters: number of clusters of each head, at least 2.
        weight: weight of the mutual information (in nats, the mean over heads), at least 0; may be
            a traced array.

    Raises:
        UserError: a number out of range, or traced `heads` or `clusters`, which decide shapes.

    >>> import twostage_jax as ts
    >>> stage = ts.simclr_iic(ts.MLP((4,)), ts.MLP((2,)), lambda key, image: image, heads=3)
    >>> params = jax.eval_shape(stage.init, jax.random.key(0), {"image": jnp.ones((3, 2, 2, 1))})
    >>> params["clusters"]["params"]["dense_0"]["kernel"].shape
    (4, 60)
    """
    _check_temperature(temperature)
    check_count("heads", heads, 1)
    check_count("clusters", clusters, 2)
    if isinstance(weight, float | int) and weight < 0:
        raise UserError(f"weight is {weight}: give a number of at least 0")
    encode = make_encode(encoder, augment)
    assign = _like(projector, heads * clusters)

    def init(key: Key, batch: Batch) -> Params:
        encoder_key, projector_key, clusters_key = jax.random.split(key, 3)
        encoder_params = init_module(encoder, encoder_key, batch["image"])
        features = forward(encoder, encoder_params, batch["image"])
        return {
            "encoder": encoder_params,
            "projector": init_module(projector, projector_key, features),
            "clusters": init_module(assign, clusters_key, features),
        }

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        features = encode(params, key, batch["image"])
        projected = forward(projector, params["projector"], features, dropout_key(key, 1))
        logits = forward(assign, params["clusters"], features, dropout_key(key, 3))
        information = mutual_information(logits.reshape(len(logits), heads, clusters))
        contrast = nt_xent(projected.reshape(len(features), -1), temperature)
        return contrast - weight * information, {"information": information}

    return Stage(init, loss, make_finish(encoder, projector=projector, clusters=assign))


def _like(projector: nn.Module, width: int) -> nn.Module:
    """Network like a projector with another number of outputs; linear if it has no `widths`."""
    widths = getattr(projector, "widths", None)
    return projector.clone(widths=(*widths[:-1], width)) if widths else MLP((width,))


def nt_xent(projected: jax.Array, temperature: Scalar) -> jax.Array:
    """Cross-entropy of selecting the other view of an image among 2B - 1 views, by cosine.

    Args:
        projected: projections `[2B, P]`; rows i and B + i are two views of one image.
        temperature: divisor of the cosine similarities.

    Returns:
        Mean over all views in nats; 0 for a single image, because its other view is the only
        candidate.
    """
    # The square root of 0 has no finite gradient.
    scale = jax.lax.rsqrt(jnp.maximum((projected**2).sum(-1, keepdims=True), 1e-12))
    unit = projected * scale
    count = len(unit)
    similarity = unit @ unit.T / temperature
    candidates = jnp.where(jnp.eye(count, dtype=bool), -jnp.inf, similarity)
    positive = (unit * jnp.roll(unit, count // 2, axis=0)).sum(-1) / temperature
    return jnp.mean(jax.nn.logsumexp(candidates, axis=-1) - positive)


def mutual_information(logits: jax.Array) -> jax.Array:
    """Mutual information of the clusters of two views, in nats: a mean over heads.

    Args:
        logits: cluster logits `[2B, heads, clusters]`; rows i and B + i are two views of one image.

    Returns:
        A scalar from 0 to log(clusters).
    """
    first, second = jnp.split(jax.nn.softmax(logits.astype(jnp.float32)), 2)
    joint = jnp.einsum("bhi,bhj->hij", first, second) / len(first)
    # The two views are exchangeable, so the joint distribution is symmetric, and has one marginal.
    joint = (joint + joint.swapaxes(1, 2)) / 2 + 1e-9  # keeps the logarithm of an empty cell finite
    marginal = jnp.log(joint.sum(2))
    ratio = jnp.log(joint) - marginal[:, :, None] - marginal[:, None, :]
    return (joint * ratio).sum((1, 2)).mean()


def check_count(name: str, value: object, least: int) -> None:
    """Raise `UserError` unless a number that decides shapes is whole and at least `least`."""
    if not isinstance(value, int | float):
        raise UserError(f"{name} decides shapes, so it cannot be swept: run once per value")
    if value != int(value) or value < least:
        raise UserError(f"{name} is {value}: give a whole number of at least {least}")


def _check_temperature(temperature: Scalar) -> None:
    if isinstance(temperature, float | int) and not temperature > 0:
        raise UserError(f"temperature is {temperature}: give a number above 0")
