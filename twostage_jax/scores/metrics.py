"""Scores of a classifier on the device, as sums over examples: the arithmetic of `ts.evaluate`.

A run's figures are computed on the host instead, in float64; see `scores.figures`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

ECE_BINS = 15


class ScoreSums(NamedTuple):
    """Weighted sums over examples. Two batches are combined by adding them leaf by leaf.

    `confidence` and `correct` are float32 `[15]`: sums in each bin of confidence.
    """

    count: jax.Array
    nll: jax.Array
    brier: jax.Array
    confidence: jax.Array
    correct: jax.Array


def score_sums(logits: jax.Array, label: jax.Array, weight: jax.Array) -> ScoreSums:
    """Sums of one batch: `logits` `[B, K]`, `label` int32 `[B]`, `weight` float32 `[B]`.

    Examples of weight 0 do not count, whatever their label and logits are. If logits of an example
    that counts are NaN, or its label is out of range, every score is NaN.
    """
    is_class = (label >= 0) & (label < logits.shape[-1])
    invalid = ~is_class | jnp.isnan(logits).any(-1)
    # Marked in the sums, and zeros until then: XLA's maximum on the CPU loses NaN, and NaN times
    # weight 0 is NaN.
    mark = jnp.where((invalid & (weight != 0)).any(), jnp.nan, 0.0)
    logits = jnp.where((invalid | (weight == 0))[:, None], 0, logits)
    # Half-precision logits would lose digits in the sums.
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
    probability = jnp.exp(log_probability)
    confidence = probability.max(-1)
    correct = probability.argmax(-1) == label
    true = jax.nn.one_hot(label, logits.shape[-1])
    # Bins are (lower, upper], as Guo et al. define them: confidence 1 belongs to the last bin.
    index = jnp.clip(jnp.ceil(confidence * ECE_BINS).astype(jnp.int32) - 1, 0, ECE_BINS - 1)
    # A sum over one-hot rows, because a scatter is slow on an accelerator.
    bins = jax.nn.one_hot(index, ECE_BINS) * weight[:, None]
    return ScoreSums(
        count=weight.sum(),
        # Not the product: the logarithm of another class may be -inf.
        nll=mark - (weight * jnp.where(true > 0, log_probability, 0).sum(-1)).sum(),
        brier=mark + (weight * ((probability - true) ** 2).sum(-1)).sum(),
        confidence=mark + (bins * confidence[:, None]).sum(0),
        correct=mark + (bins * correct[:, None]).sum(0),
    )


def mean_scores(sums: ScoreSums) -> dict[str, jax.Array]:
    """Scores from sums over all examples, as scalar arrays. Without examples each is NaN.

    Accuracy in [0, 1], nll in nats, ece in [0, 1] over 15 bins, brier in [0, 2], and the count as
    int32; `figures.BasicScores` has their definitions.
    """
    return {
        "accuracy": sums.correct.sum() / sums.count,
        "nll": sums.nll / sums.count,
        "ece": jnp.abs(sums.correct - sums.confidence).sum() / sums.count,
        "brier": sums.brier / sums.count,
        "count": jnp.round(sums.count).astype(jnp.int32),
    }
