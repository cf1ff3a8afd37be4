"""The declaration of a field: metavar, check, default by preset and sweepability in one place.

A field is written once, in `schema.py`, as `Annotated[type, *declare(…)]`. Its flag, its help, its
check, its place in the presets and in the table of sweepable scalars are derived from that.
"""

import functools
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from twostage_jax.config.values import Check

# Fields have the type of their resolved value. Before that, None means "not given".
UNSET: Any = None


def as_tuple(value: object) -> object:
    """Convert a list, as JSON has it, into a tuple: configs are hashable."""
    return tuple(value) if isinstance(value, list) else value


def as_path(value: object) -> object:
    """Convert a string into a path."""
    return Path(value) if isinstance(value, str) else value


def as_numbers(value: object) -> object:
    """Convert `NAME=VALUE` texts, a mapping or pairs into `((parameter, number), …)`."""
    return _as_pairs(value, "-", "_", _as_number)


def as_sweep(value: object) -> object:
    """Convert `NAME=V1,V2` texts, a mapping or pairs into `((field, (number, …)), …)`."""
    return _as_pairs(value, "_", "-", _as_values)


def _as_pairs(value: object, old: str, new: str, convert: Callable[[object], object]) -> object:
    if isinstance(value, str):
        value = (value,)
    if isinstance(value, Mapping):
        value = tuple(value.items())
    if not isinstance(value, list | tuple):
        return value
    pairs = []
    for item in value:
        if isinstance(item, str) and "=" in item:
            item = item.split("=", 1)
        if isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str):
            name, content = item
            # Names of parameters have `_`, names of fields `-`; users may write either, or a flag.
            item = (name.strip().removeprefix("--").replace(old, new), convert(content))
        pairs.append(item)
    # tyro gives an empty tuple for a repeatable flag that is absent.
    return tuple(pairs) or None


def _as_values(value: object) -> object:
    if isinstance(value, str):
        value = value.split(",")
    items = value if isinstance(value, list | tuple) else (value,)
    return tuple(map(_as_number, items))


def _as_number(value: object) -> object:
    if not isinstance(value, str | int) or isinstance(value, bool):
        return value
    try:
        # 1 and 1.0 are one value, for the checks of a resumed run too.
        return float(value)
    except (ValueError, OverflowError):
        return value


@dataclass(frozen=True, eq=False)  # hashed by identity: tyro hashes annotations
class Declaration:
    """Declaration of one field.

    Attributes:
        check: Check of a value that is given.
        default: Default value, or one for each preset; None if the field can stay open.
        sweepable: True if the field is a scalar that `--sweep` can vary.
        trained: True if the field only applies to a head that is trained step by step.
        normal: Converts the forms that JSON, Python and the command line use into one form. It
            leaves a malformed value as it is, for `check` to report.
    """

    check: Check
    default: object = None
    sweepable: bool = False
    trained: bool = False
    normal: Callable[[object], object] = as_tuple


def declare(metavar: str, check: Check, hint: str = "", **options: Any) -> tuple[object, ...]:
    """Annotations of a field: its `Declaration`, and its flag for tyro.

    Args:
        metavar: Placeholder for the value in the help text.
        check: Check of a value.
        hint: Default in the help text; derived from `default` if empty.
        options: Other attributes of the `Declaration`.
    """
    declaration = Declaration(check, **options)
    return (declaration, flag(metavar, hint or _words(declaration.default)))


def declare_repeatable(
    metavar: str, check: Check, normal: Callable[[object], object]
) -> tuple[object, ...]:
    """Annotations of a field whose flag takes one text and may be repeated."""
    hint = "(repeatable)"
    argument = tyro.conf.arg(metavar=metavar, help_behavior_hint=hint, constructor=tuple[str, ...])
    return (Declaration(check, normal=normal), argument, tyro.conf.UseAppendAction)


def flag(metavar: str, default: str) -> object:
    """Placeholder and default of a flag, for tyro's help text."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items())
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else f"{value}"


@functools.cache
def declarations(kind: type) -> dict[str, Declaration]:
    """Declarations of the fields of a dataclass, by name."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {
        name: annotation
        for name, hint in hints.items()
        for annotation in getattr(hint, "__metadata__", ())
        if isinstance(annotation, Declaration)
    }


def dotted(name: str, group: str = "") -> str:
    """Name of a field as `--sweep` takes it: `head.learning-rate`."""
    path = f"{group}.{name}" if group else name
    return path.replace("_", "-")


def present(config: object) -> dict[str, Any]:
    """Fields of a configuration that have a value, in their order."""
    return {name: value for name, value in vars(config).items() if value is not None}
