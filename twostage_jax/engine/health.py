"""Trainings that have diverged: which metric, which parameter group, which member."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.engine.state import TrainState
from twostage_jax.stages.freezing import frozen_groups, split_constants
from twostage_jax.trees import PyTree, tree_leaves


def find_diverged(
    state: TrainState, metrics: Mapping[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """Return masks bool `[M]` of members with values that are not finite, by metric or group.

    A gradient that overflows leaves the parameters as they are and makes Adam's moments infinite;
    nothing changes from then on. So moments count as a part of their group.

    Args:
        state: states of all members; leaves of trained groups are `[M, ...]`.
        metrics: metrics `[M]` of an epoch that has just been completed.
    """
    trained = set(state.params) - set(frozen_groups(state.opt_state))
    masks = {f"its {name}": _not_finite(values) for name, values in (metrics or {}).items()}
    # A constant may be infinite, such as a mask of an attention.
    variables, _ = split_constants(state.params)
    for path, leaf in tree_leaves({"params": variables, "moments": state.opt_state}).items():
        group = next((part for part in path.split("/") if part in state.params), None)
        # From jax, because NumPy does not count bfloat16 as a floating-point type.
        if group in trained and jnp.issubdtype(leaf.dtype, jnp.inexact):
            name = f"group {group}"
            masks[name] = masks.get(name, False) | _not_finite(leaf)
    return {name: mask for name, mask in masks.items() if mask.any()}


def _not_finite(values: PyTree) -> np.ndarray:
    finite = np.isfinite(np.asarray(jax.device_get(values)))
    return np.array([not values.all() for values in finite])


def any_diverged(masks: Mapping[str, np.ndarray], members: int) -> np.ndarray:
    """Return a mask bool `[M]` of members with anything that is not finite."""
    diverged = np.zeros(members, bool)
    for mask in masks.values():
        diverged |= mask
    return diverged


def describe_diverged(masks: Mapping[str, np.ndarray]) -> str:
    """Describe in words the values that are not finite."""
    groups = sorted(name.removeprefix("group ") for name in masks if name.startswith("group "))
    parts = [name for name in masks if not name.startswith("group ")]
    if groups:
        parts.append(f"the parameters or moments of {' and '.join(groups)}")
    verb = "are" if groups or len(parts) > 1 else "is"
    rest = "" if groups else ", all parameters still are"
    return f"{' and '.join(parts)} {verb} not finite{rest}"
