"""All programs of a run, compiled together: both stages, the passes between and after them."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
import optax

from twostage_jax.config.fields import parse_mesh
from twostage_jax.config.groups import StageConfig
from twostage_jax.engine.compile import as_function, compile_each
from twostage_jax.engine.members import Recipe, StagePrograms, TrialData, lower_stage
from twostage_jax.engine.memory import Need, check_states, choose_chunk, estimate
from twostage_jax.engine.passes import Pass, lower_pass
from twostage_jax.engine.placement import MEMBER, Placement, constrain, make_mesh
from twostage_jax.engine.predictor import lower_logits, place_passes
from twostage_jax.engine.solve import SolvePrograms, lower_solve
from twostage_jax.engine.speed import Speed, measure_speed
from twostage_jax.engine.state import make_init
from twostage_jax.engine.watch import FIGURES, lower_watch, make_watch
from twostage_jax.errors import UserError
from twostage_jax.runs.abstract import abstract_head_data, abstract_validation, solve_examples
from twostage_jax.runs.examples import (
    pretrain_data,
    with_index,
)
from twostage_jax.runs.handover import FROZEN, head_axes, stage_axes
from twostage_jax.runs.plan import Plan, few_examples
from twostage_jax.runs.prepared import encoded_images, need_prepared
from twostage_jax.runs.specs import batch_spec
from twostage_jax.runs.trials import first_numbers
from twostage_jax.runs.watch import watch_data
from twostage_jax.stages.freezing import freeze
from twostage_jax.stages.optimiser import adam, make_schedule
from twostage_jax.stages.stage import Metrics, Params, Scalar, new_key
from twostage_jax.trees import PyTree, size_of

RATES = ("learning_rate", "weight_decay")


class Placed(NamedTuple):
    """Placement of the members of a stage, the memory that each needs, and a measured choice."""

    placement: Placement
    need: Need
    speed: Speed | None = None


class RunPrograms(NamedTuple):
    """The programs of a run; None if the run does without.

    Attributes:
        pretrain: stage 1.
        encode: features of the frozen encoders.
        head: stage 2, trained or solved.
        logits: predictions of all trials.
        reconstruct: mean squared error of each image, from the groups of stage 1.
        placement: members of stage 2 on devices, for a head with `prepare`; `head` and `logits` are
            then compiled after it.
    """

    pretrain: StagePrograms | None = None
    encode: Pass | None = None
    head: StagePrograms | SolvePrograms | None = None
    logits: Pass | None = None
    reconstruct: Pass | None = None
    placement: Placement | None = None


class _StageParts(NamedTuple):
    """Everything that the programs of one stage are made of, for one member."""

    recipe: Recipe
    numbers: Mapping[str, np.generic]
    batch: Mapping[str, PyTree]
    groups: Params
    data: TrialData
    batch_size: int
    validation: TrialData | None


def _parts(plan: Plan, stage: str) -> _StageParts:
    numbers = first_numbers(plan.numbers(stage))
    batch_size = getattr(plan.config, stage).batch_size
    groups = {}
    if stage == "head":
        groups = {FROZEN: plan.networks.encoder_shapes}
    data = pretrain_data(plan.examples) if stage == "pretrain" else abstract_head_data(plan)
    data = with_index(data, plan.networks.needs_index(stage))
    validation = abstract_validation(plan, stage)
    batch = few_examples(plan.dataset)
    recipe = make_recipe(plan, stage, len(data.shapes["image"]))
    return _StageParts(recipe, numbers, batch, groups, data, batch_size, validation)


def make_recipe(plan: Plan, stage: str, examples: int) -> Recipe:
    """Return `numbers -> (stage, optimiser)`; numbers that are not swept come from the config.

    Args:
        plan: the run.
        stage: `pretrain` or `head`.
        examples: number of training examples of one trial.
    """
    settings = getattr(plan.config, stage)
    make = plan.networks.pretrain
    if stage == "head":
        make = plan.networks.on_features if plan.features_once else plan.networks.attached

    def recipe(numbers: Mapping[str, PyTree]):
        # A swept rate is an array; the others are Python numbers, which XLA can fold.
        rates = {name: numbers.get(name, getattr(settings, name)) for name in RATES}
        tx = make_optimiser(settings, examples, **rates)
        made = make(numbers)
        if made.optimiser is not None:
            tx = made.optimiser(tx)
        if stage == "head" and not plan.networks.tunes_encoder:
            tx = freeze(tx, FROZEN)
        return made, tx

    return recipe


def make_optimiser(
    settings: StageConfig, examples: int, learning_rate: Scalar, weight_decay: Scalar
) -> optax.GradientTransformation:
    """Return the optimiser of a stage that trains on so many examples; rates may be traced."""
    epochs = settings.schedule_epochs or settings.epochs
    steps = epochs * -(-examples // settings.batch_size)
    return adam(
        make_schedule(settings.schedule, learning_rate, steps, settings.warmup),
        b2=settings.beta2,
        weight_decay=weight_decay,
        decay_vectors=settings.decay_on == "all",
    )


def place_stages(plan: Plan) -> dict[str, Placed]:
    """Spread the members of each stage over devices; nothing is compiled for that.

    Raises:
        UserError: a mesh that does not fit the devices, or members that do not fit into memory.
    """
    placed = {}
    for stage in plan.stages:
        count = len(plan.trials.trainings(stage))
        need = _need(plan, stage, count)
        check_states(stage, need, count)
        mesh = make_mesh(count, parse_mesh("--mesh", plan.config.mesh))
        # A resumed run keeps its chunks, so that its bits do not depend on the memory of today.
        requested = plan.config.members_per_chunk or plan.chunks.get(stage)
        speeds: list[Speed] = []

        def choose(lanes: int, stage: str = stage, speeds: list[Speed] = speeds) -> int:
            speeds.append(_measure(plan, stage, lanes))
            return speeds[0].best

        measured = choose if _is_measured(plan, stage) else None
        chunk = choose_chunk(need, count, mesh.shape[MEMBER], requested, choose=measured)
        placed[stage] = Placed(Placement(mesh, count, chunk), need, *speeds)
        if stage == "pretrain" or not plan.networks.solved:
            # Called for its error: the batch must divide before anything is compiled.
            constrain(placed[stage].placement, getattr(plan.config, stage).batch_size)
    return placed


def _is_measured(plan: Plan, stage: str) -> bool:
    """Return True if the members of a stage are placed by measuring their speed.

    All other members only have dense layers. Their rule was measured once.
    """
    encoder = stage == "pretrain" or not (plan.networks.solved or plan.features_once)
    return encoder and plan.config.pretrain.encoder != "mlp"


def _measure(plan: Plan, stage: str, lanes: int) -> Speed:
    parts = _parts(plan, stage)
    training, tx = parts.recipe(parts.numbers)
    state = jax.eval_shape(make_init(training, tx), new_key(), parts.batch, parts.groups)
    size = min(parts.batch_size, len(parts.data.shapes["image"]))
    examples = {
        name: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
        for name, x in parts.data.shapes.items()
    }
    return measure_speed(training, tx, state, examples, lanes)


def _need(plan: Plan, stage: str, members: int) -> Need:
    """Estimate the memory of one of the members."""
    if stage == "head" and plan.networks.solved:
        data = solve_examples(plan)
        if plan.networks.prepared:
            return need_prepared(plan)
        per_trial = sum(size_of(x) for n, x in data.shapes.items() if n in data.per_trial)
        total = size_of(data.shapes)
        head = plan.head_shapes["head"]
        # A solution works on copies of its features.
        return Need(size_of(head), size_of(head) + 2 * total, total - per_trial)
    parts = _parts(plan, stage)
    training, tx = parts.recipe(parts.numbers)
    init = make_init(training, tx)
    state = jax.eval_shape(init, new_key(), parts.batch, parts.groups)
    data = parts.data.shapes
    if members == 1:
        # Its chunk has one member whatever that needs, so no step is traced for an estimate.
        size = size_of(state)
        return Need(size, size + size_of(state.params), size_of(dict(data)))
    axes = stage_axes(plan.config, plan.trials, stage, parts.data)
    # No step has more examples than there are.
    batch_size = min(parts.batch_size, len(data["image"]))
    return estimate(training, state, data, batch_size, axes.state, axes.data)


def compile_run(plan: Plan, placed: Mapping[str, Placed]) -> RunPrograms:
    """Compile all programs of a run at once."""
    programs = {}
    for part in compile_each(_lowered_programs(plan, placed)):
        programs |= part
    return RunPrograms(**programs)


def _lowered_programs(
    plan: Plan, placed: Mapping[str, Placed]
) -> Iterator[dict[str, StagePrograms | SolvePrograms | Pass | Placement | None]]:
    """Lower the programs of a run; the longest compilations come first."""
    # Tracing takes Python's lock, so it is done one by one.
    for stage in plan.stages:
        placement = placed[stage].placement
        if stage == "head" and plan.networks.prepared:
            # Its programs depend on the prepared arrays, and these depend on the features.
            yield {"placement": placement}
            continue
        if stage == "head" and plan.networks.solved:
            yield {stage: _lower_solve(plan, placement)}
            continue
        parts = _parts(plan, stage)
        axes = stage_axes(plan.config, plan.trials, stage, parts.data, parts.validation)
        lowered = lower_stage(
            parts.recipe,
            parts.numbers,
            parts.batch,
            parts.groups,
            parts.data.shapes,
            parts.batch_size,
            axes,
            placement,
            parts.validation.shapes if parts.validation else None,
        )
        if stage == "pretrain" and plan.config.pretrain.watch == "on":
            lowered = lowered._replace(watch=_lower_watch(plan, placement, lowered.validate))
        yield {stage: lowered}
    if "head" in plan.stages:
        # The evaluation is compiled with the rest: later it would be compiled alone, on one core.
        if not plan.networks.prepared:
            yield {"logits": _lower_logits(plan)}
        if plan.features_once:
            yield {"encode": _lower_encode(plan)}
        yield {"reconstruct": _lower_reconstruct(plan)}


def _lower_solve(plan: Plan, placement: Placement) -> SolvePrograms:
    data = solve_examples(plan)
    numbers = first_numbers(plan.head_numbers)
    return lower_solve(plan.networks.head, numbers, data.shapes, data.axes, placement)


def _lower_watch(
    plan: Plan, placement: Placement, validate: Callable[..., Metrics] | None
) -> Callable[..., Metrics]:
    """Lower the figures of the encoder that stage 1 trains.

    Raises:
        UserError: if a metric of the stage has the name of such a figure.
    """
    taken = set(FIGURES) & set(getattr(validate, "out_info", ()))
    if taken:
        raise UserError(
            f"a metric cannot have the name {min(taken)!r} if the encoder is watched: rename it "
            "in the stage, or give --pretrain.watch off"
        )
    networks = plan.networks

    def encode(params: Params, image: jax.Array) -> jax.Array:
        return networks.features(params[FROZEN], image)

    watch = make_watch(encode, networks.classes)

    def watch_with(numbers: Mapping[str, PyTree], params: Params, data: Mapping[str, PyTree]):
        return watch(params, data)

    data = watch_data(plan.examples, plan.trials)
    shapes = jax.eval_shape(
        networks.pretrain({}).init, new_key(), batch_spec(plan.dataset.image_shape)
    )
    numbers = first_numbers(plan.numbers("pretrain"))
    axes = (0, data.axes)
    lowered = lower_watch(watch_with, numbers, shapes, data.shapes, axes, placement)
    return as_function(lowered)


def _lower_encode(plan: Plan) -> Pass:
    return lower_pass(
        plan.networks.features,
        plan.networks.encoder_shapes,
        plan.dataset.image_shape,
        len(encoded_images(plan)),
        place_passes(len(plan.trials.encoders)),
        0,
    )


def _lower_logits(plan: Plan) -> Pass:
    validation = len(plan.dataset.validation["label"])
    shape = plan.dataset.image_shape
    return lower_logits(
        plan.networks.network,
        first_numbers(plan.head_numbers),
        plan.head_shapes,
        head_axes(plan.trials),
        shape,
        # Validation and test share one program.
        max(validation, plan.tested),
        len(plan.trials.heads),
    )


def _lower_reconstruct(plan: Plan) -> Pass | None:
    """Lower the reconstruction error of the encoders that a point of a sweep has."""
    decode = plan.networks.decode
    if decode is None:
        return None

    # One number per image leaves the device, not the decoded images.
    def error(params: Params, image: jax.Array) -> jax.Array:
        squares = (decode(params, image) - image) ** 2
        return squares.reshape(len(image), -1).mean(axis=1)

    init = plan.networks.pretrain({}).init
    shape = plan.dataset.image_shape
    params = jax.eval_shape(init, new_key(), batch_spec(shape))
    largest = max(len(plan.dataset.validation["label"]), plan.tested)
    encoders = len({trial.encoder for trial in plan.trials.heads if trial.point == 0})
    return lower_pass(error, params, shape, largest, place_passes(encoders), 0)
