"""Labels of a loss: labels of weight 0, and labels outside of the classes."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from twostage_jax.errors import UserError


def class_labels(label: jax.Array, weight: jax.Array, classes: int) -> jax.Array:
    """Return labels int32 `[N]` for a cross-entropy that ignores examples of weight 0.

    An example of weight 0 gets label 0. Any other label out of range becomes `classes`, so that
    Optax's cross-entropy is NaN (it would read -1 as the last class).

    Args:
        label: int32 `[N]`.
        weight: float32 `[N]`.
        classes: number of classes K.

    >>> class_labels(jnp.array([2, 255, -1]), jnp.array([1.0, 0.0, 1.0]), 3).tolist()
    [2, 0, 3]
    """
    is_class = (label >= 0) & (label < classes)
    return jnp.where(weight == 0, 0, jnp.where(is_class, label, classes))


def check_labels(label: jax.Array, weight: jax.Array, classes: int) -> None:
    """Raise `UserError` for a label out of range with a weight; traced labels are not checked."""
    if isinstance(label, Tracer) or isinstance(weight, Tracer):
        return
    counted = np.asarray(label)[np.asarray(weight) != 0]
    wrong = counted[(counted < 0) | (counted >= classes)]
    if wrong.size:
        raise UserError(
            f"{wrong.size} of {counted.size} labels are out of range for a head with {classes} "
            f"outputs, for instance {wrong[0]}: give classes 0 to {classes - 1}, weight 0 to "
            "examples without a class, or a head with more outputs"
        )
