"""Accuracies that measure features: linear probe and nearest neighbours."""

import jax
import jax.numpy as jnp

from twostage_jax.stages.heads.neighbours import knn
from twostage_jax.stages.heads.solved import ridge
from twostage_jax.stages.stage import Batch, Head, new_key

NEIGHBOURS = 20  # fewer vote if a class has fewer labelled examples


def probe_accuracy(batch: Batch, classes: int) -> jax.Array:
    """Return the validation accuracy of `ridge`, in [0, 1].

    The strength of `ridge` is chosen on the same validation examples, so the accuracy is the best
    of thirteen values and slightly too high. Use it to compare encoders.

    Args:
        batch: as `Head.solve` takes it: labelled features, and validation features.
        classes: number of classes K.

    >>> image = jnp.array([[-1.0], [1.0]])
    >>> batch = {"image": image, "label": jnp.array([0, 1]), "weight": jnp.ones(2)}
    >>> batch |= {"validation_image": image, "validation_label": batch["label"]}
    >>> float(jax.jit(probe_accuracy, static_argnums=1)(batch, 2))
    1.0
    """
    return _accuracy(ridge(classes), batch)


def neighbour_accuracy(batch: Batch, classes: int) -> jax.Array:
    """Return the validation accuracy of `knn`, in [0, 1].

    20 neighbours vote, or fewer if a class has fewer labelled examples on average.

    Args:
        batch: as `Head.solve` takes it: labelled features, and validation features.
        classes: number of classes K.
    """
    k = max(1, min(NEIGHBOURS, len(batch["label"]) // classes))
    return _accuracy(knn(classes, k), batch)


def _accuracy(head: Head, batch: Batch) -> jax.Array:
    assert head.solve is not None
    params = head.solve(new_key(), batch)  # neither head uses its key
    logits = head.logits(params, batch["validation_image"])
    right = logits.argmax(-1) == batch["validation_label"]
    # `argmax` of NaN would be class 0, and the neighbours of NaN are arbitrary.
    finite = jnp.isfinite(batch["image"]).all() & jnp.isfinite(batch["validation_image"]).all()
    return jnp.where(finite & ~jnp.isnan(logits).any(), right.mean(), jnp.nan)
