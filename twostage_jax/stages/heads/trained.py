"""Heads that are trained by gradient descent, and the stage of an encoder with a head."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from twostage_jax.errors import UserError
from twostage_jax.stages.nets.mlp import MLP
from twostage_jax.stages.stage import (
    Batch,
    Head,
    Key,
    Metrics,
    Params,
    Scalar,
    Stage,
    forward,
    init_on_features,
    module_init,
)
from twostage_jax.trees import PyTree


def mlp(
    classes: int,
    widths: tuple[int, ...] = (64,),
    torch_init: bool = False,
    label_smoothing: Scalar = 0.0,
) -> Head:
    """Multilayer perceptron trained by softmax cross-entropy.

    Args:
        classes: number of classes K.
        widths: widths of the hidden layers.
        torch_init: PyTorch's initial values instead of Flax's, see `MLP`.
        label_smoothing: see `classifier`.

    >>> import twostage_jax as ts
    >>> head = ts.mlp(3)
    >>> params = jax.jit(head.stage.init)(jax.random.key(0), {"image": jnp.ones((5, 8))})
    >>> head.logits(params, jnp.ones((5, 8))).shape
    (5, 3)
    """
    return _module_head(MLP((*widths, classes), torch_init), label_smoothing)


def attach(encoder: nn.Module, head: Head) -> Stage:
    """Stage that trains `head` on the features of `encoder`. Groups: `encoder`, `head`.

    Nothing is frozen here: train it with `freeze(tx, "encoder")` for a head on fixed features, or
    with a plain optimiser to fine-tune everything. With `Identity()` as the encoder, `loss` takes
    batches that hold features already.

    Raises:
        UserError: a head that is solved, not trained.

    >>> import twostage_jax as ts
    >>> stage = ts.attach(ts.MLP((8,)), ts.mlp(3))
    >>> sorted(jax.eval_shape(stage.init, jax.random.key(0), {"image": jnp.ones((5, 2, 2, 1))}))
    ['encoder', 'head']
    """
    if head.stage is None:
        raise UserError("the head has no stage to train: call its solve on features instead")
    head_stage = head.stage

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        features = forward(encoder, params["encoder"], batch["image"])
        return head_stage.loss(params["head"], key, {**batch, "image": features})

    return Stage(init_on_features(encoder, "head", head_stage.init), loss)


def classifier(encoder: nn.Module, head: nn.Module, label_smoothing: Scalar = 0.0) -> Stage:
    """Softmax cross-entropy of `head(encoder(image))`, weighted by `weight`; adds `accuracy`.

    Groups: `encoder`, `head`. Nothing is frozen here, see `attach`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features.
        head: Linen module, features to logits `[B, K]`.
        label_smoothing: share of the label that is spread over all classes, in [0, 1) (Szegedy et
            al., "Rethinking the Inception Architecture", 2016); may be a traced array.

    Raises:
        UserError: `label_smoothing` outside [0, 1).

    >>> import twostage_jax as ts
    >>> stage = ts.classifier(ts.MLP((8,)), ts.MLP((3,)))
    >>> batch = ts.as_batch({"image": jnp.zeros((2, 4, 4, 1)), "label": [0, 1]})
    >>> params = stage.init(jax.random.key(0), batch)
    >>> loss, metrics = stage.loss(params, jax.random.key(1), batch)
    >>> round(float(loss), 4), sorted(metrics)
    (1.0986, ['accuracy', 'count'])
    """
    return attach(encoder, _module_head(head, label_smoothing))


def make_logits(
    encoder: nn.Module, head: nn.Module | Head
) -> Callable[[Params, jax.Array], jax.Array]:
    """Make `(params, image [B, H, W, C]) -> logits [B, K]`, for instance for `ts.evaluate`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features.
        head: Linen module or `Head`, features to logits.

    >>> import twostage_jax as ts
    >>> encoder = ts.MLP((8,))
    >>> head = ts.MLP((3,))
    >>> image = jnp.ones((2, 4, 4, 1))
    >>> stage = ts.classifier(encoder, head)
    >>> params = jax.eval_shape(stage.init, jax.random.key(0), {"image": image})
    >>> jax.eval_shape(ts.make_logits(encoder, head), params, image).shape
    (2, 3)
    """
    # A pair of Linen modules needs no `Head` to be evaluated.
    head_logits = head.logits if isinstance(head, Head) else partial(forward, head)

    def logits(params: Params, image: jax.Array) -> jax.Array:
        return head_logits(params["head"], forward(encoder, params["encoder"], image))

    return logits


def _module_head(module: nn.Module, label_smoothing: Scalar) -> Head:
    """Head of a Linen module; its parameters are what the module's `init` returns."""
    if isinstance(label_smoothing, float | int) and not 0 <= label_smoothing < 1:
        raise UserError(f"label_smoothing is {label_smoothing}: give a number in [0, 1)")

    def loss(params: PyTree, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        logits = forward(module, params, batch["image"]).astype(jnp.float32)
        return _cross_entropy(logits, batch["label"], batch["weight"], label_smoothing)

    return Head(partial(forward, module), stage=Stage(module_init(module), loss), module=module)


def _cross_entropy(
    logits: jax.Array, label: jax.Array, weight: jax.Array, label_smoothing: Scalar
) -> tuple[jax.Array, Metrics]:
    """Weighted mean cross-entropy of logits `[B, K]`, with the metrics `accuracy` and `count`."""
    count = weight.sum()
    total = jnp.where(count == 0, 1.0, count)  # if no label counts, the loss is 0 and not 0/0
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    # A Python 0 adds nothing to the program; an array is swept and may have any value.
    if not isinstance(label_smoothing, float | int) or label_smoothing:
        uniform = -jax.nn.log_softmax(logits).mean(-1)
        cross_entropy += label_smoothing * (uniform - cross_entropy)
    accuracy = (weight * (logits.argmax(-1) == label)).sum() / total
    return (weight * cross_entropy).sum() / total, {"accuracy": accuracy, "count": count}
