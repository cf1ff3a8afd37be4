"""Layers of a configuration: the flags on top, then a file or an earlier run, then a preset."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twostage_jax.config.choices import ENCODER_DEFAULTS, ENCODER_FIELDS, NOT_COMPUTED, SOLVED
from twostage_jax.config.fields import OTHER_PRESETS, declarations, dotted, present
from twostage_jax.config.groups import GROUPS, TRAINED
from twostage_jax.config.options import OPTIONS
from twostage_jax.config.reading import READING_FIELDS
from twostage_jax.config.rules import check
from twostage_jax.config.schema import Config
from twostage_jax.config.settings import from_mapping
from twostage_jax.config.sweep import swept
from twostage_jax.errors import UserError

BLOG_SHAPE = (28, 28)  # images of the blog's data set, MNIST
# Fields that another protocol does not inherit.
HEAD_FIELDS = (*TRAINED, *(x.partition(".")[2] for x in OPTIONS if x.startswith("head.")))
# The field that names the function to which the numbers of `set` belong.
FUNCTION_FIELDS = {"pretrain": "objective", "head": "protocol"}


def overlay(config: Config, base: Mapping[str, object]) -> Config:
    """Take every value that is not given from `base`, which `to_dict` or a preset made.

    The numbers of `set` are merged by name. They are not inherited by another objective or
    protocol, and a solved head inherits nothing that only a trained head has.
    """
    values = {**base, **present(config)}
    inherited = Config(sweep=base.get("sweep"))  # pyright: ignore[reportArgumentType]
    # Dicts are equal in any order: a resumed run keeps the order of its points.
    if swept(config) == swept(inherited):
        values["sweep"] = inherited.sweep
    for group in GROUPS:
        # A number that a flag sweeps replaces the value that an earlier run had set.
        varied = [name for name in swept(config) if name.startswith(f"{group}.")]
        values[group] = _overlay_group(getattr(config, group), base.get(group), group, varied)
    return dataclasses.replace(config, **values)


def _overlay_group(top: Any, base: object, group: str, varied: Sequence[str]) -> object:
    inherited = present(from_mapping(GROUPS[group], {} if base is None else base, group))
    values = {**inherited, **present(top)}
    function = FUNCTION_FIELDS[group]
    # A temperature of one objective means nothing, or something else, to another; nor do the steps
    # of one head to a head that may be solved.
    if inherited.get(function) not in (None, values.get(function)):
        for name in ("set", *(HEAD_FIELDS if group == "head" else ())):
            inherited.pop(name, None)
        values = {**inherited, **present(top)}
    # The layer sizes of one encoder do not fit another.
    if inherited.get("encoder") not in (None, values.get("encoder")):
        inherited = {name: x for name, x in inherited.items() if name not in ENCODER_FIELDS}
        values = {**inherited, **present(top)}
    # A flag changes one number and keeps the others.
    numbers = {
        name: value for name, value in inherited.get("set", ()) if dotted(name, group) not in varied
    }
    values["set"] = {**numbers, **dict(top.set or ())}
    if values.get("protocol") in SOLVED:
        # A field that was given stays, so that `check` can refuse it.
        values |= {name: getattr(top, name) for name in TRAINED}
    return dataclasses.replace(top, **values)


def preset_values(preset: str) -> dict[str, object]:
    """Default values of a preset, by field; the groups `pretrain` and `head` are nested."""
    groups = {name: _defaults(kind, preset) for name, kind in GROUPS.items()}
    return {**_defaults(Config, preset), **groups}


def _defaults(kind: type, preset: str) -> dict[str, object]:
    values = {}
    for name, declaration in declarations(kind).items():
        default = declaration.default
        value = default
        if isinstance(default, Mapping):
            value = default[preset] if preset in default else default.get(OTHER_PRESETS)
        # The data supply the others, or they stay open.
        if value is not None:
            values[name] = value
    return values


def resolve(config: Config, image_shape: Sequence[int], validation: int) -> Config:
    """Fill in everything that is not given.

    Args:
        config: Configuration to complete.
        image_shape: Shape `[H, W, C]` of the images, which selects the default preset.
        validation: Number of examples that were set aside for validation.
    """
    preset = config.preset or default_preset(image_shape)
    values: dict[str, Any] = preset_values(preset)
    for group, function in FUNCTION_FIELDS.items():
        # The training settings of a preset apply to any trained head.
        values[group][function] = (
            getattr(getattr(config, group), function) or values[group][function]
        )
    pretrain = values["pretrain"]
    if config.pretrain.select == "probe":
        pretrain["watch"] = "on"
    elif pretrain["objective"] == "placeholder":
        pretrain["watch"] = "off"  # it trains nothing
    encoder = config.pretrain.encoder or values["pretrain"]["encoder"]
    # The layer sizes of a preset belong to its own encoder.
    if encoder != values["pretrain"]["encoder"] or "widths" not in values["pretrain"]:
        values["pretrain"] |= ENCODER_DEFAULTS.get(encoder, ENCODER_DEFAULTS["mlp"])
        values["pretrain"]["encoder"] = encoder
    return overlay(config, values | {"preset": preset, "validation": validation})


def default_preset(image_shape: Sequence[int]) -> str:
    """Preset for images of a shape `[H, W, C]`: `photos` if they are in colour or large.

    >>> default_preset((28, 28, 1)), default_preset((8, 8, 1)), default_preset((28, 28, 3))
    ('blog', 'quick', 'photos')
    """
    height, width, *channels = image_shape
    if max(height, width) > max(BLOG_SHAPE) or channels not in ([], [1]):
        return "photos"
    return "blog" if (height, width) == BLOG_SHAPE else "quick"


def completed(config: Config, image_shape: Sequence[int]) -> Config:
    """Fill in the fields of an earlier run that its version of this package did not have.

    They get the defaults of the run's preset. Fields that only some imported functions need stay
    open; a resolved configuration does not change.

    Args:
        config: Configuration from the manifest of a run.
        image_shape: Shape `[H, W, C]` of the run's images.
    """
    defaults = resolve(config, image_shape, config.validation or 0)
    for group in GROUPS:
        values = getattr(config, group)
        missing = {
            name: value
            for name, value in present(getattr(defaults, group)).items()
            if getattr(values, name) is None
        }
        ignored = ()
        # An imported protocol may be solved; only its import can tell.
        if ":" in (getattr(values, "protocol", None) or ""):
            ignored = TRAINED
        # An imported encoder may have no layer sizes.
        if ":" in (getattr(values, "encoder", None) or ""):
            ignored = ENCODER_FIELDS
        for name in ignored:
            missing.pop(name, None)
        defaults = dataclasses.replace(defaults, **{group: dataclasses.replace(values, **missing)})
    return defaults


def to_dict(config: Config) -> dict[str, object]:
    """Convert a configuration into JSON values: everything that is computed, no output path."""
    values = _as_json(config)
    for name in NOT_COMPUTED:
        del values[name]
    # A run without these settings has the config that earlier versions wrote.
    for name in READING_FIELDS:
        if values.get(name) is None:
            values.pop(name, None)
    values["sweep"] = {name: list(x) for name, x in config.sweep} if config.sweep else None
    for group in GROUPS:
        inner = getattr(config, group)
        values[group] = _as_json(inner) | {"set": dict(inner.set) if inner.set else None}
    return values


def _as_json(config: object) -> dict[str, object]:
    return {name: _plain(value) for name, value in vars(config).items()}


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def from_dict(values: object, where: str, trust_code: bool = False) -> Config:
    """Read the configuration that `to_dict` wrote.

    Args:
        values: Content of a JSON file.
        where: Name of that file, for messages.
        trust_code: True if the file may name code to import. By default it may not: a file from a
            stranger must not run anything.

    Raises:
        UserError: An unknown name, a value of the wrong type or range, or code to import.
    """
    try:
        config = from_mapping(Config, values, "the configuration")
        check(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    # A file from a stranger must not choose where we write.
    for name in NOT_COMPUTED:
        if getattr(config, name):
            raise UserError(f"{where} has the field {name!r}: remove it, and give a flag instead")
    code = imported_names(config)
    if code and not trust_code:
        raise UserError(
            f"{where} imports {' and '.join(code)}: give --trust-code if you trust that code"
        )
    return config


def imported_names(config: Config) -> list[str]:
    """Names `package.module:name` of the code that a configuration imports."""
    stage = config.pretrain
    names = (stage.encoder, stage.objective, config.augment, config.head.protocol)
    return [name for name in names if name and ":" in name]
