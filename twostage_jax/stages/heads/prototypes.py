"""Class means as a head."""

import jax
import jax.numpy as jnp

from twostage_jax.errors import UserError
from twostage_jax.stages.heads.counts import check_count
from twostage_jax.stages.heads.labels import check_labels, class_labels
from twostage_jax.stages.heads.search import unit
from twostage_jax.stages.stage import Batch, Head, Key, Scalar
from twostage_jax.trees import PyTree

_SHARPNESS = 10.0  # factor of the cosine in the shares of a refinement step


def prototype(classes: int, temperature: Scalar = 0.1, steps: int = 0) -> Head:
    """Nearest class mean by cosine, on features of length 1.

    The protocol of Snell et al., "Prototypical Networks for Few-shot Learning", 2017, on fixed
    features. Then follow `steps` refinements by soft k-means over all training images (Ren et al.,
    "Meta-Learning for Semi-Supervised Few-Shot Classification", 2018): each image gets the shares
    `softmax(10 · cosine)`, a labelled image its one-hot label, and each class mean becomes the
    weighted mean. Logits are cosines divided by `temperature`.

    Parameters: `mean` `[K, D]` of length 1 (zeros for a class without an example) and
    `temperature`.

    Args:
        classes: number of classes K.
        temperature: above 0; may be a traced array. It does not change the predicted class.
        steps: number of refinements, from 0 to 100. Above 0, the head needs the features of all
            training images.

    Raises:
        UserError: a number out of range; in `solve`, labels that count and are no class (the means
            are NaN if they are traced), or refinements in a batch without `features`.

    >>> import twostage_jax as ts
    >>> batch = {"image": jnp.eye(2), "label": jnp.arange(2), "weight": jnp.ones(2)}
    >>> head = ts.prototype(2)
    >>> params = jax.jit(head.solve)(jax.random.key(0), batch)
    >>> head.logits(params, jnp.array([[0.1, 2.0]])).argmax(-1).tolist()
    [1]
    """
    if isinstance(temperature, float | int) and not temperature > 0:
        raise UserError(f"temperature is {temperature}: give a number above 0")
    check_count("steps", steps, 0, 100)

    def solve(key: Key, batch: Batch) -> PyTree:
        check_labels(batch["label"], batch["weight"], classes)
        label = class_labels(batch["label"], batch["weight"], classes)
        counted = batch["weight"][:, None] * jax.nn.one_hot(label, classes)
        with jax.default_matmul_precision("highest"):
            mean = unit(counted.T @ unit(batch["image"]))
            if steps:
                mean = _refine(mean, counted, batch, steps)
        mean = jnp.where((label < classes).all(), mean, jnp.nan)
        return {"mean": mean, "temperature": jnp.asarray(temperature, jnp.float32)}

    return Head(_cosines, solve=solve, prepare=_nothing if steps else None)


def _nothing(features: object) -> dict:
    """Prepare nothing: the refinement only needs the features of all images."""
    return {}


def _refine(mean: jax.Array, counted: jax.Array, batch: Batch, steps: int) -> jax.Array:
    """Means `[K, D]` after some steps of soft k-means."""
    if "features" not in batch:
        raise UserError("prototype with steps needs features and index of all images in the batch")
    features = unit(batch["features"])
    is_labelled = counted.sum(1, keepdims=True) > 0

    def step(_: int, mean: jax.Array) -> jax.Array:
        share = jax.nn.softmax(_SHARPNESS * features @ mean.T)
        labelled = jnp.where(is_labelled, counted, share[batch["index"]])
        share = share.at[batch["index"]].set(labelled)
        return unit(share.T @ features)

    return jax.lax.fori_loop(0, steps, step, mean)


def _cosines(params: PyTree, features: jax.Array) -> jax.Array:
    return unit(features) @ params["mean"].T / params["temperature"]
