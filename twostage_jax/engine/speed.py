"""Measured choice between members that train together and members that train one by one."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.engine.compile import compile_all, compiler_options
from twostage_jax.engine.epoch import make_step
from twostage_jax.engine.state import TrainState
from twostage_jax.stages.stage import Batch, Key, Stage, new_key
from twostage_jax.trees import PyTree

STEPS = 2  # steps in one loop, because XLA compiles loops differently
REPEATS = 3


class Speed(NamedTuple):
    """Measured seconds of a step.

    Attributes:
        alone: of one member on one device.
        together: of one member in a `vmap` over `lanes` members.
        lanes: number of members of that `vmap`.
    """

    alone: float
    together: float
    lanes: int

    @property
    def best(self) -> int:
        """Members that one device trains together: `lanes` if that is faster, else 1."""
        return self.lanes if self.together < self.alone else 1

    @property
    def words(self) -> str:
        """The choice and its reason, for the user."""
        way = f"{self.lanes} at a time" if self.best > 1 else "one after the other"
        return (
            f"members of a device train {way}, as measured: a step takes {self.alone:.2g} s for "
            f"one member, and {self.together:.2g} s per member for {self.lanes} together"
        )


def measure_speed(
    stage: Stage,
    tx: optax.GradientTransformation,
    state: TrainState,
    examples: Mapping[str, jax.ShapeDtypeStruct],
    lanes: int,
) -> Speed:
    """Time a step of one member, and of `lanes` members under `vmap`, on the first device.

    Args:
        stage: stage to train.
        tx: its optimiser.
        state: shapes of the state of one member.
        examples: shapes of the examples of one step.
        lanes: number of members, at least 2.
    """
    step = make_step(stage, tx)

    def train(state: TrainState, key: Key, examples: Batch) -> TrainState:
        def body(index: jax.Array, state: TrainState) -> TrainState:
            return step(state, jax.random.fold_in(key, index), examples)[0]

        return jax.lax.fori_loop(0, STEPS, body, state)

    def many(states: TrainState, keys: Key, examples: Batch) -> TrainState:
        return jax.vmap(train, (0, 0, None))(states, keys, examples)

    keys = jax.random.split(new_key(), lanes)
    batch = _values(dict(examples))
    single = (_values(state), keys[0], batch)
    all_lanes = (_values(_repeated(state, lanes)), keys, batch)
    options = compiler_options()
    lowered = (
        jax.jit(train, compiler_options=options).lower(*single),
        jax.jit(many, compiler_options=options).lower(*all_lanes),
    )
    programs = compile_all(lowered)
    alone = _seconds(programs[0], single) / STEPS
    together = _seconds(programs[1], all_lanes) / (STEPS * lanes)
    return Speed(alone, together, lanes)


def _seconds(program: PyTree, arguments: tuple[PyTree, ...]) -> float:
    """Return the shortest time of a few calls; the first call is not timed."""
    placed = jax.device_put(arguments)
    times = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(program(*placed))
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _repeated(tree: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), tree)


def _values(tree: PyTree) -> PyTree:
    """Return arrays of these shapes, of small positive numbers; denormal numbers would be slow."""
    random = np.random.default_rng(0)

    def values(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return random.uniform(0.01, 0.05, leaf.shape).astype(leaf.dtype)
        return np.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(values, tree)
