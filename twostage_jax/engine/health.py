"""Where a training has diverged: which metric, which parameter group, which member."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.engine.state import TrainState
from twostage_jax.stages.freezing import frozen_groups
from twostage_jax.trees import tree_leaves


def find_broken(
    state: TrainState, metrics: Mapping[str, Any] | None, members: int | None
) -> dict[str, np.ndarray]:
    """What is no longer finite, and of which members, bool `[M]`, `[1]` for one training alone.

    A gradient that overflows leaves the parameters as they are and makes Adam's moments infinite,
    after which nothing moves any more; so moments count as their group.

    Args:
        state: on the host; leaves of trained groups are `[M, ...]` with members.
        metrics: of an epoch that has just been completed.
        members: how many; None for one training alone.
    """
    trained = set(state.params) - set(frozen_groups(state.opt_state))
    found = {f"its {name}": _broken(values, members) for name, values in (metrics or {}).items()}
    for path, leaf in tree_leaves({"params": state.params, "moments": state.opt_state}).items():
        group = next((part for part in path.split("/") if part in state.params), None)
        # Of jax, because to NumPy bfloat16 is no floating-point type.
        if group in trained and jnp.issubdtype(leaf.dtype, jnp.inexact):
            what = f"group {group}"
            found[what] = found.get(what, False) | _broken(leaf, members)
    return {what: members for what, members in found.items() if members.any()}


def _broken(values: Any, members: int | None) -> np.ndarray:
    finite = np.isfinite(np.asarray(jax.device_get(values)))
    return np.logical_not(finite.reshape(members or 1, -1).all(axis=1))


def any_of(broken: Mapping[str, np.ndarray], members: int | None) -> np.ndarray:
    """Which members have anything that is not finite, bool `[M]`."""
    return np.any([np.zeros(members or 1, bool), *broken.values()], axis=0)


def words(broken: Mapping[str, np.ndarray]) -> str:
    """What is not finite, in words."""
    groups = [what.removeprefix("group ") for what in broken if what.startswith("group ")]
    parts = [what for what in broken if not what.startswith("group ")]
    named = f"the parameters or moments of {' and '.join(sorted(groups))}"
    parts.append(named if groups else "")
    many = "are" if groups or len(parts) > 2 else "is"
    rest = "" if groups else ", all parameters still are"
    return f"{' and '.join(filter(None, parts))} {many} not finite{rest}"
