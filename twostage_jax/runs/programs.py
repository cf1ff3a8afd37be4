"""All programs of a run, compiled at once: both stages, and the encoding pass between them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from twostage_jax.config.fields import check_mesh
from twostage_jax.config.schema import Config
from twostage_jax.data.dataset import TrainingData
from twostage_jax.engine.compile import compile_all
from twostage_jax.engine.members import Axes, Hyper, Members, Recipe, lower_members
from twostage_jax.engine.memory import Need, check_fits, choose_chunk, estimate
from twostage_jax.engine.passes import Encoding, choose_encoding, lower_encoding
from twostage_jax.engine.placement import MEMBER, Placement, constrain, make_mesh
from twostage_jax.engine.state import TrainState, make_init
from twostage_jax.runs.build import Nets, encoder_shapes
from twostage_jax.runs.train import Programs, lower_stage
from twostage_jax.runs.trials import Roster, noisy_labels
from twostage_jax.show.terminal import Terminal
from twostage_jax.stages.freezing import freeze
from twostage_jax.stages.optimiser import adam
from twostage_jax.stages.stage import Stage
from twostage_jax.trees import shapes_of, size_of


class Compiled(NamedTuple):
    """The programs of a run; None stands for what it does without."""

    pretrain: Programs | Members | None
    encoding: Encoding | None
    head: Programs | Members | None


class Setting(NamedTuple):
    """What the programs of a run are made for.

    Attributes:
        config: resolved.
        nets: modules and stages.
        dataset: what training may see of it, on the host.
        roster: who trains.
        noisy: whether each row has labels of its own.
        chunks: of the run that is resumed, by stage.
    """

    config: Config
    nets: Nets
    dataset: TrainingData
    roster: Roster
    noisy: bool
    chunks: Mapping[str, int]


class Job(NamedTuple):
    """What all steps of one run share.

    Attributes:
        setting: what the programs are made for.
        label: `[N]`, or `[R, N]` where rows have their own.
        folder: of the run.
        terminal: where to print.
        programs: compiled.
        every: seconds after which the state is saved in the middle of an epoch.
    """

    setting: Setting
    label: np.ndarray
    folder: Path
    terminal: Terminal
    programs: Compiled
    every: float


class _Stage(NamedTuple):
    """What the programs of one stage are made of; hyper, groups and data are of one member."""

    recipe: Recipe
    hyper: Hyper
    few: Mapping[str, np.ndarray]
    groups: dict[str, Any]
    data: Mapping[str, Any]
    batch_size: int
    axes: Axes


def _stage(setting: Setting, name: str) -> _Stage:
    config, roster = setting.config, setting.roster
    data, groups, axes = shapes_of(dict(setting.dataset.train)), {}, Axes()
    if name == "head":
        encoder = encoder_shapes(setting.nets, setting.dataset.image_shape)
        own, once = len(roster.encoders) > 1, config.head.encode == "once"
        if once:
            features = jax.eval_shape(setting.nets.encode, encoder, as_float(data["image"]))
            data = {**data, "image": features}
        groups, axes = {"encoder": encoder}, head_axes(own, own and once, setting.noisy)
    if "order" in config.share:
        axes = axes._replace(order=None)
    hyper = {field: values[0] for field, values in roster.hyper(name).items()}
    few, size = few_examples(setting.dataset), getattr(config, name).batch_size
    return _Stage(make_recipe(setting, name), hyper, few, groups, data, size, axes)


class Placed(NamedTuple):
    """Where the members of a stage train, and what each needs of a device's memory."""

    placement: Placement
    need: Need


def place_stages(setting: Setting, names: Sequence[str]) -> dict[str, Placed]:
    """How the members of each stage that has some are spread; nothing is compiled for that.

    Raises:
        UserError: a mesh that is not the devices', a stage or members that do not fit into memory.
    """
    config, roster, placed = setting.config, setting.roster, {}
    for name in names:
        count = len(roster.encoders if name == "pretrain" else roster.rows)
        part, need = _stage(setting, name), _need(setting, name)
        check_fits(name, need, count, alone=not roster.stacked(name))
        if not roster.stacked(name):
            continue
        mesh = make_mesh(count, check_mesh(config.mesh))
        given = config.members_per_chunk or setting.chunks.get(name)
        chunk = choose_chunk(need, count, mesh.shape[MEMBER], given)
        placed[name] = Placed(Placement(mesh, count, chunk), need)
        constrain(placed[name].placement, part.batch_size)
    return placed


def _need(setting: Setting, name: str) -> Need:
    part = _stage(setting, name)
    stage, tx = part.recipe(part.hyper)
    state = jax.eval_shape(make_init(stage, tx), jax.random.key(0), part.few, part.groups)
    if not setting.roster.stacked(name):
        # Of one training only what does not fit by far is of interest: no step is traced for it.
        size = size_of(state)
        return Need(size, size + size_of(state.params), size_of(dict(part.data)))
    # No step has more examples than there are.
    batch = min(part.batch_size, len(part.data["label"]))
    return estimate(stage, state, part.data, batch, part.axes)


def compile_run(setting: Setting, names: Sequence[str], placed: Mapping[str, Placed]) -> Compiled:
    """All programs of the stages at once, and of the pass between them."""
    lowered = Compiled(None, None, None)
    for name in names:
        part = _stage(setting, name)
        if name in placed:
            programs: Any = lower_members(*part, placed[name].placement)
        else:
            programs = lower_stage(*part.recipe({}), *part[2:6])
        lowered = lowered._replace(**{name: programs})
    if "head" in names and setting.config.head.encode == "once":
        own = len(setting.roster.encoders) > 1
        encoder = encoder_shapes(setting.nets, setting.dataset.image_shape)
        images = shapes_of(dict(setting.dataset.train))["image"]
        placement = placed["head"].placement if own else None
        encoding = lower_encoding(setting.nets.encode, encoder, images, placement)
        lowered = lowered._replace(encoding=encoding)
    return compile_all(lowered)


def labels_of(setting: Setting) -> np.ndarray:
    """Training labels int32 `[N]`, or `[R, N]` where rows have their own."""
    dataset = setting.dataset
    label, classes = dataset.train["label"], len(dataset.classes)
    return noisy_labels(setting.config, setting.roster, label, classes)


def head_axes(own_encoders: bool, own_images: bool, own_labels: bool) -> Axes:
    """What the members of stage 2 share: the encoder or not, what they train on, the labels."""
    data = {"image": 0 if own_images else None, "label": 0 if own_labels else None}
    own: Any = 0
    groups = {"encoder": own if own_encoders else None, "head": own}
    return Axes(TrainState(groups, own, own), data)


def make_recipe(setting: Setting, name: str) -> Recipe:
    """`hyper -> (stage, optimiser)`; what is not swept is as the config has it."""
    nets, settings = setting.nets, getattr(setting.config, name)
    once = setting.config.head.encode == "once"
    make = nets.pretrain if name == "pretrain" else nets.classify
    if name == "head" and once:
        make = nets.classify_features

    def recipe(hyper: Hyper) -> tuple[Stage, optax.GradientTransformation]:
        given = {"learning_rate": settings.learning_rate, "weight_decay": settings.weight_decay}
        scalars = {field: x for field, x in hyper.items() if field not in given}
        tx = adam(**{**given, **{field: hyper[field] for field in given if field in hyper}})
        return make(**scalars), (freeze(tx, "encoder") if name == "head" else tx)

    return recipe


def settle_encoding(
    config: Config, nets: Nets, dataset: TrainingData, roster: Roster
) -> tuple[Config, str]:
    """`config` with `head.encode` settled, and when the encoder runs, and why, in words.

    It is settled before the config is written, so that a run that is resumed or repeated where
    memory is short computes the same bits.
    """
    images = as_float(dataset.train["image"])
    features = jax.eval_shape(nets.encode, encoder_shapes(nets, dataset.image_shape), images)
    copies = len(roster.rows) if len(roster.encoders) > 1 else 1
    once, words = choose_encoding(config.head.encode, features, copies)
    head = dataclasses.replace(config.head, encode="once" if once else "loop")
    return dataclasses.replace(config, head=head), words


def few_examples(dataset: TrainingData) -> dict[str, np.ndarray]:
    """Two training examples, for what only needs shapes."""
    return {part: values[:2] for part, values in dataset.train.items()}


def as_float(images: Any) -> jax.ShapeDtypeStruct:
    """Shape of images as an encoder sees them."""
    return jax.ShapeDtypeStruct(images.shape, np.float32)
