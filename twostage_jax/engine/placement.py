"""Members on devices along the axes of a mesh, in chunks of members that train together.

A function of one member is spread over a member axis: split over the devices along the mesh's axis
`member`, and vmapped on each of them. No device ever needs the members of another, so the compiled
program has no communication along that axis.

`axes` are prefixes of trees as `jax.vmap` takes them: 0 if each member has its own array, None if
all members share one.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from twostage_jax.errors import UserError
from twostage_jax.stages.stage import Batch
from twostage_jax.trees import PyTree

MEMBER = "member"
DATA = "data"


class Placement(NamedTuple):
    """Members on devices.

    Attributes:
        mesh: devices along the axes `member` and `data`.
        members: number of members.
        chunk: number of members that train together.
    """

    mesh: Mesh
    members: int
    chunk: int

    @property
    def lanes(self) -> int:
        """Members that train together on one device along `member`."""
        return -(-self.chunk // self.mesh.shape[MEMBER])

    @property
    def width(self) -> int:
        """Length of the member axis in the compiled program; a multiple of the devices."""
        return self.lanes * self.mesh.shape[MEMBER]

    @property
    def pieces(self) -> list[np.ndarray]:
        """Indices of the members of each chunk, int `[at most chunk]` each."""
        return [
            np.arange(start, min(start + self.chunk, self.members))
            for start in range(0, self.members, self.chunk)
        ]


def make_mesh(members: int, axes: Mapping[str, int] | None = None) -> Mesh:
    """Return a mesh of devices along `member` and `data`.

    Args:
        members: number of members.
        axes: sizes. By default, a single member gets the first device. Several members get as many
            devices along `member` as can be busy, and the rest along `data`; on the CPU all devices
            are along `member`.

    Raises:
        UserError: if the product of the sizes is not the number of devices.
    """
    devices = jax.devices()
    if not axes and members == 1:
        # A batch of one training is not split unless the user asks: that changes bits.
        devices = devices[:1]
    count = len(devices)
    sizes = (axes.get(MEMBER, 1), axes.get(DATA, 1)) if axes else _default_sizes(members, count)
    if sizes[0] * sizes[1] != count:
        raise UserError(
            f"--mesh member={sizes[0]},data={sizes[1]} needs {sizes[0] * sizes[1]} devices, but "
            f"there are {count}: make the product {count}"
        )
    # With explicit axes, the gather of a batch inside a scan fails with `ShardingTypeError`.
    auto = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(sizes, (MEMBER, DATA), axis_types=auto, devices=devices)


def _default_sizes(members: int, devices: int) -> tuple[int, int]:
    """Return devices along `member` and `data`."""
    # A CPU's devices are its cores: a batch split over them would change bits, and copies of
    # members cost nothing there.
    if jax.default_backend() == "cpu":
        return devices, 1
    divisors = [n for n in range(1, devices + 1) if devices % n == 0 and n >= members]
    along = min(divisors) if divisors else devices
    return along, devices // along


def axis_map(function: Callable[..., PyTree], axes: PyTree, *trees: PyTree) -> PyTree:
    """Apply `function(axis, *subtrees)` to the subtree below each entry of the prefix `axes`."""
    return jax.tree.map(function, axes, *trees, is_leaf=lambda axis: axis is None)


def map_members(function: Callable[..., PyTree], axes: PyTree, *trees: PyTree) -> PyTree:
    """Apply `function` to leaves with a member axis; take the others from the first tree."""

    def below(axis: int | None, *parts: PyTree) -> PyTree:
        return parts[0] if axis is None else jax.tree.map(function, *parts)

    return axis_map(below, axes, *trees)


def _specs(axes: PyTree) -> PyTree:
    """Return the `PartitionSpec` of each entry of `axes`."""
    return axis_map(lambda axis: P() if axis is None else P(MEMBER), axes)


def spread(
    function: Callable, placement: Placement, axes: PyTree, out_axes: PyTree = 0
) -> Callable:
    """Turn a function of one member into one of `placement.width` members, for `jax.jit`."""

    def local(*arguments: PyTree) -> PyTree:
        if placement.lanes > 1:
            return jax.vmap(function, in_axes=axes, out_axes=out_axes)(*arguments)
        # One lane is computed without `vmap`: XLA is slower with an axis of one.
        result = function(*map_members(lambda x: x[0], axes, arguments))
        return map_members(lambda x: x[None], out_axes, result)

    # Not `vmap` with sharded inputs: the compiler might then move members between devices.
    return jax.shard_map(
        local,
        mesh=placement.mesh,
        in_specs=_specs(axes),
        out_specs=_specs(out_axes),
        axis_names={MEMBER},
        check_vma=False,
    )


def abstract(placement: Placement, axes: PyTree, tree: PyTree) -> PyTree:
    """Return shapes of `placement.width` members, placed, from the shapes of one member."""

    def below(axis: int | None, part: PyTree) -> PyTree:
        leading = () if axis is None else (placement.width,)
        sharding = _sharding(placement, axis)

        def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            shape = (*leading, *leaf.shape)
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

        return jax.tree.map(placed, part)

    return axis_map(below, axes, tree)


def put(placement: Placement, axes: PyTree, tree: PyTree) -> PyTree:
    """Move a tree of `placement.width` members to the devices."""
    return axis_map(lambda axis, part: jax.device_put(part, _sharding(placement, axis)), axes, tree)


def put_everywhere(placement: Placement, data: PyTree) -> PyTree:
    """Move arrays that all members share to every device.

    The devices of a CPU have one memory, which then holds the arrays once.
    """
    if jax.default_backend() == "cpu":
        # jax does not copy an array that is aligned as it wants, on any of the devices.
        data = jax.device_get(jax.device_put(data))
    return put(placement, None, data)


def padded(placement: Placement, piece: np.ndarray) -> np.ndarray:
    """Return the numbers of a chunk's members; the last is repeated up to `placement.width`."""
    return np.concatenate([piece, np.full(placement.width - len(piece), piece[-1])])


def take(rows: np.ndarray | int, axes: PyTree, tree: PyTree) -> PyTree:
    """Take the members with these numbers; shared arrays stay as they are."""

    def take_rows(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf[rows]
        # With `jax_debug_key_reuse`, reading uses up a key, and members are taken repeatedly. The
        # words of keys are taken on the host: on the device, indices compile six small programs.
        words = np.asarray(jax.random.key_data(jax.random.clone(leaf)))
        return jax.random.wrap_key_data(words[rows], impl=jax.random.key_impl(leaf))

    return map_members(take_rows, axes, tree)


def first_members(count: int, axes: PyTree, tree: PyTree) -> PyTree:
    """Return the first `count` members of a tree, on the host."""
    return map_members(lambda leaf: leaf[:count], axes, jax.device_get(tree))


def join_members(axes: PyTree, parts: list[PyTree]) -> PyTree:
    """Concatenate chunks of members on the host; shared arrays are taken from the first chunk."""
    return map_members(lambda *leaves: np.concatenate(leaves), axes, *parts)


def map_chunks(
    function: Callable[..., PyTree],
    placement: Placement,
    axes: PyTree,
    rows: Callable[[np.ndarray], PyTree],
    out_axes: PyTree = 0,
) -> PyTree:
    """Call a function of `placement.width` members on all members, one chunk after the other.

    Args:
        function: compiled function of the members of a chunk.
        placement: members on devices.
        axes: prefix of the arguments.
        rows: returns the arguments of the members with these numbers, on the host.
        out_axes: prefix of the result.

    Returns:
        The results of all members, on the host.
    """
    parts = []
    for piece in placement.pieces:
        chunk = put(placement, axes, rows(padded(placement, piece)))
        # Copies that filled up the last chunk are dropped.
        parts.append(first_members(len(piece), out_axes, function(*chunk)))
    return join_members(out_axes, parts)


def constrain(placement: Placement, batch_size: int) -> Callable[[Batch], Batch]:
    """Return a function that places a batch on the devices along `data`.

    Raises:
        UserError: if the batch size is not a multiple of these devices.
    """
    size = placement.mesh.shape[DATA]
    if batch_size % size:
        raise UserError(
            f"the batch size {batch_size} is not a multiple of data={size}: change --mesh or the "
            "batch size"
        )

    def place(examples: Batch) -> Batch:
        # The remainder of an epoch may not divide; then every device computes all of it.
        if size == 1 or len(examples["image"]) % size:
            return examples
        mesh = jax.sharding.get_abstract_mesh()
        along_data = NamedSharding(mesh, P(DATA))
        return jax.tree.map(
            partial(jax.lax.with_sharding_constraint, shardings=along_data), examples
        )

    return place


def _sharding(placement: Placement, axis: int | None) -> NamedSharding:
    return NamedSharding(placement.mesh, P() if axis is None else P(MEMBER))
