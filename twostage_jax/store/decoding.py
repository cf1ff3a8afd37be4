"""Dataclasses from JSON values and back, with one check of types."""

import dataclasses
import functools
import itertools
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from twostage_jax.errors import Corrupted, shown

Record = TypeVar("Record")
T = TypeVar("T")

PLAIN = {
    str: "a text",
    int: "an integer of 64 bits",
    float: "a finite number",
    bool: "true or false",
}
NAMES = {**PLAIN, list: "a list", dict: "an object"}


class _Mismatch(ValueError):
    """A value that does not have its declared type; `path` leads to it from the record."""

    def __init__(self, problem: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path


def decode(kind: type[Record], values: object, where: Path | str) -> Record:
    """Build a dataclass from JSON values.

    Fields can have the types str, int, float, bool, object, `list[T]`, `tuple[T, ...]`,
    `tuple[T, U]`, `dict[str, T]`, dataclasses, and `T | None` of these. An integer is accepted
    where a float is declared. A field may be missing if it has a default. `__post_init__` can raise
    ValueError to reject values.

    Args:
        kind: dataclass.
        values: result of `files.as_json`.
        where: file, for the message.

    Raises:
        Corrupted: if a field is missing, unknown, or has another type; names `where` and the field.
    """
    try:
        return cast(Record, _decode(kind, values))
    except _Mismatch as error:
        field = f"field {shown('.'.join(error.path))}" if error.path else "the content"
        raise Corrupted(f"{where} is corrupted: {field} {error.problem}") from error


def _decode(kind: type, value: object) -> object:
    if kind in PLAIN:
        return _decode_plain(kind, value)
    origin, arguments = _parts(kind)
    if origin in (Union, types.UnionType) and arguments[1:] == (types.NoneType,):
        return None if value is None else _decode(arguments[0], value)
    if origin in (list, tuple):
        items = _expect(list, value)
        fixed = origin is tuple and Ellipsis not in arguments
        kinds = arguments if fixed else arguments[:1] * len(items)
        if len(kinds) != len(items):
            raise _Mismatch(f"is {shown(value)}, expected a list of {len(kinds)} values")
        return origin(map(_decode_item, itertools.count(), kinds, items))
    if origin is dict:
        items = _expect(dict, value)
        return {name: _decode_item(name, arguments[1], item) for name, item in items.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_record(kind, _expect(dict, value))
    if kind is object:
        return value
    raise TypeError(f"{kind} cannot be decoded: use the types that `decode` lists")


@functools.cache  # `typing` is slow, and a checkpoint can contain millions of figures
def _parts(kind: type) -> tuple[Any, tuple[type, ...]]:
    return get_origin(kind), get_args(kind)


def _decode_item(name: object, kind: type, value: object) -> object:
    try:
        return _decode(kind, value)
    except _Mismatch as error:
        # The path is built here, so that it costs nothing for correct values.
        raise _Mismatch(error.problem, (str(name), *error.path)) from error


def _expect(kind: type[T], value: object) -> T:
    if isinstance(value, kind):
        return value
    raise _Mismatch(f"is {shown(value)}, expected {NAMES[kind]}")


def _decode_plain(kind: type, value: Any) -> object:
    if kind is float and type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:  # an integer of hundreds of digits
            number = math.inf
        if math.isfinite(number):
            return number
    # `type` and not `isinstance`, because a bool is an instance of int.
    elif type(value) is kind and (kind is not int or -(2**63) <= value < 2**63):
        return value
    raise _Mismatch(f"is {shown(value)}, expected {NAMES[kind]}")


def _decode_record(kind: type, values: dict[str, object]) -> object:
    hints, required = _layout(kind)
    for name in sorted(values.keys() - hints):
        raise _Mismatch("is unknown", (name,))
    for name in sorted(required - values.keys()):
        raise _Mismatch("is missing", (name,))
    fields = {name: _decode_item(name, hints[name], item) for name, item in values.items()}
    try:
        return kind(**fields)
    except ValueError as error:
        raise _Mismatch(f"is rejected: {error}") from error


@functools.cache  # a checkpoint contains one record for each array and epoch
def _layout(kind: type) -> tuple[dict[str, type], set[str]]:
    """Types of the fields of a dataclass, and the names of the fields without a default."""
    missing = dataclasses.MISSING
    fields = dataclasses.fields(kind)
    required = {field.name for field in fields if field.default is field.default_factory is missing}
    return get_type_hints(kind), required


def encode(value: object) -> Any:
    """Return the JSON value of a dataclass, the inverse of `decode`.

    A field with the default None and the value None is left out.
    """
    if type(value) in PLAIN:  # first, because most values are figures of members
        return value
    if dataclasses.is_dataclass(value):
        fields = {field.name: field.default for field in dataclasses.fields(value)}
        items = {name: getattr(value, name) for name in fields}
        return {
            name: encode(item)
            for name, item in items.items()
            if item is not None or fields[name] is not None
        }
    if isinstance(value, Mapping):
        return {name: encode(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value
