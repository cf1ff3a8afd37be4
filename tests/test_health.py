"""What has diverged is found in every type of number that parameters may have."""

import jax.numpy as jnp
import numpy as np
import pytest

from twostage_jax.engine.health import find_broken
from twostage_jax.engine.state import TrainState


@pytest.mark.parametrize("kind", [np.float32, np.float16, jnp.bfloat16, jnp.float8_e4m3fn])
@pytest.mark.parametrize("place", ["params", "moments"])
def test_a_value_that_is_not_finite_is_found_in_any_type(kind, place):
    values = {name: np.ones((2, 3), kind) for name in ("params", "moments")}
    count = np.zeros(2, np.int32)

    def found():
        params = {"head": {"w": values["params"]}}
        state = TrainState(params, {"mu": {"head": {"w": values["moments"]}}, "n": count}, count)
        return {what: list(members) for what, members in find_broken(state, None, 2).items()}

    assert found() == {}
    values[place][1, 2] = np.nan
    assert found() == {"group head": [False, True]}
