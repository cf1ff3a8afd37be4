"""Dataclasses from JSON values and back, with one check of types."""

import dataclasses
import functools
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from twostage_jax.errors import Corrupted, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Record = TypeVar("Record", bound=DataclassInstance)
else:
    Record = TypeVar("Record")

NAMES = {
    str: "a text",
    int: "an integer of 64 bits",
    float: "a finite number",
    bool: "true or false",
    types.NoneType: "null",
}


class _Mismatch(ValueError):
    """A value that does not have its declared type; `path` is the field's path inside a record."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path

    def inside(self, name: object) -> "_Mismatch":
        return _Mismatch(self.problem, f"{name}.{self.path}" if self.path else f"{name}")


def decode(kind: type[Record], values: object, where: Path | str) -> Record:
    """Build a dataclass from JSON values.

    Fields can have the types str, int, float, bool, None, object, `list[T]`, `tuple[T, ...]`,
    `tuple[T, U]`, `dict[str, T]`, unions of these, and dataclasses. An integer is accepted where a
    float is declared. A field may be missing if it has a default. `__post_init__` can raise
    ValueError to reject values.

    A class with the static methods `flatten(values)` and `unflatten(values)` changes the layout of
    its own JSON object.

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
        field = f"field {shown(error.path)}" if error.path else "the content"
        raise Corrupted(f"{where} is corrupted: {field} {error.problem}") from error


def _decode(kind: type, value: object) -> object:
    if kind is object:
        return value
    if kind in NAMES:
        return _decode_plain(kind, value)
    if dataclasses.is_dataclass(kind):
        return _decode_record(kind, value)
    origin = get_origin(kind)
    arguments = get_args(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value)
    if origin is list:
        return _decode_items(arguments[0], value)
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(_decode_items(arguments[0], value))
    if origin is tuple:
        return _decode_tuple(arguments, value)
    if origin is dict:
        return _decode_dict(arguments[1], value)
    raise TypeError(f"{kind} cannot be decoded: use the types that `decode` lists")


def _decode_plain(kind: type, value: object) -> object:
    if kind is float and type(value) in (int, float):
        try:
            number = float(value)  # type: ignore[arg-type]
        except OverflowError:  # an integer of hundreds of digits
            number = math.inf
        if math.isfinite(number):
            return number
    # `type` and not `isinstance`, because a bool is an instance of int.
    elif type(value) is kind and (kind is not int or -(2**63) <= value < 2**63):  # type: ignore[operator]
        return value
    raise _Mismatch(f"is {shown(value)}, expected {NAMES[kind]}")


def _decode_union(kinds: tuple[type, ...], value: object) -> object:
    if value is None and types.NoneType in kinds:
        return None
    mismatch = _Mismatch("is null")
    for kind in kinds:
        if kind is not types.NoneType:
            try:
                return _decode(kind, value)
            except _Mismatch as error:
                mismatch = error
    raise mismatch


def _decode_items(kind: type, value: object) -> list[object]:
    if not isinstance(value, list):
        raise _Mismatch(f"is {shown(value)}, expected a list")
    items = []
    for index, item in enumerate(value):
        try:
            items.append(_decode(kind, item))
        except _Mismatch as error:
            raise error.inside(index) from error
    return items


def _decode_tuple(kinds: tuple[type, ...], value: object) -> tuple[object, ...]:
    if not isinstance(value, list) or len(value) != len(kinds):
        raise _Mismatch(f"is {shown(value)}, expected a list of {len(kinds)} values")
    return tuple(map(_decode, kinds, value))


def _decode_dict(kind: type, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _Mismatch(f"is {shown(value)}, expected an object")
    items = {}
    for name, item in value.items():
        try:
            items[name] = _decode(kind, item)
        except _Mismatch as error:
            raise error.inside(name) from error
    return items


def _decode_record(kind: type, value: object) -> object:
    if not isinstance(value, dict):
        raise _Mismatch(f"is {shown(value)}, expected an object")
    unflatten = getattr(kind, "unflatten", dict)
    fields: dict[str, object] = unflatten(value)
    hints, required = _layout(kind)
    for name in sorted(fields.keys() - hints):
        raise _Mismatch("is unknown", name)
    for name in sorted(required - fields.keys()):
        raise _Mismatch("is missing", name)
    for name, item in fields.items():
        try:
            fields[name] = _decode(hints[name], item)
        except _Mismatch as error:
            raise error.inside(name) from error
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


def encode(record: "DataclassInstance") -> dict[str, object]:
    """Return the JSON object of a dataclass, the inverse of `decode`.

    A field with the default None and the value None is left out.
    """
    values = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if value is not None or field.default is not None:
            values[field.name] = _encode(value)
    flatten = getattr(record, "flatten", None)
    return flatten(values) if flatten else values


def _encode(value: object) -> object:
    if type(value) in NAMES:  # first, because most values are figures of members
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return encode(value)
    if isinstance(value, Mapping):
        return {name: _encode(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    return value
