"""Many independent computations: in chunks of one program each, or several programs at once."""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TypeVar

import jax
import numpy as np

from twostage_jax.engine.compile import compiler_options, cores
from twostage_jax.trees import PyTree

T = TypeVar("T")

FLOATS = 8_000_000  # values of the data of a chunk, 32 MB; larger chunks are no faster
MOST = 128  # members of a chunk
THREADS = 8  # largest number of members at once, to limit the memory


class Parallel:
    """Runs functions of one member for all members; compiles each function and shape once."""

    def __init__(self) -> None:
        self._programs: dict[tuple, Callable[..., PyTree]] = {}

    def program(self, name: tuple, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Return the compiled `function`; of a name, only the first function is compiled."""
        if name not in self._programs:
            program = jax.jit(function, compiler_options=compiler_options())
            self._programs[name] = _compiled_once(program)
        return self._programs[name]

    def map(
        self,
        name: tuple,
        function: Callable[..., PyTree],
        rows: tuple[np.ndarray, ...],
        shared: tuple[PyTree, ...],
        floats: int,
    ) -> PyTree:
        """Return the results `[M, ...]` of all members, on the host.

        Args:
            name: name of `function`, so that a new closure of it is not compiled again.
            function: pure function of one member: `(*rows, *shared)`.
            rows: arrays `[M, ...]`, a row for each member.
            shared: trees of arrays that all members share.
            floats: smallest number of values that one member holds, to choose the chunk.
        """
        members = len(rows[0])
        chunk = max(1, min(MOST, FLOATS // max(floats, 1), members))
        # `jax.jit` compiles once for each shape, but again for each new closure.
        if name not in self._programs:
            self._programs[name] = _program(function)
        program = self._programs[name]
        shared = tuple(jax.device_put(part) for part in shared)
        parts = []
        for start in range(0, members, chunk):
            # Copies of the last member pad the last chunk, so that one program serves all chunks.
            numbers = np.minimum(np.arange(start, start + chunk), members - 1)
            results = jax.device_get(program(tuple(part[numbers] for part in rows), shared))
            size = min(chunk, members - start)
            parts.append(jax.tree.map(lambda leaf, size=size: leaf[:size], results))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _program(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Compile a function of one member for the members of a chunk."""

    def run(rows: tuple, shared: tuple) -> PyTree:
        def member(row: tuple) -> PyTree:
            return function(*row, *shared)

        # An axis of one member is slower than no axis.
        if len(rows[0]) > 1:
            return jax.vmap(member)(rows)
        return jax.lax.map(member, rows)

    return jax.jit(run, compiler_options=compiler_options())


def _compiled_once(program: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Return a program whose first call, which compiles it, is made by one thread alone."""
    lock = threading.Lock()
    called = threading.Event()

    def call(*arguments: PyTree) -> PyTree:
        if called.is_set():
            return program(*arguments)
        with lock:
            result = program(*arguments)
            called.set()
        return result

    return call


def side_by_side(function: Callable[[int], T], members: int) -> list[T]:
    """Return the results of `function(number)` of all members, one thread for each core.

    Programs of small arrays do not keep all cores busy. The results do not depend on the threads.
    If the call is interrupted, members that have not started are left out.
    """
    stopped = threading.Event()

    def run(number: int) -> T:
        if stopped.is_set():
            raise CancelledError
        return function(number)

    with ThreadPoolExecutor(min(cores(), THREADS, members)) as pool:
        futures = [pool.submit(run, number) for number in range(members)]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stopped.set()
            raise
