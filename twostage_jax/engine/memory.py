"""Memory that members need on a device, before anything is compiled, and how many of them fit."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import jax

from twostage_jax.engine.compile import donated
from twostage_jax.engine.placement import axis_map
from twostage_jax.engine.state import TrainState
from twostage_jax.errors import UserError
from twostage_jax.stages.freezing import frozen_groups, join_constants, split_constants
from twostage_jax.stages.stage import Params, Stage, as_batch, new_key
from twostage_jax.trees import PyTree, size_of

# On the CPU a member is fastest while its state stays in a core's cache: full pipelines one at a
# time, the blog's heads nineteen. Measured, see docs/ensembles.md.
CACHE = 2 * 2**20
# The allocator and other programs of a run take the rest.
USABLE = 0.8
# Files of a control group: its limit, the used memory, and the unused part of the file cache.
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


def free_bytes() -> int | None:
    """Return the free memory of the first device; None if it is unknown."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return host_bytes()


def host_bytes() -> int | None:
    """Return the free memory of the host, within the limit of its container; None if unknown."""
    rooms = [room for room in (_available(), _container()) if room is not None]
    return min(rooms, default=None)


def _available() -> int | None:
    """Return the memory that Linux can provide, including its caches; None on other systems."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _container(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Return the memory that control groups leave to this process; None without a limit.

    Containers, SLURM jobs and systemd services are such groups, and groups are nested. Both
    versions of the kernel's interface are read.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    rooms = [_group(root, V2), _group(root / "memory", V1)]
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        base = root / "memory" if kinds else root
        group = PurePosixPath(path.lstrip("/"))
        # The limit of any enclosing group counts, too.
        rooms += [_group(base / folder, V1 if kinds else V2) for folder in (group, *group.parents)]
    return min((room for room in rooms if room is not None), default=None)


def _group(folder: Path, names: tuple[str, str, str]) -> int | None:
    """Return the memory below the limit of one control group; None without a limit.

    Files that were read once and are still cached count as used there, but the system drops them
    when memory is needed.
    """
    limit, used, cache = names
    try:
        most = int((folder / limit).read_text())
        total = int((folder / used).read_text())
    except (OSError, ValueError):  # "max"
        return None
    return most - max(0, total - _counter(folder / "memory.stat", cache))


def _counter(file: Path, name: str) -> int:
    """Return a number of `memory.stat`; 0 if it is not there."""
    try:
        counters = dict(line.split() for line in file.read_text().splitlines())
        return int(counters.get(name, 0))
    except (OSError, ValueError):
        return 0


class Need(NamedTuple):
    """Bytes that members need.

    Attributes:
        state: parameters and moments of one member.
        member: everything that one member needs while it trains, including `state`.
        common: arrays that all members of a device share.
    """

    state: int
    member: int
    common: int


def estimate(
    stage: Stage,
    state: TrainState,
    data: Mapping[str, PyTree],
    batch_size: int,
    state_axes: PyTree,
    data_axes: PyTree,
) -> Need:
    """Estimate parameters, moments, gradients, activations, batch, order and data.

    Args:
        stage: stage to train.
        state: shapes of one member.
        data: shapes of the examples of one member.
        batch_size: examples in a step.
        state_axes: groups of the state that members have of their own.
        data_axes: arrays of the data that members have of their own.
    """
    frozen = frozen_groups(state.opt_state)
    variables, constants = split_constants(state.params)
    trained = {name: group for name, group in variables.items() if name not in frozen}
    fixed = {name: variables[name] for name in frozen}
    examples = {
        name: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype) for name, x in data.items()
    }
    batch = jax.eval_shape(as_batch, examples)

    def residuals(
        trained: Params, fixed: Params, constants: Params, batch: Mapping[str, jax.Array]
    ) -> PyTree:
        def loss(trained: Params) -> jax.Array:
            params = join_constants({**trained, **fixed}, constants)
            return stage.loss(params, new_key(), batch)[0]

        return jax.vjp(loss, trained)[1]

    kept = size_of(jax.eval_shape(residuals, trained, fixed, constants, batch))
    # The backward pass also keeps the weights, which are counted already.
    activations = max(0, kept - size_of(state.params))
    shared_state = shared_size(state_axes, state)
    shared_data = shared_size(data_axes, dict(data))
    own_state = size_of(state) - shared_state
    own_data = size_of(dict(data)) - shared_data
    order = 4 * len(data["image"])  # int32
    # Without donation the loop returns another state than the one it was given.
    states = own_state if donated(0) else 2 * own_state
    member = states + own_data + size_of(trained) + activations + size_of(batch) + order
    return Need(own_state, member, shared_state + shared_data)


def shared_size(axes: PyTree, tree: PyTree) -> int:
    """Return the bytes of all arrays without a member axis."""
    sizes = axis_map(lambda axis, part: size_of(part) if axis is None else 0, axes, tree)
    return sum(jax.tree.leaves(sizes))


def choose_chunk(
    need: Need,
    members: int,
    devices: int,
    requested: int | None = None,
    measure: Callable[[], int | None] = free_bytes,
    choose: Callable[[int], int] | None = None,
) -> int:
    """Return the number of members that train together on so many devices along `member`.

    Args:
        need: memory that one member of the stage needs.
        members: number of members.
        devices: devices along the axis `member`.
        requested: number that the user asks for, instead of all that fit.
        measure: returns the free memory in bytes.
        choose: returns the number of members that one device trains together, from the number that
            can (at least 2). By default as many as fit, on the CPU into a core's cache.

    Raises:
        UserError: if the members do not fit, with the number that would.
    """
    free = measure()
    sharing = devices if jax.default_backend() == "cpu" else 1  # these have one memory
    # Members divide among devices, arrays that they share do not.
    room = None if free is None else int(USABLE * free / sharing) - need.common
    fitting = members if room is None else max(0, room // max(1, need.member)) * devices
    if fitting < 1:
        raise UserError(
            f"one member needs {_mb(need.member)} and shared arrays {_mb(need.common)}, but a "
            f"device has {_mb((free or 0) // sharing)} free: use a smaller batch, encoder or data"
        )
    if requested is not None and min(requested, members) > fitting:
        raise UserError(
            f"{requested} members together need {_mb(requested * need.member + need.common)}, but "
            f"{_mb(free or 0)} are free: use --members-per-chunk {fitting} or less"
        )
    if requested is not None:
        return min(requested, members)
    lanes = max(1, CACHE // max(1, need.state)) if jax.default_backend() == "cpu" else fitting
    largest = min(fitting // devices, -(-members // devices))
    if choose is not None and largest > 1:
        lanes = choose(largest)
    most = min(fitting, lanes * devices, members)
    # Chunks of one size, or the last one would compute copies.
    chunks = -(-members // most)
    return min(fitting, -(-members // (chunks * devices)) * devices, members)


def check_states(
    name: str, need: Need, trainings: int, measure: Callable[[], int | None] = host_bytes
) -> None:
    """Raise `UserError` if the states of all trainings do not fit into the host's memory."""
    free = measure()
    size = trainings * need.state
    if free is not None and size > USABLE * free:
        count = "one training" if trainings == 1 else f"{trainings:,} trainings"
        raise UserError(
            f"{name}: the parameters and moments of {count} need {_mb(size)}, but {_mb(free)} are "
            "free: use fewer members or smaller layers"
        )


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
