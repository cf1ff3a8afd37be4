"""Many independent computations of one shape: in chunks, under `vmap`."""

from collections.abc import Callable

import jax
import numpy as np

from twostage_jax.engine.compile import compiler_options
from twostage_jax.engine.placement import (
    Placement,
    make_mesh,
    map_chunks,
    put_everywhere,
    spread,
    take,
)
from twostage_jax.trees import PyTree

FLOATS = 8_000_000  # values of a chunk's own data on a device, 32 MB; larger chunks are no faster
MOST = 128  # members of a chunk on a device


class Parallel:
    """Runs functions of one member for all members; compiles each function and shape once."""

    def __init__(self) -> None:
        self._programs: dict[tuple, Callable[..., PyTree]] = {}

    def map(
        self,
        name: tuple,
        function: Callable[..., PyTree],
        axes: tuple,
        arguments: tuple,
        members: int,
        floats: int,
    ) -> PyTree:
        """Return the results `[M, ...]` of all members, on the host.

        Args:
            name: identifies `function`, whose closures may be made anew for each call.
            function: pure function of one member.
            axes: for each argument, 0 if members have their own, None if they share it.
            arguments: arrays `[M, ...]`, or shared.
            members: number of members M.
            floats: values that one member holds at least, to choose the chunk.
        """
        # One device: solved heads spread over two CPU devices have come to a standstill.
        mesh = make_mesh(1)
        lanes = max(1, min(MOST, FLOATS // max(floats, 1)))
        chunk = min(members, lanes)
        placement = Placement(mesh, members, chunk)
        # Shared arrays are moved once, not with every chunk.
        arguments = tuple(
            put_everywhere(placement, part) if axis is None else part
            for axis, part in zip(axes, arguments, strict=True)
        )

        def rows(numbers: np.ndarray) -> PyTree:
            return take(numbers, axes, arguments)

        # `jax.jit` tells shapes apart, but not closures that were made anew.
        key = (name, placement.width)
        if key not in self._programs:
            program = spread(function, placement, axes)
            self._programs[key] = jax.jit(program, compiler_options=compiler_options())
        return map_chunks(self._programs[key], placement, axes, rows)
