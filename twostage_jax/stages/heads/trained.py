"""Heads that are trained by gradient descent, and the stage of an encoder with a head."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from twostage_jax.errors import UserError
from twostage_jax.stages.heads.labels import check_labels, class_labels
from twostage_jax.stages.modules import forward, init_module, init_on_features
from twostage_jax.stages.nets.mlp import MLP
from twostage_jax.stages.stage import Batch, Head, Key, Metrics, Params, Scalar, Stage
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


def attach(encoder: nn.Module, head: Head, frozen: bool = False) -> Stage:
    """Stage that trains `head` on the features of `encoder`. Groups: `encoder`, `head`.

    Nothing is frozen here: train it with `freeze(tx, "encoder")` for a head on fixed features, or
    with a plain optimiser to fine-tune everything. With `Identity()` as the encoder, `loss` takes
    batches that hold features already.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features.
        head: trained head.
        frozen: apply the encoder without dropout, as in evaluation, because it is frozen.

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
        # A key of its own, or equal layers of encoder and head would drop alike.
        encoder_key = None if frozen else jax.random.fold_in(key, 0)
        features = forward(encoder, params["encoder"], batch["image"], encoder_key)
        return head_stage.loss(params["head"], key, {**batch, "image": features})

    return Stage(init_on_features(encoder, "head", head_stage.init), loss)


def classifier(
    encoder: nn.Module,
    head: nn.Module,
    label_smoothing: Scalar = 0.0,
    frozen: bool = False,
) -> Stage:
    """Softmax cross-entropy of `head(encoder(image))`, weighted by `weight`; adds `accuracy`.

    Groups: `encoder`, `head`. Nothing is frozen here, see `attach`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features.
        head: Linen module, features to logits `[B, K]`.
        label_smoothing: share of the label that is spread over all classes, in [0, 1) (Szegedy et
            al., "Rethinking the Inception Architecture", 2016); may be a traced array.
        frozen: see `attach`.

    Raises:
        UserError: `label_smoothing` outside [0, 1); from `init`, labels that are no class of the
            head. If labels are traced, the loss is NaN instead. The label of an example of weight
            0 may have any value.

    >>> import twostage_jax as ts
    >>> stage = ts.classifier(ts.MLP((8,)), ts.MLP((3,)))
    >>> batch = ts.as_batch({"image": jnp.zeros((2, 4, 4, 1)), "label": [0, 1]})
    >>> params = stage.init(jax.random.key(0), batch)
    >>> loss, metrics = stage.loss(params, jax.random.key(1), batch)
    >>> round(float(loss), 4), sorted(metrics)
    (1.0986, ['accuracy', 'count'])
    """
    return attach(encoder, _module_head(head, label_smoothing), frozen)


def make_logits(
    encoder: nn.Module, head: nn.Module | Head
) -> Callable[[Params, jax.Array], jax.Array]:
    """Make `(params, image [B, H, W, C]) -> logits [B, K]`, for instance for `ts.evaluate`.

    The function takes images as `ts.as_image` returns them: floats in [-1, 1]. Floats of another
    range are not detected; they give other, usually worse, predictions.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features.
        head: Linen module or `Head`, features to logits.

    Raises:
        UserError: from the function, if images are integers such as uint8.

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

    def init(key: Key, batch: Batch) -> PyTree:
        params = init_module(module, key, batch["image"])
        logits = jax.eval_shape(partial(forward, module), params, batch["image"])
        if "label" in batch and "weight" in batch:
            check_labels(batch["label"], batch["weight"], logits.shape[-1])
        return params

    def loss(params: PyTree, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        logits = forward(module, params, batch["image"], key).astype(jnp.float32)
        return _cross_entropy(logits, batch["label"], batch["weight"], label_smoothing)

    return Head(partial(forward, module), stage=Stage(init, loss), module=module)


def _cross_entropy(
    logits: jax.Array, label: jax.Array, weight: jax.Array, label_smoothing: Scalar
) -> tuple[jax.Array, Metrics]:
    """Weighted mean cross-entropy of logits `[B, K]`, with the metrics `accuracy` and `count`."""
    count = weight.sum()
    total = jnp.where(count == 0, 1.0, count)  # if no label counts, the loss is 0 and not 0/0
    label = class_labels(label, weight, logits.shape[-1])
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    hits = jnp.where(jnp.isnan(cross_entropy), jnp.nan, logits.argmax(-1) == label)
    # A Python 0 adds nothing to the program; an array is swept and may have any value.
    if not isinstance(label_smoothing, float | int) or label_smoothing:
        uniform = -jax.nn.log_softmax(logits).mean(-1)
        cross_entropy += label_smoothing * (uniform - cross_entropy)
    accuracy = (weight * hits).sum() / total
    return (weight * cross_entropy).sum() / total, {"accuracy": accuracy, "count": count}
