"""Base class of the configurations."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Self, TypeVar

from twostage_jax.config.fields import declarations, present
from twostage_jax.errors import UserError, did_you_mean, shown
from twostage_jax.reprs import html_table

T = TypeVar("T", bound="Settings")


class Settings:
    """Base class of the configurations.

    It brings values into one form and does not check them: tyro would wrap an error in its own
    words. `rules.check` reports malformed values.
    """

    def __new__(cls, *values: object, **fields: object) -> Self:
        """Reject a field that does not exist, and suggest the nearest name.

        Raises:
            UserError: An unknown field.
        """
        names = vars(cls)["__dataclass_fields__"]
        for name in fields:
            if name not in names:
                raise UserError(_unknown_field(cls, name, names))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Bring lists, paths, sweeps and numbers into one form."""
        for name, declaration in declarations(type(self)).items():
            # The dataclass is frozen, and this is its initialisation.
            object.__setattr__(self, name, declaration.normal(getattr(self, name)))

    def __repr__(self) -> str:
        """Show only the fields that are given."""
        parts = []
        for name, value in present(self).items():
            empty_group = isinstance(value, Settings) and not present(value)
            # Switches that are off and stages without values say nothing.
            if value is not False and not empty_group:
                # A sweep may have a thousand values.
                parts.append(f"{name}={value if isinstance(value, Settings) else shown(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def _repr_html_(self) -> str:
        rows = []
        for name, value in present(self).items():
            inner = present(value) if isinstance(value, Settings) else None
            for key, content in ({name: value} if inner is None else inner).items():
                path = name if inner is None else f"{name}.{key}"
                if content is not False:
                    rows.append((path, shown(content)))
        return html_table(type(self).__name__, rows)


def _unknown_field(kind: type, name: str, names: Iterable[str]) -> str:
    """Return the message about a field that does not exist."""
    groups = {
        field.name: field.default_factory
        for field in dataclasses.fields(kind)
        if isinstance(field.default_factory, type)
    }
    owners = [group for group, owner in groups.items() if name in declarations(owner)]
    if owners:
        places = " or ".join(f"{group}={{{name!r}: ...}}" for group in owners)
        return f"{kind.__name__} has no field {name!r}: it is a field of a stage, give {places}"
    return f"{kind.__name__} has no field {name!r}: {did_you_mean(str(name), names)}"


def from_mapping(kind: type[T], values: object, where: str) -> T:
    """Make a configuration from names and values.

    Raises:
        UserError: Not a mapping, or a name that is not a field.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} is {type(values).__name__}: give a mapping of fields to values")
    names = vars(kind())
    for name in values:
        if name not in names:
            raise UserError(
                f"{where} has the unknown field {name!r}: {did_you_mean(str(name), names)}"
            )
    return kind(**values)
