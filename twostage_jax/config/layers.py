"""Layers of a configuration: the flags on top, then a file or an earlier run, then a preset."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from twostage_jax.config.fields import declarations, present
from twostage_jax.config.presets import preset_for, preset_values
from twostage_jax.config.rules import check
from twostage_jax.config.schema import (
    GROUPS,
    NOT_COMPUTED,
    PROTOCOLS,
    SOLVED,
    Config,
    HeadConfig,
    from_mapping,
)
from twostage_jax.errors import UserError

# The field that names the function to which the numbers of `set` belong.
FUNCTION_FIELDS = {"pretrain": "objective", "head": "protocol"}


def overlay(config: Config, base: Mapping[str, object]) -> Config:
    """Take every value that is not given from `base`, which `to_dict` or a preset made.

    The numbers of `set` are merged by name. They are not inherited by another objective or
    protocol, and a solved head inherits nothing that only a trained head has.
    """
    values = {**base, **present(config)}
    inherited = Config(sweep=base.get("sweep"))  # pyright: ignore[reportArgumentType]
    if dict(config.sweep or ()) == dict(inherited.sweep or ()):
        # A resumed run keeps its order of points, whatever the order on the command line.
        values["sweep"] = inherited.sweep
    for group in GROUPS:
        values[group] = _overlay_group(getattr(config, group), base.get(group), group)
    return dataclasses.replace(config, **values)


def _overlay_group(top: Any, base: object, group: str) -> object:
    inherited = present(from_mapping(GROUPS[group], {} if base is None else base, group))
    values = {**inherited, **present(top)}
    function = FUNCTION_FIELDS[group]
    if inherited.get(function) not in (None, values.get(function)):
        inherited.pop("set", None)
    # A flag changes one number and keeps the others.
    values["set"] = {**dict(inherited.get("set", ())), **dict(top.set or ())}
    if values.get("protocol") in SOLVED:
        # A field that was given stays, so that `check` can refuse it.
        values |= {name: getattr(top, name) for name in trained_fields()}
    return dataclasses.replace(top, **values)


def trained_fields() -> list[str]:
    """Fields of `HeadConfig` that only apply to a head that is trained step by step."""
    return [name for name, declaration in declarations(HeadConfig).items() if declaration.trained]


def resolve(config: Config, image_shape: Sequence[int], validation: int) -> Config:
    """Fill in everything that is not given.

    Args:
        config: Configuration to complete.
        image_shape: Shape `[H, W, C]` of the images, which selects the default preset.
        validation: Number of examples that were set aside for validation.

    >>> resolve(Config(), (28, 28, 1), 5000).preset
    'blog'
    """
    preset = config.preset or preset_for(image_shape)
    return overlay(config, preset_values(preset) | {"preset": preset, "validation": validation})


def to_dict(config: Config) -> dict[str, object]:
    """Convert a configuration into JSON values: everything that is computed, no output path.

    >>> to_dict(Config(head={"set": "k=5"}))["head"]["set"]
    {'k': 5.0}
    """
    values = _as_json(config)
    for name in NOT_COMPUTED:
        del values[name]
    values["data_dir"] = str(config.data_dir) if config.data_dir else None
    values["sweep"] = {name: list(x) for name, x in config.sweep} if config.sweep else None
    for group in GROUPS:
        inner = getattr(config, group)
        values[group] = _as_json(inner) | {"set": dict(inner.set) if inner.set else None}
    return values


def _as_json(config: Any) -> dict[str, object]:
    values = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    return {name: list(x) if isinstance(x, tuple) else x for name, x in values.items()}


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
    if not isinstance(values, Mapping):
        raise UserError(f"{where} holds {type(values).__name__}: give a mapping of fields")
    groups = {}
    for name, kind in GROUPS.items():
        inner = values.get(name)
        groups[name] = from_mapping(kind, {} if inner is None else inner, f"{name} in {where}")
    # A file from a stranger must not choose where we write.
    for name in NOT_COMPUTED:
        if name in values:
            raise UserError(f"{where} has the field {name!r}: remove it, and give a flag instead")
    # The groups first: their messages then name the file.
    config = from_mapping(Config, {**values, **groups}, where)
    check(config)
    code = imported_names(config)
    if code and not trust_code:
        raise UserError(
            f"{where} imports {' and '.join(code)}: give --trust-code if you trust that code"
        )
    return config


def unresolved(config: Config) -> list[str]:
    """Names of the fields that are still open; empty for a resolved configuration."""
    missing = _missing(config, "")
    for group in GROUPS:
        missing += _missing(getattr(config, group), f"{group}.")
    # Only a built-in trained head is sure to need these.
    if config.head.protocol in SOLVED or config.head.protocol not in PROTOCOLS:
        optional = [f"head.{name}" for name in trained_fields()]
        missing = [name for name in missing if name not in optional]
    return missing


def _missing(values: object, prefix: str) -> list[str]:
    return [
        f"{prefix}{name}"
        for name, declaration in declarations(type(values)).items()
        if getattr(values, name) is None and not declaration.optional
    ]


def imported_names(config: Config) -> list[str]:
    """Names `package.module:name` of the code that a configuration imports."""
    names = (config.pretrain.encoder, config.pretrain.objective, config.head.protocol)
    return [name for name in names if name and ":" in name]
