"""What a run computes, as frozen dataclasses, and the presets that fill in what is not given.

A value of None means "not given": the command line, a `config.json` and a preset are layers of the
same thing, put on top of each other by `overlay`. The dataclasses are also the flags of the command
line, and the strings under the fields their help.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from twostage_jax.errors import UserError, did_you_mean

OBJECTIVES = ("autoencoder", "placeholder")
ENCODERS = ("mlp",)
PROTOCOLS = ("mlp",)
ENCODE = ("auto", "once", "loop")
INITS = ("torch", "lecun")
_ADAM = {"batch_size": 32, "learning_rate": 0.001}


def _recipe(init: str, epochs: int) -> dict[str, Any]:
    pretrain = {"objective": "autoencoder", "encoder": "mlp", "widths": (256, 128)}
    head = {"protocol": "mlp", "encode": "auto", "widths": (64,)}
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
SPECS = ("digits", "mnist", "tfds:NAME", "idx:DIR", "npz:FILE")
DEFAULTS: dict[str, Any] = {"data": "digits", "seed": 0}
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


class _WidthsAsTuple:
    """A config is hashable and comes from JSON, so lists of widths become tuples."""

    widths: Any

    def __post_init__(self) -> None:
        if isinstance(self.widths, list):
            object.__setattr__(self, "widths", tuple(self.widths))


@dataclass(frozen=True)
class PretrainConfig(_WidthsAsTuple):
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


@dataclass(frozen=True)
class HeadConfig(_WidthsAsTuple):
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


@dataclass(frozen=True)
class CommonConfig:
    """What every command that trains takes."""

    data: Annotated[str, flag("SPEC", "default: digits")] = UNSET
    """digits, mnist, tfds:NAME, idx:DIR or npz:FILE"""
    out: Annotated[Path | None, flag("DIR", "default: runs/DATA-TIME")] = None
    """folder of the run; nothing in it is ever overwritten"""
    seed: Annotated[int, flag("INT", "default: 0")] = UNSET
    """of initial values and shuffling"""
    validation: Annotated[int, flag("INT", "default: a tenth, at most 5000")] = UNSET
    """examples carved from train; 0 for none"""
    data_dir: Annotated[Path | None, flag("DIR", "default: TFDS's own")] = None
    """where TensorFlow Datasets keeps its data"""

    def __post_init__(self) -> None:
        """Take paths as strings too."""
        for name in ("out", "data_dir"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, Path(getattr(self, name)))


@dataclass(frozen=True)
class Config(CommonConfig):
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


NESTED = {"pretrain": PretrainConfig, "head": HeadConfig}
# What runs did before a field was there, for a config.json from then.
BEFORE = {"pretrain": {}, "head": {"encode": "loop"}}


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
    del values["out"]
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
        inner = _known(known.get(name) or {}, kind, f"{where}, {name}")
        known[name] = kind(**{**BEFORE[name], **inner})
    config = Config(**known)
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
    may_be_none = ("out", "data_dir", "encoder_run")
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
    names = [item.name for item in dataclasses.fields(kind) if item.name != "out"]
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
    _choice("preset", config.preset, PRESETS)
    _choice("init", config.init, INITS)
    _choice("objective", config.pretrain.objective, OBJECTIVES, imports=True)
    _choice("encoder", config.pretrain.encoder, ENCODERS, imports=True)
    _choice("protocol", config.head.protocol, PROTOCOLS)
    _choice("--head.encode", config.head.encode, ENCODE)
    _text("encoder_run", config.encoder_run)
    for name in ("out", "data_dir"):
        if not isinstance(getattr(config, name), Path | None):
            raise UserError(f"{name} is {getattr(config, name)!r}: give a path")
    for name, stage in (("pretrain", config.pretrain), ("head", config.head)):
        check_whole(f"--{name}.epochs", stage.epochs, 0)
        check_whole(f"--{name}.batch-size", stage.batch_size, 1)
        _widths(f"--{name}.widths", stage.widths, at_least=1 if name == "pretrain" else 0)
        _positive(f"--{name}.learning-rate", stage.learning_rate)


def check_spec(spec: Any, with_data_dir: bool = False) -> None:
    """Raise `UserError` where `spec` names no kind of source; nothing is read."""
    kind, colon, rest = str(spec).partition(":")
    names = {name.partition(":")[0]: name for name in SPECS}
    if kind not in names:
        raise UserError(f"unknown source {spec!r}: {did_you_mean(kind, SPECS)}")
    if bool(rest) != (":" in names[kind]) or (colon and not rest):
        raise UserError(f"--data {spec!r} is not whole: write {names[kind]}")
    if with_data_dir and kind not in ("mnist", "tfds"):
        raise UserError(
            f"--data-dir goes with mnist and tfds:NAME, not with {spec!r}: leave it out"
        )


def _text(flag: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise UserError(f"{flag} is {value!r}: give text")


def check_whole(flag: str, value: Any, least: int) -> None:
    """Raise `UserError` where a value that is given is no whole number of at least `least`."""
    if value is not None and (type(value) is not int or not least <= value < 2**31):
        raise UserError(f"{flag} is {value!r}: give a whole number of at least {least}")


def _positive(flag: str, value: Any) -> None:
    if value is None:
        return
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise UserError(f"{flag} is {value!r}: give a number above 0, for instance 0.001")


def _widths(flag: str, value: Any, at_least: int) -> None:
    if value is None:
        return
    if not isinstance(value, tuple) or len(value) < at_least:
        raise UserError(f"{flag} is {value!r}: give the sizes of the layers, for instance 256 128")
    for width in value:
        check_whole(flag, width, 1)


def _choice(kind: str, value: Any, names: Collection[str], imports: bool = False) -> None:
    if value is None or (isinstance(value, str) and value in names):
        return
    if imports and isinstance(value, str) and ":" in value:
        return
    also = ", or package.module:name" if imports else ""
    raise UserError(f"unknown {kind} {value!r}: {did_you_mean(str(value), names)}{also}")
