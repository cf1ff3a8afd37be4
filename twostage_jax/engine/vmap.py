"""`vmap` of a training, in chunks that fit, on all devices."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
from jax.sharding import Mesh

from twostage_jax.config.fields import check_whole
from twostage_jax.engine.compile import compiler_options, options_for_once
from twostage_jax.engine.members import first_members, join_members
from twostage_jax.engine.memory import Need, choose_chunk
from twostage_jax.engine.placement import MEMBER, Placement, make_mesh, put, spread, take, tree_map
from twostage_jax.errors import UserError
from twostage_jax.trees import shapes_of, size_of


def ensemble(
    train: Callable[..., Any],
    in_axes: Any = (0, None, 0),
    mesh: Mesh | None = None,
    members_per_chunk: int | None = None,
) -> Callable[..., Any]:
    """`jax.vmap(train, in_axes)` in chunks that fit, on all devices.

    Args:
        train: a pure function of one member, for instance of `make_train`.
        in_axes: as `jax.vmap` has it, a tuple with an entry for each argument: 0 where each member
            has its own, None where all share one.
        mesh: devices, of `make_mesh`; by default all of them.
        members_per_chunk: how many train at a time; by default what memory and cache allow.

    Returns:
        A function of the arguments of `train` whose results are `[M, ...]`, arrays of the host. It
        compiles once for each number of members and shape of arguments, and once for one member,
        to see what that needs.

    Raises:
        UserError: chunks below 1, a member axis that is not the first; (when called) no member
            axis, axes of different lengths, members that do not fit.
    """
    if any(axis != 0 for axis in jax.tree.leaves(in_axes)):
        raise UserError(f"in_axes {in_axes} has another axis than 0: put members first")
    if members_per_chunk is not None:
        check_whole("members_per_chunk", members_per_chunk, 1)

    @cache
    def program(placement: Placement) -> Any:
        return jax.jit(spread(train, placement, in_axes), compiler_options=compiler_options())

    needs: dict[Any, Need] = {}

    def call(*args: Any) -> Any:
        count, parts = count_members(in_axes, args), []
        shapes, structure = jax.tree.flatten(shapes_of(args))
        known = (structure, *((x.shape, x.dtype) for x in shapes))
        if known not in needs:
            needs[known] = measure(train, in_axes, args)
        grid = mesh or make_mesh(count)
        chunk = choose_chunk(needs[known], count, grid.shape[MEMBER], members_per_chunk)
        placement = Placement(grid, count, chunk)
        for piece in placement.pieces:
            given = put(placement, in_axes, take(placement, piece, in_axes, args))
            parts.append(first_members(len(piece), 0, program(placement)(*given)))
        return join_members(0, parts)

    return call


def count_members(in_axes: Any, args: Any) -> int:
    """How long the member axes of arguments are.

    Raises:
        UserError: no member axis, or several of different lengths.
    """
    own: list[Any] = []
    tree_map(own.append, in_axes, args)
    if not own:
        raise UserError(f"in_axes {in_axes} gives no argument a member axis: put a 0 there")
    lengths = sorted({len(leaf) for leaf in own})
    if len(lengths) > 1:
        raise UserError(f"member axes are {lengths} long: give each argument as many members")
    return lengths[0]


def measure(train: Callable[..., Any], in_axes: Any, args: Any) -> Need:
    """What one member needs, read off `train` compiled for one; any function will do.

    Args:
        train: of one member.
        in_axes: as `ensemble` takes it.
        args: of all members, or their shapes.
    """
    one = tree_map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), in_axes, shapes_of(args))
    own: list[Any] = []
    tree_map(own.append, in_axes, one)
    given, back = size_of(own), size_of(jax.eval_shape(train, *one))
    # Which buffers there are is settled before code is made, so it may be made in a hurry.
    compiled = jax.jit(train, compiler_options=options_for_once()).lower(*one).compile()
    found = compiled.memory_analysis()
    used = found.temp_size_in_bytes if found else given + back
    return Need(max(given, back), given + back + used, size_of(one) - given)
