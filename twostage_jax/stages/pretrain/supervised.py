"""Objective with labels: the control for objectives without labels."""

import jax
from flax import linen as nn

from twostage_jax.stages.dropout import training_key
from twostage_jax.stages.heads.trained import mlp
from twostage_jax.stages.modules import dropout_key, forward, init_on_features, make_finish
from twostage_jax.stages.pretrain.two_views import Augment
from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Scalar, Stage


def supervised(
    encoder: nn.Module,
    classes: int,
    augment: Augment | None = None,
    label_smoothing: Scalar = 0.0,
) -> Stage:
    """Classification by a linear layer on the features: softmax cross-entropy, with labels.

    The control for pretraining: the same encoder, trained on the labelled examples. Stage 1 then
    uses labels, so its encoder is no evidence for pretraining without labels. Groups: `encoder`,
    `classifier`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features `[B, D]`.
        classes: number of classes K.
        augment: `(key, image [B, H, W, C]) -> image` of the same shape, applied in training; None
            for none.
        label_smoothing: see `classifier`; may be a traced array.

    Raises:
        UserError: `label_smoothing` outside [0, 1).

    >>> import jax.numpy as jnp, twostage_jax as ts
    >>> stage = ts.supervised(ts.MLP((4,)), classes=3)
    >>> batch = ts.as_batch({"image": jnp.zeros((2, 4, 4, 1)), "label": [0, 1]})
    >>> params = stage.init(jax.random.key(0), batch)
    >>> loss, metrics = stage.loss(params, jax.random.key(1), batch)
    >>> round(float(loss), 4), sorted(metrics)
    (1.0986, ['accuracy', 'count'])
    """
    layer = mlp(classes, widths=(), label_smoothing=label_smoothing).stage
    assert layer is not None, "an MLP is trained"

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        image = batch["image"]
        # Validation uses images without augmentation.
        if augment is not None and training_key(key) is not None:
            image = augment(jax.random.fold_in(key, 2), image)
        features = forward(encoder, params["encoder"], image, dropout_key(key, 0))
        return layer.loss(params["classifier"], key, {**batch, "image": features})

    init = init_on_features(encoder, "classifier", layer.init)
    return Stage(init, loss, make_finish(encoder))
