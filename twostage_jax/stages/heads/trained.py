"""Stage-2 protocols: heads on top of an encoder, as a `Stage`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Stage, init_on_features


def classifier(encoder: Any, head: Any, label_smoothing: Any = 0.0) -> Stage:
    """Softmax cross-entropy of `head(encoder(image))`, weighted by `weight`; adds `accuracy`.

    Groups: `encoder`, `head`. Nothing is frozen here: train it with `freeze(tx, "encoder")` for a
    head on fixed features, with a plain optimiser for a full fine-tune.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features.
        head: Linen module, features to logits `[B, K]`.
        label_smoothing: share of each label that is spread over all classes, in [0, 1) (Szegedy et
            al., "Rethinking the Inception Architecture", 2016); may be a traced array.
    """
    logits_of = make_logits(encoder, head)

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        logits = logits_of(params, batch["image"]).astype(jnp.float32)
        label, weight = batch["label"], batch["weight"]
        count = weight.sum()
        total = jnp.where(count == 0, 1.0, count)  # no counting label: loss 0, not 0/0
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        # Python's 0 adds nothing to the program; an array is swept and may be anything.
        if not isinstance(label_smoothing, float | int) or label_smoothing:
            uniform = -jax.nn.log_softmax(logits).mean(-1)
            cross_entropy += label_smoothing * (uniform - cross_entropy)
        accuracy = (weight * (logits.argmax(-1) == label)).sum() / total
        return (weight * cross_entropy).sum() / total, {"accuracy": accuracy, "count": count}

    return Stage(init_on_features(encoder, "head", head), loss)


def make_logits(encoder: Any, head: Any) -> Callable[[Params, jax.Array], jax.Array]:
    """`(params, image [B, H, W, C]) -> logits [B, K]`, what `evaluate` takes as `apply`."""

    def logits(params: Params, image: jax.Array) -> jax.Array:
        return head.apply(params["head"], encoder.apply(params["encoder"], image))

    return logits
