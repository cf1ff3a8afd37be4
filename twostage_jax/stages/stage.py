"""Types of everything that is trained: `Stage`, `Head` and the batches they see.

Parameters are a dict of groups (`encoder`, `decoder`, `head`, …). Groups are frozen, saved and
handed over by name.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.typing import ArrayLike

from twostage_jax.errors import UserError
from twostage_jax.trees import PyTree

Key: TypeAlias = jax.Array
Batch: TypeAlias = Mapping[str, jax.Array]
Params: TypeAlias = dict[str, PyTree]
Metrics: TypeAlias = dict[str, jax.Array]
# A hyper-parameter: a Python number, or a traced array when it is swept by `vmap`.
Scalar: TypeAlias = float | jax.Array


class Stage(NamedTuple):
    """Pair of pure functions: initial parameters, and the loss to minimise.

    A batch holds `image` float32 `[B, H, W, C]` in [-1, 1], `label` int32 `[B]` and `weight`
    float32 `[B]` (0 for an example whose label does not count). If the function that made the stage
    asks for `examples`, it also holds `index` int32 `[B]`, the positions of the examples among the
    training examples of the trial.

    Attributes:
        init: `(key, batch) -> params`, a dict of parameter groups.
        loss: `(params, key, batch) -> (loss, metrics)`: a scalar and a dict of scalars, all of them
            means over the batch. If a mean is not over all B examples, the metric `count` holds
            the number of examples in it; the engine weights the batches of an epoch by `count`.
        finish: `(params, images float32 [S, H, W, C]) -> params` or None: fixes statistics, such as
            those of batch normalisation, before anything is evaluated. A run passes at most
            6,000 unlabelled training images. Only constants may change: collections beside
            `params`.
        optimiser: `tx -> tx` or None: adapts the run's optimiser to the groups of this stage, for
            instance with a separate learning rate for the group `encoder`.

    >>> import jax.numpy as jnp
    >>> def init(key, batch):
    ...     return {"encoder": jnp.zeros(())}
    >>> def loss(params, key, batch):
    ...     return jnp.mean((batch["image"] - params["encoder"]) ** 2), {}
    >>> stage = Stage(init, loss)
    >>> float(stage.loss({"encoder": 1.0}, None, {"image": jnp.zeros((2, 1, 1, 1))})[0])
    1.0
    """

    init: Callable[[Key, Batch], Params]
    loss: Callable[[Params, Key, Batch], tuple[jax.Array, Metrics]]
    finish: Callable[[Params, jax.Array], Params] | None = None
    optimiser: Callable[[optax.GradientTransformation], optax.GradientTransformation] | None = None


class Head(NamedTuple):
    """Classifier on features: its logits, and either a stage that trains it or a solver.

    The parameters are any dict of arrays, which a run stores as the group `head`. Everything that
    `logits` needs is in them, hyper-parameters included, so one head function predicts
    for all members of a sweep.

    Attributes:
        logits: `(params, features [B, D]) -> logits [B, K]`.
        stage: trains the head. Its batches hold features `[B, D]` as `image`.
        solve: `(key, batch) -> params`, computed in one call from all examples: `image` features
            float32 `[N, D]`, `label` int32 `[N]`, `weight` float32 `[N]`, and `validation_image`
            `[V, D]` and `validation_label` `[V]` to choose on (V may be 0). Pure.
        module: Linen module whose `apply` is `logits`, if there is one.
        prepare: `(features [N, D]) -> dict of arrays`, NumPy in and out, for a head with `solve`
            that needs all training images, such as a graph of neighbours. A run computes it once
            for each encoder, on the host; all trials share it. N counts all training images: the
            split train in source order, then the unlabelled images. The batch of `solve` then also
            holds `prepared` (that dict), `features` float32 `[N, D]` and `index` int32 `[n]`, the
            rows of its labelled examples among the N.
        transduce: `params -> logits [N, K]` of exactly the images that `prepare` received.
        tune: `tx -> tx` or None: the optimiser of the encoder, made from the run's. By default the
            encoder is frozen. With `tune`, stage 2 trains it as well, and applies it in every step
            as in evaluation: without dropout, with the statistics that stage 1 has fixed.

    >>> import jax.numpy as jnp
    >>> def logits(params, features):
    ...     return -((features[:, None] - params["mean"][None]) ** 2).sum(-1)
    >>> def solve(key, batch):
    ...     one_hot = jax.nn.one_hot(batch["label"], 2) * batch["weight"][:, None]
    ...     return {"mean": one_hot.T @ batch["image"] / one_hot.sum(0)[:, None]}
    >>> head = Head(logits, solve=solve)  # nearest class mean
    >>> batch = {"image": jnp.array([[0.0], [4.0]]), "label": jnp.arange(2), "weight": jnp.ones(2)}
    >>> head.logits(head.solve(None, batch), jnp.array([[1.0]])).argmax(-1).tolist()
    [0]
    """

    logits: Callable[[PyTree, jax.Array], jax.Array]
    stage: Stage | None = None
    solve: Callable[[Key, Batch], PyTree] | None = None
    module: nn.Module | None = None
    prepare: Callable[[np.ndarray], Mapping[str, np.ndarray]] | None = None
    transduce: Callable[[PyTree], jax.Array] | None = None
    tune: Callable[[optax.GradientTransformation], optax.GradientTransformation] | None = None


def new_key(seed: int = 0) -> Key:
    """Return the key of a seed, of the kind `threefry2x32` whatever `jax_default_prng_impl` is.

    With keys of the kind `rbg`, random numbers under `vmap` depend on the other members.

    >>> from twostage_jax.stages.stage import new_key
    >>> jax.random.key_impl(new_key(3))
    'threefry2x32'
    """
    return jax.random.key(seed, impl="threefry2x32")


def as_image(image: ArrayLike) -> jax.Array:
    """Convert images to float32: uint8 as `(x/255 - 0.5)/0.5`, floats unchanged.

    Raises:
        UserError: images of another type.

    >>> import numpy as np
    >>> as_image(np.array([0, 255], np.uint8)).tolist()
    [-1.0, 1.0]
    """
    image = jnp.asarray(image)
    if image.dtype == jnp.uint8:
        return (image.astype(jnp.float32) / 255 - 0.5) / 0.5
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise UserError(
            f"images are {image.dtype}: give uint8 in 0 to 255, or floats in -1 to 1 as "
            "(x/255 - 0.5)/0.5"
        )
    return image.astype(jnp.float32)


def as_batch(examples: Mapping[str, ArrayLike]) -> dict[str, jax.Array]:
    """Convert examples to the batch that a stage sees.

    Args:
        examples: `image` `[B, H, W, C]` as `as_image` takes it, `label` integers `[B]` and, if some
            labels do not count, `weight` `[B]`. A stage that keeps something for each training
            example also needs `index` `[B]`, the positions of the examples.

    Returns:
        `image` float32, `label` int32, `weight` float32 (1 by default); `index` int32 if given.

    Raises:
        UserError: images of another type, or labels and weights of another type or length.

    >>> import numpy as np
    >>> batch = as_batch({"image": np.zeros((2, 4, 4, 1), np.uint8), "label": [0, 1]})
    >>> batch["weight"].tolist()
    [1.0, 1.0]
    """
    batch = {"image": as_image(examples["image"]), **as_labels(examples)}
    if "index" in examples:
        batch["index"] = jnp.asarray(examples["index"], jnp.int32)
    return batch


def as_labels(examples: Mapping[str, ArrayLike]) -> dict[str, jax.Array]:
    """Return `label` int32 `[B]` and `weight` float32 `[B]` of examples, as `as_batch` does.

    Raises:
        UserError: labels that are not whole numbers, or not one per image.
    """
    label = examples["label"]
    dtype = label.dtype if isinstance(label, jax.Array) else np.asarray(label).dtype
    count = np.shape(examples["image"])[0]
    whole = jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)
    if not whole or np.shape(label) != (count,):
        raise UserError(
            f"labels are {dtype} {list(np.shape(label))} for {count} images: give class numbers "
            f"int32 [{count}]; label.argmax(-1) converts one-hot labels, label.astype(int) floats"
        )
    label = jnp.asarray(label, jnp.int32)
    weight = examples.get("weight")
    if weight is None:
        weight = jnp.ones(label.shape, jnp.float32)
    if np.shape(weight) != label.shape:
        raise UserError(
            f"weights are {list(np.shape(weight))}: give one for each of {count} images"
        )
    return {"label": label, "weight": jnp.asarray(weight, jnp.float32)}
