"""Many independent computations of one shape, in chunks of one program each."""

from collections.abc import Callable

import jax
import numpy as np

from twostage_jax.engine.compile import compiler_options
from twostage_jax.trees import PyTree

FLOATS = 8_000_000  # values of the data of a chunk, 32 MB; larger chunks are no faster
MOST = 128  # members of a chunk


class Parallel:
    """Runs functions of one member for all members; compiles each function and shape once."""

    def __init__(self) -> None:
        self._programs: dict[tuple, Callable[..., PyTree]] = {}

    def map(
        self,
        name: tuple,
        function: Callable[..., PyTree],
        rows: tuple[np.ndarray, ...],
        shared: tuple[np.ndarray, ...],
        floats: int,
        together: bool = True,
    ) -> PyTree:
        """Return the results `[M, ...]` of all members, on the host.

        Args:
            name: name of `function`, so that a new closure of it is not compiled again.
            function: pure function of one member: `(*rows, *shared)`.
            rows: arrays `[M, ...]`, a row for each member.
            shared: arrays that all members share.
            floats: smallest number of values that one member holds, to choose the chunk.
            together: True for `vmap` over a chunk. False computes its members one after the other
                in one program: for searches with a different number of steps for each member,
                and for decompositions: a batch of them once stalled on two cores, and the cause
                is not known.
        """
        members = len(rows[0])
        chunk = max(1, min(MOST, FLOATS // max(floats, 1), members))
        # `jax.jit` compiles once for each shape, but again for each new closure.
        key = (name, together)
        if key not in self._programs:
            self._programs[key] = _program(function, together)
        program = self._programs[key]
        shared = tuple(jax.device_put(part) for part in shared)
        parts = []
        for start in range(0, members, chunk):
            # Copies of the last member pad the last chunk, so that one program serves all chunks.
            numbers = np.minimum(np.arange(start, start + chunk), members - 1)
            results = jax.device_get(program(tuple(part[numbers] for part in rows), shared))
            size = min(chunk, members - start)
            parts.append(jax.tree.map(lambda leaf, size=size: leaf[:size], results))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _program(function: Callable[..., PyTree], together: bool) -> Callable[..., PyTree]:
    """Compile a function of one member for the members of a chunk."""

    def run(rows: tuple, shared: tuple) -> PyTree:
        def member(row: tuple) -> PyTree:
            return function(*row, *shared)

        # An axis of one member is slower than no axis.
        if together and len(rows[0]) > 1:
            return jax.vmap(member)(rows)
        return jax.lax.map(member, rows)

    return jax.jit(run, compiler_options=compiler_options())
