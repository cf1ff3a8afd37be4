"""All programs of a run, compiled at once: both stages, and the encoding pass between them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from twostage_jax.compilation import compile_all
from twostage_jax.config import Config
from twostage_jax.data import Dataset
from twostage_jax.encoding import Encoding, choose_encoding, lower_encoding
from twostage_jax.ensemble import Axes, Hyper, Members, Recipe, lower_members
from twostage_jax.members import Roster
from twostage_jax.memory import choose_chunk, estimate
from twostage_jax.networks import Nets, encoder_shapes
from twostage_jax.optimiser import adam
from twostage_jax.placement import MEMBER, Placement, make_mesh
from twostage_jax.stage import Stage, TrainState, freeze, make_init
from twostage_jax.terminal import Terminal
from twostage_jax.training import Programs, lower_stage
from twostage_jax.validate import check_mesh


class Compiled(NamedTuple):
    """The programs of a run; None stands for what it does without."""

    pretrain: Programs | Members | None
    encoding: Encoding | None
    head: Programs | Members | None

    @property
    def members(self) -> dict[str, Members]:
        """The stages that train members."""
        stages = {"pretrain": self.pretrain, "head": self.head}
        return {name: x for name, x in stages.items() if isinstance(x, Members)}

    @property
    def chunks(self) -> dict[str, int]:
        """How many members train at a time, by stage."""
        return {name: x.placement.chunk for name, x in self.members.items()}


class Setting(NamedTuple):
    """What the programs of a run are made for.

    Attributes:
        config: resolved.
        nets: modules and stages.
        dataset: on the host.
        roster: who trains.
        noisy: whether each row has labels of its own.
        chunks: of the run that is resumed, by stage.
    """

    config: Config
    nets: Nets
    dataset: Dataset
    roster: Roster
    noisy: bool
    chunks: Mapping[str, int]


class Job(NamedTuple):
    """What all steps of one run share; `label` is `[N]`, or `[R, N]` where rows have their own."""

    config: Config
    dataset: Dataset
    nets: Nets
    roster: Roster
    label: np.ndarray
    folder: Path
    terminal: Terminal
    programs: Compiled


def compile_run(setting: Setting, with_pretrain: bool, with_head: bool) -> Compiled:
    """All programs of the run at once, both stages and the pass between them."""
    lowered = Compiled(None, None, None)
    data = shapes_of(setting.dataset.train)
    if with_pretrain:
        lowered = lowered._replace(pretrain=_lower(setting, "pretrain", {}, data, Axes()))
    if with_head:
        encoder = encoder_shapes(setting.nets, setting.dataset.image_shape)
        own = len(setting.roster.encoders) > 1
        once = setting.config.head.encode == "once"
        if once:
            features = jax.eval_shape(setting.nets.encode, encoder, as_float(data["image"]))
            data = {**data, "image": features}
        axes = head_axes(own, own and once, setting.noisy)
        if "order" in setting.config.share:
            axes = axes._replace(order=None)
        head = _lower(setting, "head", {"encoder": encoder}, data, axes)
        lowered = lowered._replace(head=head)
        if once:
            placement = head.placement if own and isinstance(head, Members) else None
            images = shapes_of(setting.dataset.train)["image"]
            encoding = lower_encoding(setting.nets.encode, encoder, images, placement)
            lowered = lowered._replace(encoding=encoding)
    return compile_all(lowered)


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


def _lower(setting: Setting, name: str, pretrained: Any, data: Any, axes: Axes) -> Any:
    config, roster = setting.config, setting.roster
    recipe, few = make_recipe(setting, name), few_examples(setting.dataset)
    size = getattr(config, name).batch_size
    count = len(roster.encoders if name == "pretrain" else roster.rows)
    hyper = {field: values[0] for field, values in roster.hyper(name).items()}
    if not roster.stacked(name):
        return lower_stage(*recipe({}), few, pretrained, data, size)
    if name == "pretrain" and "order" in config.share:
        axes = axes._replace(order=None)
    mesh = make_mesh(count, check_mesh(config.mesh))
    stage, tx = recipe(hyper)
    state = jax.eval_shape(make_init(stage, tx), jax.random.key(0), few, pretrained)
    need = estimate(stage, state, data, size, axes)
    given = config.members_per_chunk or setting.chunks.get(name)
    chunk = choose_chunk(need, count, mesh.shape[MEMBER], given)
    placement = Placement(mesh, count, chunk)
    members = lower_members(recipe, hyper, few, pretrained, data, size, placement, axes)
    return members._replace(need=need)


def settle_encoding(
    config: Config, nets: Nets, dataset: Dataset, roster: Roster
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


def few_examples(dataset: Dataset) -> dict[str, np.ndarray]:
    """Two training examples, for what only needs shapes."""
    return {part: values[:2] for part, values in dataset.train.items()}


def shapes_of(split: Any) -> Any:
    """Shapes and types of a split."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(split))


def as_float(images: Any) -> jax.ShapeDtypeStruct:
    """Shape of images as an encoder sees them."""
    return jax.ShapeDtypeStruct(images.shape, np.float32)
