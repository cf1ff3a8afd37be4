"""Many trainings in one program: `vmap` of the functions that train one, plus placement.

A single training is a list of one.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.engine.compile import as_function, compiler_options, donated, options_for_once
from twostage_jax.engine.epoch import Epoch, make_epoch, shuffle
from twostage_jax.engine.finish import finish_members, lower_finish
from twostage_jax.engine.placement import (
    Placement,
    abstract,
    constrain,
    map_chunks,
    map_members,
    spread,
    take,
)
from twostage_jax.engine.state import TrainState, make_init
from twostage_jax.engine.validation import lower_validation
from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Stage, new_key
from twostage_jax.trees import PyTree

Numbers = Mapping[str, PyTree]
Recipe = Callable[[Numbers], tuple[Stage, optax.GradientTransformation]]


class Axes(NamedTuple):
    """Member axes (0) of a stage, and what its members share (None), as `jax.vmap` takes it.

    Attributes:
        state: axes of a `TrainState`.
        data: axes of the examples, by name.
        order: 0 if each member has its own order of examples.
        validation: axes of the validation examples, by name.
    """

    state: PyTree
    data: dict[str, int | None]
    order: int | None = 0
    validation: Mapping[str, int | None] = {}

    @property
    def params(self) -> PyTree:
        """Axes of the parameters."""
        return self.state.params if isinstance(self.state, TrainState) else self.state


class TrialData(NamedTuple):
    """Examples of all trials, on the host.

    Attributes:
        shared: arrays that all trials train on, by name.
        per_trial: functions of trial numbers `[P]` that return arrays `[P, ...]`, by name.
    """

    shared: Mapping[str, np.ndarray]
    per_trial: Mapping[str, Callable[[np.ndarray], np.ndarray]]

    def __or__(self, other: "TrialData") -> "TrialData":
        """Return the arrays of both."""
        shared = {**self.shared, **other.shared}
        return TrialData(shared, {**self.per_trial, **other.per_trial})

    @property
    def axes(self) -> dict[str, int | None]:
        """0 for arrays that each trial has of its own, and None for shared ones."""
        return {**dict.fromkeys(self.shared), **dict.fromkeys(self.per_trial, 0)}

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the examples of one trial."""
        shapes = {}
        for name, values in self.rows(np.zeros(1, int)).items():
            shape = values.shape if self.axes[name] is None else values.shape[1:]
            shapes[name] = jax.ShapeDtypeStruct(shape, values.dtype)
        return shapes

    def rows(self, trials: np.ndarray) -> dict[str, np.ndarray]:
        """Return all arrays for some trials; shared ones without a trial axis."""
        return {**self.shared, **{name: f(trials) for name, f in self.per_trial.items()}}


def gather(values: np.ndarray, *indices: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of trials `[P]` that takes `values[indices of these trials]`."""

    def rows(trials: np.ndarray) -> np.ndarray:
        return values[tuple(index[trials] for index in indices)]

    return rows


class StagePrograms(NamedTuple):
    """The programs of one stage for the members of a chunk.

    Attributes:
        placement: members on devices.
        axes: what members share.
        init: `(numbers, key, batch, pretrained groups) -> state`.
        epoch: functions of an epoch, with `numbers` before the arguments of `advance` and `finish`
            and the key of member 0 before those of `shuffle`.
        validate: `(numbers, params, validation examples, key) -> metrics`; None without examples.
        watch: the same for the figures of an encoder; None if it is not watched.
        finish: `(numbers, params, images) -> params` of one member, which fixes statistics; None if
            the stage has none.
    """

    placement: Placement
    axes: Axes
    init: Callable[..., TrainState]
    epoch: Epoch
    validate: Callable[..., Metrics] | None = None
    watch: Callable[..., Metrics] | None = None
    finish: Callable[..., Params] | None = None

    @property
    def zeros(self) -> dict[str, np.ndarray]:
        """Initial sums of the metrics of all members."""
        return repeat(self.epoch.zeros, self.placement.members)


def lower_stage(
    recipe: Recipe,
    numbers: Numbers,
    batch: Mapping[str, PyTree],
    pretrained: Params,
    data: Mapping[str, PyTree],
    batch_size: int,
    axes: Axes,
    placement: Placement,
    validation: Mapping[str, PyTree] | None = None,
) -> StagePrograms:
    """Lower the programs of a stage for the members of a chunk, for `compile_all`.

    Args:
        recipe: `numbers -> (stage, optimiser)` of one member.
        numbers: swept numbers of one member, any values.
        batch: a few examples, for `stage.init`.
        pretrained: shapes of the groups of one member that come from another stage.
        data: shapes of the examples of one member.
        batch_size: examples in a step.
        axes: what members share.
        placement: members on devices.
        validation: shapes of the validation examples of one member, if there are any.
    """
    key = jax.eval_shape(new_key)

    def start(numbers: Numbers, key: Key, batch: Batch, pretrained: Params) -> TrainState:
        stage, tx = recipe(numbers)
        return make_init(stage, tx)(key, batch, pretrained)

    init_axes = _init_axes(axes, pretrained)
    arguments = (dict(numbers), key, dict(batch), dict(pretrained))
    init = jax.jit(
        spread(start, placement, init_axes, axes.state), compiler_options=options_for_once()
    )
    lowered = init.lower(*abstract(placement, init_axes, arguments))
    # Shapes of one member: `abstract` adds the member axis.
    state = map_members(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), axes.state, lowered.out_info
    )
    epoch = _lower_epoch(recipe, numbers, state, data, batch_size, axes, placement)
    programs = StagePrograms(placement, axes, as_function(lowered), epoch)
    finish = lower_finish(recipe, numbers, state.params, data["image"])
    if finish is not None:
        programs = programs._replace(finish=as_function(finish))
    if not validation:
        return programs
    validate = lower_validation(
        recipe,
        numbers,
        state.params,
        validation,
        batch_size,
        (0, axes.params, axes.validation, 0),
        placement,
    )
    return programs._replace(validate=as_function(validate))


def _init_axes(axes: Axes, pretrained: Params) -> tuple[PyTree, ...]:
    """Return axes of `(numbers, key, batch, pretrained groups)`."""
    return (0, 0, None, {name: axes.state.params[name] for name in pretrained})


def _lower_epoch(
    recipe: Recipe,
    numbers: Numbers,
    state: TrainState,
    data: Mapping[str, PyTree],
    batch_size: int,
    axes: Axes,
    placement: Placement,
) -> Epoch:
    # Numbers are arguments, not constants: one program serves all points of a sweep.
    place = constrain(placement, batch_size)
    shapes = make_epoch(*recipe(numbers), batch_size, state, data)

    def advance(numbers, state, sums, data, *rest):
        epoch = make_epoch(*recipe(numbers), batch_size, state, data, place, shapes.zeros)
        return epoch.advance(state, sums, data, *rest)

    def finish(numbers, state, sums, data, *rest):
        epoch = make_epoch(*recipe(numbers), batch_size, state, data, place, shapes.zeros)
        return epoch.finish(state, sums, data, *rest)

    size = len(data["image"])
    count = jax.ShapeDtypeStruct((), jnp.int32)
    order, key = jax.eval_shape(lambda: shuffle(new_key(), 0, size))
    arguments = (dict(numbers), state, shapes.zeros, dict(data), order, key)
    in_axes = (0, axes.state, 0, axes.data, axes.order, 0)
    out_axes = (axes.state, 0)
    compiled = partial(jax.jit, compiler_options=compiler_options())
    advance_axes = (*in_axes, None, None)
    lowered_advance = compiled(
        spread(advance, placement, advance_axes, out_axes), donate_argnums=donated(1, 2)
    ).lower(*abstract(placement, advance_axes, (*arguments, count, count)))
    # The means have one entry less than the sums, so the buffers of the sums cannot be reused.
    lowered_finish = compiled(
        spread(finish, placement, in_axes, out_axes), donate_argnums=donated(1)
    ).lower(*abstract(placement, in_axes, arguments))
    return shapes._replace(
        shuffle=_lower_shuffle(
            size, placement, axes.order, bool(jax.config.read("jax_enable_x64"))
        ),
        advance=lowered_advance,
        finish=lowered_finish,
    )


@cache
def _lower_shuffle(
    size: int, placement: Placement, axis: int | None, double: bool
) -> jax.stages.Lowered:
    """Lower `(first, key, number) -> (order, key)`; the order is that of `first` if it is shared.

    Both stages get one object, so `compile_all` compiles it once. `double` is in the signature
    because the program depends on it: True if jax uses float64.
    """
    key = jax.eval_shape(new_key)
    number = jax.ShapeDtypeStruct((), jnp.int32)

    def shuffle_members(first: Key, key: Key, number: jax.Array) -> tuple[jax.Array, Key]:
        order, epoch_key = shuffle(key, number, size)
        if axis is None:
            order, _ = shuffle(first, number, size)
        return order, epoch_key

    in_axes = (None, 0, None)
    program = jax.jit(spread(shuffle_members, placement, in_axes, (axis, 0)))
    return program.lower(*abstract(placement, in_axes, (key, key, number)))


def start_states(
    programs: StagePrograms,
    numbers: Numbers,
    keys: Key,
    batch: Mapping[str, PyTree],
    pretrained: Params,
) -> TrainState:
    """Return the states of all members before their first step, on the host.

    Args:
        programs: compiled.
        numbers: swept numbers, `[M]` each.
        keys: `[M]`.
        batch: a few examples.
        pretrained: groups, `[M, ...]` where members have their own.
    """
    axes = _init_axes(programs.axes, pretrained)
    arguments = (dict(numbers), keys, dict(batch), pretrained)

    def rows(members: np.ndarray) -> PyTree:
        return take(members, axes, arguments)

    return map_chunks(programs.init, programs.placement, axes, rows, programs.axes.state)


def finished_params(
    programs: StagePrograms, numbers: Numbers, params: Params, data: TrialData
) -> Params:
    """Return the parameters of all members with the statistics that evaluation uses, on the host.

    Without statistics, such as those of batch normalisation, these are `params` themselves.

    Args:
        programs: compiled.
        numbers: swept numbers, `[M]` each.
        params: parameters of all members, on the host.
        data: training examples of all members.
    """

    def images(member: np.ndarray) -> np.ndarray:
        shared = data.shared.get("image")
        return data.per_trial["image"](member)[0] if shared is None else shared

    members = programs.placement.members
    return finish_members(programs.finish, programs.axes.params, numbers, params, images, members)


def repeat(zeros: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Return the sums of `count` members."""
    return {name: np.stack([zero] * count) for name, zero in zeros.items()}
