"""Where members live: devices along the axes of a mesh, and members that train at a time.

A function of one member is spread over a member axis: split over the devices along the mesh's axis
`member`, vmapped on each of them. No device ever needs another's members, so the compiled program
has no communication along that axis.

`axes` are prefixes of trees as `jax.vmap` takes them: 0 where each member has its own, None where
all share one.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from twostage_jax.errors import UserError

MEMBER, DATA = "member", "data"


class Placement(NamedTuple):
    """How `members` are spread.

    Attributes:
        mesh: devices along the axes `member` and `data`.
        members: how many there are in all.
        chunk: how many train at a time.
    """

    mesh: Mesh
    members: int
    chunk: int

    @property
    def lanes(self) -> int:
        """Members at a time on one device along `member`."""
        return -(-self.chunk // self.mesh.shape[MEMBER])

    @property
    def width(self) -> int:
        """Length of the member axis in the compiled program, so that it divides over devices."""
        return self.lanes * self.mesh.shape[MEMBER]

    @property
    def pieces(self) -> list[np.ndarray]:
        """Indices of the members that train at a time, int `[at most chunk]` each."""
        return [
            np.arange(start, min(start + self.chunk, self.members))
            for start in range(0, self.members, self.chunk)
        ]


def make_mesh(members: int, axes: Mapping[str, int] | None = None) -> Mesh:
    """Devices along `member` and `data`.

    Args:
        members: how many there are.
        axes: sizes; by default as many devices along `member` as can be busy, the rest along
            `data`; on the CPU all of them along `member`.

    Raises:
        UserError: sizes whose product is not the number of devices.
    """
    devices = jax.device_count()
    if not axes:
        # A CPU's devices are its cores: a batch split over them would change bits, and copies of
        # members cost nothing there.
        spread_out = jax.default_backend() != "cpu"
        sizes_of = range(1, devices + 1) if spread_out else ()
        fitting = [n for n in sizes_of if devices % n == 0 and n >= members]
        along = min(fitting) if fitting else devices
        axes = {MEMBER: along, DATA: devices // along}
    sizes = (axes.get(MEMBER, 1), axes.get(DATA, 1))
    if sizes[0] * sizes[1] != devices:
        raise UserError(
            f"--mesh member={sizes[0]},data={sizes[1]} asks for {sizes[0] * sizes[1]} devices and "
            f"there are {devices}: make the product {devices}"
        )
    return jax.make_mesh(sizes, (MEMBER, DATA), axis_types=(AxisType.Auto, AxisType.Auto))


def tree_map(f: Callable[[Any], Any], axes: Any, tree: Any) -> Any:
    """`tree` with `f` applied to the leaves of which each member has its own."""

    def below(axis: Any, part: Any) -> Any:
        return part if axis is None else jax.tree.map(f, part)

    return jax.tree.map(below, axes, tree, is_leaf=lambda axis: axis is None)


def specs(axes: Any) -> Any:
    """The `PartitionSpec`s that go with `axes`."""
    return jax.tree.map(
        lambda axis: P() if axis is None else P(MEMBER), axes, is_leaf=lambda axis: axis is None
    )


def spread(f: Callable, placement: Placement, axes: Any, out_axes: Any = 0) -> Callable:
    """`f` of one member as a function of `placement.width` members, to be compiled by `jax.jit`."""

    def local(*args: Any) -> Any:
        if placement.lanes > 1:
            return jax.vmap(f, in_axes=axes, out_axes=out_axes)(*args)
        # A member alone is computed as such: XLA makes a poor job of an axis of one.
        out = f(*tree_map(lambda x: x[0], axes, args))
        return tree_map(lambda x: x[None], out_axes, out)

    return jax.shard_map(
        local,
        mesh=placement.mesh,
        in_specs=specs(axes),
        out_specs=specs(out_axes),
        axis_names={MEMBER},
        check_vma=False,
    )


def abstract(placement: Placement, axes: Any, tree: Any) -> Any:
    """Shapes of `placement.width` members, placed, from the shapes of one."""
    shape, whole = (placement.width,), _sharding(placement, P())

    def own(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = _sharding(placement, P(MEMBER))
        return jax.ShapeDtypeStruct((*shape, *leaf.shape), leaf.dtype, sharding=sharding)

    def common(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)

    def below(axis: Any, part: Any) -> Any:
        return jax.tree.map(common if axis is None else own, part)

    return jax.tree.map(below, axes, tree, is_leaf=lambda axis: axis is None)


def put(placement: Placement, axes: Any, tree: Any) -> Any:
    """A tree that is `placement.width` members long, on the devices."""

    def below(axis: Any, part: Any) -> Any:
        return jax.device_put(part, _sharding(placement, P() if axis is None else P(MEMBER)))

    return jax.tree.map(below, axes, tree, is_leaf=lambda axis: axis is None)


def put_everywhere(placement: Placement, data: Any) -> Any:
    """Arrays that all members share, on every device.

    The devices of a CPU have one memory, and there the arrays lie in it once.
    """
    if jax.default_backend() == "cpu":
        # What is aligned as jax aligns it is taken as it is, by each device.
        data = jax.device_get(jax.device_put(data))
    return put(placement, None, data)


def take(placement: Placement, piece: np.ndarray, axes: Any, tree: Any) -> Any:
    """The members of a piece, made up to `placement.width` with copies of its last one."""
    rows = np.concatenate([piece, np.full(placement.width - len(piece), piece[-1])])
    return tree_map(lambda leaf: leaf[rows], axes, tree)


def constrain(placement: Placement, batch_size: int) -> Callable[[Any], Any]:
    """Lays a batch over the devices along `data`.

    Raises:
        UserError: batches that do not divide over them.
    """
    size = placement.mesh.shape[DATA]
    if batch_size % size:
        raise UserError(
            f"batches of {batch_size} do not divide over data={size}: give a --mesh or a batch "
            "size that does"
        )

    def lay(examples: Any) -> Any:
        # What is left over at the end of an epoch may not divide; every device computes it then.
        if size == 1 or len(examples["label"]) % size:
            return examples
        mesh = jax.sharding.get_abstract_mesh()
        place = partial(jax.lax.with_sharding_constraint, shardings=NamedSharding(mesh, P(DATA)))
        return jax.tree.map(place, examples)

    return lay


def _sharding(placement: Placement, spec: P) -> NamedSharding:
    return NamedSharding(placement.mesh, spec)
