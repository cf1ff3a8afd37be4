"""Many independent computations of one shape, in chunks that are one program each."""

from collections.abc import Callable

import jax
import numpy as np

from twostage_jax.engine.compile import compiler_options
from twostage_jax.trees import PyTree

FLOATS = 8_000_000  # values of a chunk's own data, 32 MB; larger chunks are no faster
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
            name: identifies `function`, whose closures may be made anew for each call.
            function: pure function of one member: `(*rows, *shared)`.
            rows: arrays `[M, ...]`, a row for each member.
            shared: arrays that all members share.
            floats: values that one member holds at least, to choose the chunk.
            together: True for `vmap` over a chunk. False computes its members one after the other
                in one program: for searches that end after as many steps as each needs, and for
                decompositions, whose batched form has come to a standstill on two cores.
        """
        members = len(rows[0])
        chunk = max(1, min(MOST, FLOATS // max(floats, 1), members))
        # `jax.jit` tells shapes apart, but not closures that were made anew.
        key = (name, together)
        if key not in self._programs:
            self._programs[key] = _program(function, together)
        program = self._programs[key]
        shared = tuple(jax.device_put(part) for part in shared)
        parts = []
        for start in range(0, members, chunk):
            # The last member fills up the last chunk, so that one program serves all of them.
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

        # An axis of one member is slower than none.
        if together and len(rows[0]) > 1:
            return jax.vmap(member)(rows)
        return jax.lax.map(member, rows)

    return jax.jit(run, compiler_options=compiler_options())
