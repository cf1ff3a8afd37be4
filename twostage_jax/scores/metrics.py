"""Scores of a classifier as sums over examples, divided once at the end."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

ECE_BINS = 15


class ScoreSums(NamedTuple):
    """Sums over examples, weighted by `weight`; two of them add up leaf by leaf.

    Attributes:
        nll: sum of negative log-likelihoods, in nats.
        brier: sum of squared distances between probabilities and the one-hot label.
        confusion: float32 `[K, K]`, examples of true class (row) taken for class (column).
        bins: float32 `[3, 15]`: per bin of confidence its examples, the sum of their confidences,
            and how many of them are correct.
    """

    nll: jax.Array
    brier: jax.Array
    confusion: jax.Array
    bins: jax.Array


def score_sums(logits: jax.Array, label: jax.Array, weight: jax.Array) -> ScoreSums:
    """Sums for one batch: `logits` `[B, K]`, `label` int32 `[B]`, `weight` float32 `[B]`."""
    classes = logits.shape[-1]
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
    probability = jnp.exp(log_probability)
    true = jax.nn.one_hot(label, classes)
    predicted = probability.argmax(-1)
    confidence = probability.max(-1)
    # Bins are (lower, upper], as Guo et al. have them: confidence 1 falls into the last one.
    index = jnp.clip(jnp.ceil(confidence * ECE_BINS).astype(jnp.int32) - 1, 0, ECE_BINS - 1)
    member = jax.nn.one_hot(index, ECE_BINS) * weight[:, None]
    weighted = true * weight[:, None]
    correct = predicted == label
    return ScoreSums(
        nll=-(weighted * log_probability).sum(),
        brier=(weight * ((probability - true) ** 2).sum(-1)).sum(),
        # Full precision, or an accelerator would round what it multiplies.
        confusion=jnp.matmul(weighted.T, jax.nn.one_hot(predicted, classes), precision="highest"),
        bins=jnp.stack(
            [
                member.sum(0),
                (member * confidence[:, None]).sum(0),
                (member * correct[:, None]).sum(0),
            ]
        ),
    )


def scores(sums: ScoreSums) -> dict[str, jax.Array]:
    """Accuracy, NLL, ECE, Brier score and the number of examples, from their sums.

    - `accuracy` in [0, 1];
    - `nll`, mean negative log-likelihood in nats;
    - `ece`, expected calibration error in [0, 1] over 15 equal-width bins of confidence
      (Guo et al., "On Calibration of Modern Neural Networks", 2017);
    - `brier` in [0, 2], summed over classes (Brier, "Verification of Forecasts", 1950);
    - `count`, int32, the sum of the weights.

    With no examples every score is NaN.
    """
    total = sums.confusion.sum()
    gap = jnp.abs(sums.bins[2] - sums.bins[1]).sum()
    return {
        "accuracy": jnp.trace(sums.confusion) / total,
        "nll": sums.nll / total,
        "ece": gap / total,
        "brier": sums.brier / total,
        "count": jnp.round(total).astype(jnp.int32),
    }


def per_class_accuracy(confusion: jax.Array) -> jax.Array:
    """Share of each true class that is recognised, `[K]` from counts `[K, K]`; NaN where none."""
    return jnp.diagonal(confusion) / confusion.sum(axis=1)
