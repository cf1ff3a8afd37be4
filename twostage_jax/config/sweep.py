"""Sweeps: the scalars that can be swept, and the points of the grid.

One program trains all points, so only a scalar that can be an array can be swept: some fields of
the configuration, and every number that an objective or head takes by name.
"""

import itertools
from collections.abc import Mapping, Sequence

from twostage_jax.config.fields import declarations, dotted
from twostage_jax.config.groups import GROUPS
from twostage_jax.config.schema import Config

# Names as on the command line, so that messages can be copied from.
DECLARATIONS = {
    dotted(name, group): declaration
    for group, kind in {"": Config, **GROUPS}.items()
    for name, declaration in declarations(kind).items()
}
SWEEPABLE = tuple(name for name, declaration in DECLARATIONS.items() if declaration.sweepable)


def swept(config: Config) -> dict[str, tuple[float, ...]]:
    """Values of each swept scalar, in the order given."""
    return dict(config.sweep or ())


def grid(sweep: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Points of the grid, the last field changing fastest; one empty point without a sweep."""
    return [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]


def point_name(point: Mapping[str, float]) -> str:
    """Text for a point: `head.learning-rate=0.001`."""
    return ", ".join(f"{name}={value:g}" for name, value in point.items())
