"""Sweeps: the scalars that can be swept, and the points of the grid.

One program trains all points, so only a scalar that can be an array can be swept: some fields of
the configuration, and every number that an objective or head takes by name.
"""

import itertools
from collections.abc import Mapping, Sequence

from twostage_jax.config.fields import Declaration, declarations, dotted
from twostage_jax.config.schema import GROUPS, Config


def _declarations() -> dict[str, Declaration]:
    names = {dotted(name): declaration for name, declaration in declarations(Config).items()}
    for group, kind in GROUPS.items():
        for name, declaration in declarations(kind).items():
            names[dotted(name, group)] = declaration
    return names


# Names as on the command line, so that messages can be copied from.
DECLARATIONS = _declarations()
SWEEPABLE = tuple(name for name, declaration in DECLARATIONS.items() if declaration.sweepable)


def swept(config: Config) -> dict[str, tuple[float, ...]]:
    """Values of each swept scalar, in the order given.

    >>> swept(Config(sweep="noise=0,0.1"))
    {'noise': (0.0, 0.1)}
    """
    return dict(config.sweep or ())


def grid(sweep: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Points of the grid, the last field changing fastest; one empty point without a sweep.

    >>> grid({"noise": (0.0, 0.1)})
    [{'noise': 0.0}, {'noise': 0.1}]
    """
    return [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]


def point_name(point: Mapping[str, float]) -> str:
    """Text for a point: `head.learning-rate=0.001`."""
    return ", ".join(f"{name}={value:g}" for name, value in point.items())
