"""Sweeps: the scalars that can be swept, and the points of the grid.

One program trains all points, so only a scalar that can be an array can be swept: some fields of
the configuration, and every number that an objective or head takes by name.
"""

import itertools
from collections.abc import Mapping, Sequence

from twostage_jax.config.fields import Setting, dotted, settings_of
from twostage_jax.config.schema import GROUPS, Config


def _declared() -> dict[str, Setting]:
    names = {dotted(name): declared for name, declared in settings_of(Config).items()}
    for group, kind in GROUPS.items():
        for name, declared in settings_of(kind).items():
            names[dotted(name, group)] = declared
    return names


DECLARED = _declared()
SWEEPABLE = tuple(name for name, declared in DECLARED.items() if declared.sweepable)


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
