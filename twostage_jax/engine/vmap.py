"""`vmap` of a training, in chunks that fit, on all devices."""

from collections.abc import Callable
from functools import cache

import jax
import numpy as np
from jax.sharding import Mesh

from twostage_jax.engine.compile import compiler_options, options_for_once
from twostage_jax.engine.memory import Need, choose_chunk
from twostage_jax.engine.placement import (
    MEMBER,
    Placement,
    make_mesh,
    map_chunks,
    map_members,
    spread,
    take,
)
from twostage_jax.errors import UserError
from twostage_jax.trees import PyTree, shapes_of, size_of


def ensemble(
    train: Callable[..., PyTree],
    in_axes: PyTree = (0, None, 0),
    mesh: Mesh | None = None,
    members_per_chunk: int | None = None,
) -> Callable[..., PyTree]:
    """`jax.vmap(train, in_axes)` in chunks that fit, on all devices.

    Args:
        train: pure function of one member, for instance from `make_train`.
        in_axes: as in `jax.vmap`, a tuple with an entry for each argument: 0 if each member has its
            own, None if all share one.
        mesh: devices, from `make_mesh`; by default all of them.
        members_per_chunk: members that train together; by default as memory and cache allow.

    Returns:
        A function of the arguments of `train` whose results are `[M, ...]`, arrays on the host. It
        compiles once for each number of members and shape of arguments, and once for one member,
        to measure its memory.

    Raises:
        UserError: chunks below 1, a member axis that is not the first; (when called) no member
            axis, axes of different lengths, members that do not fit.

    >>> import jax, twostage_jax as ts
    >>> data, stage, tx = ts.load("digits"), ts.placeholder(ts.MLP((8,))), ts.adam(1e-3)
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> states = jax.vmap(lambda key: ts.init_state(stage, tx, key, data.train))(keys)
    >>> states, metrics = ts.ensemble(ts.make_train(stage, tx, 500, 1))(states, data.train, keys)
    >>> metrics["loss"].shape
    (3, 1)
    """
    if any(axis != 0 for axis in jax.tree.leaves(in_axes)):
        raise UserError(f"in_axes {in_axes} has an axis other than 0: put members first")
    if members_per_chunk is not None and members_per_chunk < 1:
        raise UserError(f"members_per_chunk is {members_per_chunk}: it must be at least 1")

    @cache
    def program(placement: Placement) -> Callable[..., PyTree]:
        return jax.jit(spread(train, placement, in_axes), compiler_options=compiler_options())

    # Measuring compiles a program, so it is done once for each signature.
    needs: dict[tuple, Need] = {}

    def call(*arguments: PyTree) -> PyTree:
        count = _count_members(in_axes, arguments)
        leaves, structure = jax.tree.flatten(shapes_of(arguments))
        signature = (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))
        if signature not in needs:
            needs[signature] = _measure(train, in_axes, arguments)
        devices = mesh or make_mesh(count)
        chunk = choose_chunk(needs[signature], count, devices.shape[MEMBER], members_per_chunk)
        placement = Placement(devices, count, chunk)

        def rows(members: np.ndarray) -> PyTree:
            return take(members, in_axes, arguments)

        return map_chunks(program(placement), placement, in_axes, rows)

    return call


def _own_leaves(in_axes: PyTree, arguments: PyTree) -> list[jax.Array]:
    """Return the leaves that have a member axis."""
    leaves: list[jax.Array] = []
    map_members(leaves.append, in_axes, arguments)
    return leaves


def _count_members(in_axes: PyTree, arguments: PyTree) -> int:
    """Return the length of the member axes of arguments.

    Raises:
        UserError: no member axis, or several of different lengths.
    """
    leaves = _own_leaves(in_axes, arguments)
    if not leaves:
        raise UserError(f"in_axes {in_axes} gives no argument a member axis: put a 0 there")
    lengths = sorted({len(leaf) for leaf in leaves})
    if len(lengths) > 1:
        raise UserError(f"member axes have lengths {lengths}: give each argument as many members")
    return lengths[0]


def _measure(train: Callable[..., PyTree], in_axes: PyTree, arguments: PyTree) -> Need:
    """Measure the memory of one member on `train` compiled for one; any function will do."""

    def without_axis(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

    single = map_members(without_axis, in_axes, shapes_of(arguments))
    arguments_size = size_of(_own_leaves(in_axes, single))
    result = size_of(jax.eval_shape(train, *single))
    # Buffers are assigned before code is generated, so the code may be generated in a hurry.
    compiled = jax.jit(train, compiler_options=options_for_once()).lower(*single).compile()
    analysis = compiled.memory_analysis()
    temporary = analysis.temp_size_in_bytes if analysis else arguments_size + result
    return Need(
        state=max(arguments_size, result),
        member=arguments_size + result + temporary,
        common=size_of(single) - arguments_size,
    )
