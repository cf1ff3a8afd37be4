"""What a run computes, as frozen dataclasses, and the presets that fill in what is not given.

A value of None means "not given": the command line, a `config.json` and a preset are layers of the
same thing, put on top of each other by `overlay`. The dataclasses are also the flags of the command
line, and the strings under the fields their help.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from twostage_jax.config.fields import (
    check_above_zero,
    check_choice,
    check_from_zero,
    check_mesh,
    check_rows,
    check_text,
    check_whole,
    check_widths,
)
from twostage_jax.config.sweep import parse_sweep
from twostage_jax.data.spec import check_spec
from twostage_jax.errors import UserError, did_you_mean, shown

OBJECTIVES = ("autoencoder", "placeholder")
ENCODERS = ("mlp",)
PROTOCOLS = ("mlp",)
ENCODE = ("auto", "once", "loop")
INITS = ("torch", "lecun")
SHARE = ("encoder", "order")
_ADAM = {"batch_size": 32, "learning_rate": 0.001, "weight_decay": 0.0}


def _recipe(init: str, epochs: int) -> dict[str, Any]:
    pretrain = {"objective": "autoencoder", "encoder": "mlp", "widths": (256, 128)}
    head = {"protocol": "mlp", "encode": "auto", "widths": (64,), "label_smoothing": 0.0}
    return {
        "init": init,
        "pretrain": {**pretrain, "epochs": epochs, **_ADAM},
        "head": {**head, "epochs": epochs, **_ADAM},
    }


PRESETS = {
    # The blog's: 784-256-128, mirrored decoder, 128-64-10, Adam 0.001, batch 32, 5+5 epochs.
    "blog": _recipe("torch", 5),
    # For small sets, where five epochs are a few hundred steps.
    "quick": _recipe("lecun", 20),
}
MEMBERS: dict[str, Any] = {"noise": 0.0, "members": 1, "share": ()}
DEFAULTS: dict[str, Any] = {"data": "digits", "seed": 0, **MEMBERS}
BLOG_SHAPE = (28, 28)
# Fields are typed as what they are once resolved; before that, None stands for "not given".
UNSET: Any = None
T = TypeVar("T")


def flag(metavar: str, hint: str) -> Any:
    """How a flag shows in --help: what it takes, and what stands for its default."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"({hint})")


def by_preset(metavar: str, *path: str) -> Any:
    """`flag` for a value that each preset gives under `path`."""

    def value(preset: dict[str, Any]) -> str:
        for name in path:
            preset = preset[name]
        return " ".join(map(str, preset)) if isinstance(preset, tuple) else str(preset)

    return flag(metavar, ", ".join(f"{name}: {value(p)}" for name, p in PRESETS.items()))


class _ListsAsTuples:
    """A config is hashable and comes from JSON, so lists become tuples."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))


@dataclass(frozen=True)
class PretrainConfig(_ListsAsTuples):
    """Stage 1: an encoder, trained on images without labels."""

    objective: Annotated[str, by_preset("NAME", "pretrain", "objective")] = UNSET
    """what to minimise: autoencoder, placeholder, or package.module:function, which is called with
    encoder and decoder and returns a Stage"""
    encoder: Annotated[str, by_preset("NAME", "pretrain", "encoder")] = UNSET
    """mlp, or package.module:Class, a Linen module that is made without arguments"""
    widths: Annotated[tuple[int, ...], by_preset("INT...", "pretrain", "widths")] = UNSET
    """layers of the encoder; the decoder mirrors them"""
    epochs: Annotated[int, by_preset("INT", "pretrain", "epochs")] = UNSET
    """passes over the training images; 0 leaves the encoder random"""
    batch_size: Annotated[int, by_preset("INT", "pretrain", "batch_size")] = UNSET
    """examples in a step"""
    learning_rate: Annotated[float, by_preset("FLOAT", "pretrain", "learning_rate")] = UNSET
    """step size of Adam"""
    weight_decay: Annotated[float, by_preset("FLOAT", "pretrain", "weight_decay")] = UNSET
    """decoupled, as in AdamW"""


@dataclass(frozen=True)
class HeadConfig(_ListsAsTuples):
    """Stage 2: a head on the frozen encoder."""

    protocol: Annotated[str, by_preset("NAME", "head", "protocol")] = UNSET
    """mlp"""
    encode: Annotated[str, by_preset("NAME", "head", "encode")] = UNSET
    """when the frozen encoder runs: once, before the stage; loop, in every step; or auto: once, if
    the features fit into half of the free memory"""
    widths: Annotated[tuple[int, ...], by_preset("INT...", "head", "widths")] = UNSET
    """hidden layers; none for a linear head"""
    epochs: Annotated[int, by_preset("INT", "head", "epochs")] = UNSET
    """passes over the labelled images"""
    batch_size: Annotated[int, by_preset("INT", "head", "batch_size")] = UNSET
    """examples in a step"""
    learning_rate: Annotated[float, by_preset("FLOAT", "head", "learning_rate")] = UNSET
    """step size of Adam"""
    weight_decay: Annotated[float, by_preset("FLOAT", "head", "weight_decay")] = UNSET
    """decoupled, as in AdamW"""
    label_smoothing: Annotated[float, by_preset("FLOAT", "head", "label_smoothing")] = UNSET
    """share of each label that is spread over all classes"""


@dataclass(frozen=True)
class CommonConfig(_ListsAsTuples):
    """What every command that trains takes."""

    data: Annotated[str, flag("SPEC", "default: digits")] = UNSET
    """digits, mnist, tfds:NAME, idx:DIR or npz:FILE"""
    out: Annotated[Path | None, flag("DIR", "default: runs/DATA-TIME")] = None
    """folder of the run; it must be new or empty"""
    seed: Annotated[int, flag("INT", "default: 0")] = UNSET
    """of initial values and shuffling"""
    validation: Annotated[int, flag("INT", "default: a tenth, at most 5000")] = UNSET
    """examples carved from train; 0 for none"""
    data_dir: Annotated[Path | None, flag("DIR", "default: TFDS's own")] = None
    """where TensorFlow Datasets keeps its data"""

    def __post_init__(self) -> None:
        """Take paths as strings too, and lists as tuples."""
        super().__post_init__()
        for name in ("out", "data_dir"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, Path(getattr(self, name)))


@dataclass(frozen=True)
class MembersConfig(CommonConfig):
    """What every command that trains classifiers takes: how many, and what differs between them."""

    noise: Annotated[float, flag("P", "default: 0")] = UNSET
    """share of training labels flipped to another class"""
    members: Annotated[int, flag("M", "default: 1")] = UNSET
    """trainings in one program; member m is the run with seed + m"""
    share: Annotated[tuple[str, ...], flag("WHAT...", "default: nothing")] = UNSET
    """what members have in common: encoder, of which there is one then; order of examples"""
    sweep: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, flag("NAME=V1,V2,...", "repeatable")
    ] = ()
    """scalar to try values of, with all members each; the choice is made on validation"""
    mesh: Annotated[str, flag("AXIS=N,...", "default: all devices along member")] = UNSET
    """devices along the axes member and data, for instance member=4,data=2"""
    members_per_chunk: Annotated[int, flag("N", "default: as memory and cache allow")] = UNSET
    """members that train at a time"""
    save_predictions: bool = False
    """write predictions-validation.npz and predictions-test.npz"""

    def __post_init__(self) -> None:
        """No sweep is none given."""
        super().__post_init__()
        if self.sweep == ():
            object.__setattr__(self, "sweep", None)


@dataclass(frozen=True)
class Config(MembersConfig):
    """Both stages of a run. What is not given is taken from the preset.

    Attributes:
        preset: `blog` or `quick`; by default `blog` for 28×28 images, else `quick`.
        init: how initial values are drawn, `torch` or `lecun`.
        pretrain: stage 1.
        head: stage 2.
        encoder_run: folder of a run whose encoder takes the place of a stage 1.
    """

    preset: str = UNSET
    init: str = UNSET
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    encoder_run: str | None = None


NOT_COMPUTED = ("out", "save_predictions")  # where and what is written, not what is computed
NESTED = {"pretrain": PretrainConfig, "head": HeadConfig}
# What runs did before a field was there, for a config.json from then.
BEFORE = {
    "pretrain": {"weight_decay": 0.0},
    "head": {"encode": "loop", "weight_decay": 0.0, "label_smoothing": 0.0},
}


def overlay(top: T, base: Mapping[str, Any]) -> T:
    """`top` with every value that is not given taken from `base`, where that has it."""
    values = {}
    for item in dataclasses.fields(top):  # pyright: ignore[reportArgumentType]
        value, below = getattr(top, item.name), base.get(item.name)
        if dataclasses.is_dataclass(value):
            value = overlay(value, below or {})
        values[item.name] = below if value is None else value
    return dataclasses.replace(top, **values)  # pyright: ignore[reportArgumentType]


def resolve(config: Config, image_shape: tuple[int, ...], validation: int) -> Config:
    """`config` with nothing left open, for images `[H, W, C]` and what was carved from train."""
    preset = config.preset or ("blog" if tuple(image_shape[:2]) == BLOG_SHAPE else "quick")
    base = DEFAULTS | PRESETS[preset] | {"preset": preset, "validation": validation}
    return overlay(config, base)


def to_dict(config: Config) -> dict[str, Any]:
    """`config` as `config.json` holds it: all that is computed, not where it is written."""
    values = dataclasses.asdict(config)
    for name in NOT_COMPUTED:
        del values[name]
    values["data_dir"] = str(config.data_dir) if config.data_dir else None
    return values


def from_dict(values: Any, where: str, trust_code: bool = False) -> Config:
    """The `Config` that `to_dict` wrote.

    Raises:
        UserError: unknown names, values of the wrong type or range, and names of code to import
            unless `trust_code`: a file from a stranger must not run anything.
    """
    known: dict[str, Any] = dict(_known(values, Config, where))
    for name, kind in NESTED.items():
        given = known.get(name)
        inner = _known({} if given is None else given, kind, f"{where}, {name}")
        known[name] = kind(**{**BEFORE[name], **inner})
    config = Config(**{**MEMBERS, **known})
    check(config)
    code = imported_names(config)
    if code and not trust_code:
        raise UserError(
            f"{where} imports {' and '.join(code)}: give --trust-code if you trust that code"
        )
    return config


def unresolved(config: Config) -> list[str]:
    """Names of the values that are still open; a config that has been resolved has none."""
    values = dataclasses.asdict(config)
    nested = {f"{stage}.{name}": x for stage in NESTED for name, x in values.pop(stage).items()}
    may_be_none = (*NOT_COMPUTED, "data_dir", "encoder_run", "sweep", "mesh", "members_per_chunk")
    return [
        name for name, x in {**values, **nested}.items() if x is None and name not in may_be_none
    ]


def imported_names(config: Config) -> list[str]:
    """The `package.module:name` that a config would import."""
    names = (config.pretrain.encoder, config.pretrain.objective)
    return [name for name in names if name and ":" in name]


def _known(values: Any, kind: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(values, dict):
        raise UserError(f"{where} holds {type(values).__name__}, not a configuration")
    names = [item.name for item in dataclasses.fields(kind) if item.name not in NOT_COMPUTED]
    for name in values:
        if name not in names:
            raise UserError(f"{where} has the unknown field {name!r}: {did_you_mean(name, names)}")
    return values


def check(config: Config) -> None:
    """Raise `UserError` for the first value of a config, resolved or not, that cannot be."""
    if config.data is not None:
        check_spec(config.data, config.data_dir is not None)
    check_whole("--seed", config.seed, 0)
    check_whole("--validation", config.validation, 0)
    check_choice("preset", config.preset, PRESETS)
    check_choice("init", config.init, INITS)
    check_choice("objective", config.pretrain.objective, OBJECTIVES, imports=True)
    check_choice("encoder", config.pretrain.encoder, ENCODERS, imports=True)
    check_choice("protocol", config.head.protocol, PROTOCOLS)
    check_choice("--head.encode", config.head.encode, ENCODE)
    check_text("encoder_run", config.encoder_run)
    _check_members(config)
    for name in ("out", "data_dir"):
        if not isinstance(getattr(config, name), Path | None):
            raise UserError(f"{name} is {shown(getattr(config, name))}: give a path")
    for name, stage in (("pretrain", config.pretrain), ("head", config.head)):
        check_whole(f"--{name}.epochs", stage.epochs, 0)
        check_whole(f"--{name}.batch-size", stage.batch_size, 1)
        check_widths(f"--{name}.widths", stage.widths, at_least=1 if name == "pretrain" else 0)
        check_above_zero(f"--{name}.learning-rate", stage.learning_rate)
        check_from_zero(f"--{name}.weight-decay", stage.weight_decay)
    check_from_zero("--head.label-smoothing", config.head.label_smoothing, 1)


def _check_members(config: Config) -> None:
    check_from_zero("--noise", config.noise, 1)
    check_whole("--members", config.members, 1)
    check_whole("--members-per-chunk", config.members_per_chunk, 1)
    check_mesh(config.mesh)
    for name in ("share", "sweep"):
        if not isinstance(getattr(config, name), tuple | None):
            raise UserError(f"{name} is {shown(getattr(config, name))}: give a list")
    for name in config.share or ():
        check_choice("--share", name, SHARE)
    fields = swept(config)
    check_rows(config.members, math.prod(map(len, fields.values())))
    if config.validation == 0 and any(len(values) > 1 for values in fields.values()):
        raise UserError(
            "--sweep chooses on the validation part, and --validation is 0: give it examples"
        )
    shared = "encoder" in (config.share or ()) or config.encoder_run
    if shared and (stage_1 := [name for name in fields if name.startswith("pretrain.")]):
        raise UserError(
            f"cannot sweep {stage_1[0]} with one encoder for all: leave out --share encoder, or "
            "sweep a field of the head"
        )


def swept(config: Config) -> dict[str, tuple[float, ...]]:
    """The fields that a config sweeps, with their values."""
    static = [
        f"{stage}.{item.name}".replace("_", "-")
        for stage, kind in NESTED.items()
        for item in dataclasses.fields(kind)
    ]
    static += [item.name.replace("_", "-") for item in dataclasses.fields(Config)]
    return parse_sweep(config.sweep or (), static, config.pretrain.objective)
