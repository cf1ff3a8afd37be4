"""Where members live: devices along the axes of a mesh, and members that train at a time.

A function of one member is spread over a member axis: split over the devices along the mesh's axis
`member`, vmapped on each of them. No device ever needs another's members, so the compiled program
has no communication along that axis.

`axes` are prefixes of trees as `jax.vmap` takes them: 0 where each member has its own, None where
all share one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from twostage_jax.engine.compile import donated
from twostage_jax.engine.state import TrainState
from twostage_jax.errors import UserError
from twostage_jax.stages.freezing import frozen_groups
from twostage_jax.stages.stage import Stage, as_batch
from twostage_jax.trees import size_of


def free_bytes() -> int | None:
    """Memory that the first device has left; None where nobody says."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return host_bytes()


def host_bytes() -> int | None:
    """Memory that the host has left, within the limit of its container; None where nobody says."""
    rooms = [room for room in (_available(), _container()) if room is not None]
    return min(rooms, default=None)


def _available() -> int | None:
    """What the system can give, its caches included; None but on Linux."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _container() -> int | None:
    """What a container's limit leaves; None where there is none."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / f"memory.{x}").read_text() for x in ("max", "current"))
        return int(limit) - int(used)
    except (OSError, ValueError):  # "max"
        return None


# On the CPU a member is fastest while its state stays in a core's cache: full pipelines one at a
# time, the blog's heads nineteen. Measured, see docs/ensembles.md.
CACHE = 2 * 2**20
# What the allocator and other programs of a run may take.
USABLE = 0.8


class Need(NamedTuple):
    """Bytes.

    Attributes:
        state: parameters and moments of one member.
        member: what one member needs while it trains, `state` included.
        common: what all members of a device share.
    """

    state: int
    member: int
    common: int


def estimate(
    stage: Stage, state: TrainState, data: Mapping[str, Any], batch_size: int, axes: Any
) -> Need:
    """What training needs: parameters, moments, gradients, activations, batch, order and data.

    Args:
        stage: what is trained.
        state: shapes of one member.
        data: shapes of one split.
        batch_size: examples in a step.
        axes: `chunks.Axes`, what members share.
    """
    frozen = frozen_groups(state.opt_state)
    trained = {name: group for name, group in state.params.items() if name not in frozen}
    fixed = {name: state.params[name] for name in frozen}
    examples = {
        name: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype) for name, x in data.items()
    }
    batch = jax.eval_shape(as_batch, examples)

    def residuals(trained: Any, fixed: Any, batch: Any) -> Any:
        def loss(trained: Any) -> Any:
            return stage.loss({**trained, **fixed}, jax.random.key(0), batch)[0]

        return jax.vjp(loss, trained)[1]

    kept = size_of(jax.eval_shape(residuals, trained, fixed, batch))
    # The backward pass holds on to the weights too, which are there already.
    activations = max(0, kept - size_of((trained, fixed)))
    own_state = size_of(state) - shared_size(axes.state, state)
    own_data = size_of(dict(data)) - shared_size(axes.data, dict(data))
    order = 4 * len(data["label"])
    # Where nothing is donated, the loop gives back another state than it was given.
    states = own_state if donated(0) else 2 * own_state
    member = states + own_data + size_of(trained) + activations + size_of(batch) + order
    common = shared_size(axes.state, state) + shared_size(axes.data, dict(data))
    return Need(own_state, member, common)


def shared_size(axes: Any, tree: Any) -> int:
    """Bytes of what has no member axis."""

    def below(axis: Any, part: Any) -> int:
        return size_of(part) if axis is None else 0

    return sum(jax.tree.leaves(jax.tree.map(below, axes, tree, is_leaf=lambda axis: axis is None)))


def choose_chunk(need: Need, members: int, devices: int, given: int | None = None) -> int:
    """How many members train at a time on so many devices along `member`.

    Args:
        need: of the stage.
        members: how many there are.
        devices: along the axis `member`.
        given: what the user wants, instead of what fits.

    Raises:
        UserError: members that do not fit, with how many would.
    """
    free = free_bytes()
    sharing = devices if jax.default_backend() == "cpu" else 1  # these have one memory
    room = None if free is None else int(USABLE * free / sharing) - need.common
    fitting = members if room is None else max(0, room // max(1, need.member)) * devices
    if fitting < 1:
        raise UserError(
            f"one member needs {_mb(need.member)} and what all share {_mb(need.common)}, and a "
            f"device has {_mb((free or 0) // sharing)} free: take a smaller batch, encoder or data"
        )
    if given is not None and min(given, members) > fitting:
        raise UserError(
            f"{given} members at a time need {_mb(given * need.member + need.common)} and "
            f"{_mb(free or 0)} are free: at most --members-per-chunk {fitting} would fit"
        )
    if given is not None:
        return min(given, members)
    lanes = max(1, CACHE // max(1, need.state)) if jax.default_backend() == "cpu" else fitting
    most = min(fitting, lanes * devices, members)
    # Chunks of one size, or the last one would compute copies.
    chunks = -(-members // most)
    return min(fitting, -(-members // (chunks * devices)) * devices, members)


def check_fits(name: str, need: Need, trainings: int, alone: bool) -> None:
    """Raise `UserError` where a stage does not fit into memory; nothing is compiled for that.

    The states of all trainings lie on the host, and one training goes to a device.
    """
    free, host = free_bytes(), host_bytes()
    if host is not None and trainings * need.state > USABLE * host:
        raise UserError(
            f"{name}: the parameters and moments of {_counted(trainings)} need "
            f"{_mb(trainings * need.state)} and {_mb(host)} are free: take fewer members or "
            "smaller layers"
        )
    if alone and free is not None and need.member + need.common > free:
        raise UserError(
            f"{name} needs at least {_mb(need.member + need.common)} and {_mb(free)} are free: "
            "take smaller layers or fewer data"
        )


def _counted(trainings: int) -> str:
    return "one training" if trainings == 1 else f"{trainings:,} trainings"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
