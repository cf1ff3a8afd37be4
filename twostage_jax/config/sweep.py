"""Grids of scalars: what is swept, and the points of the grid.

All points of a sweep are trained by one program, so only what can be an array can be swept.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

from twostage_jax.errors import UserError, did_you_mean

# What a stage or its optimiser takes as a scalar array, with the values it may have: at least,
# less than.
FIELDS = {
    "pretrain.learning-rate": (0.0, math.inf),
    "pretrain.weight-decay": (0.0, math.inf),
    "head.learning-rate": (0.0, math.inf),
    "head.weight-decay": (0.0, math.inf),
    "head.label-smoothing": (0.0, 1.0),
    "noise": (0.0, 1.0),
}


def parse_sweep(
    texts: Sequence[str], static: Sequence[str] = (), objective: str | None = None
) -> dict[str, tuple[float, ...]]:
    """`{name: values}` of texts such as `head.learning-rate=1e-4,1e-3`, in the order given.

    Args:
        texts: one for each field.
        static: names of the other fields, which decide what is compiled.
        objective: a user's own, whose keywords may be swept as `pretrain.KEYWORD`.

    Raises:
        UserError: a text that is not whole, a field that is unknown, static or given twice, a value
            that cannot be.
    """
    found: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, equals, values = str(text).partition("=")
        name = name.strip().removeprefix("--").replace("_", "-")
        if not equals or not values.strip():
            raise UserError(
                f"--sweep {text!r} is not whole: write NAME=V1,V2, for instance "
                "head.learning-rate=1e-4,1e-3"
            )
        _check_name(name, static, objective)
        if name in found:
            raise UserError(f"--sweep {name} is given twice: put all its values into one")
        found[name] = tuple(_value(name, value) for value in values.split(","))
        if len(set(found[name])) < len(found[name]):
            raise UserError(f"--sweep {text!r} has a value twice: give each of them once")
    return found


def _check_name(name: str, static: Sequence[str], objective: str | None) -> None:
    if name in FIELDS:
        return
    if name in static:
        raise UserError(
            f"cannot sweep {name}: it decides what is compiled (shapes, or the length of a loop), "
            f"and all points are one program; run it once per value, or sweep {', '.join(FIELDS)}"
        )
    # The keywords of a user's objective are only known once it is imported; see `make_nets`.
    if objective and ":" in objective and name.startswith("pretrain."):
        return
    raise UserError(f"cannot sweep {name!r}: {did_you_mean(name, FIELDS)}")


def _value(name: str, text: str) -> float:
    least, below = FIELDS.get(name, (-math.inf, math.inf))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # A step of size 0 trains nothing, so it is no point of a sweep.
    if not least <= value < below or (value == 0 and name.endswith("learning-rate")):
        most = "" if below == math.inf else f" and less than {below:g}"
        wanted = "above 0" if name.endswith("learning-rate") else f"of at least {least:g}{most}"
        wanted = "a finite number" if least == -math.inf else f"numbers {wanted}"
        raise UserError(f"--sweep {name} has the value {text!r}: give {wanted}")
    return value


def grid(sweep: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """The points of the grid, the last field changing fastest; one empty point for no sweep."""
    return [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]


def point_name(point: Mapping[str, float]) -> str:
    """A point in words: `head.learning-rate=0.001`."""
    return ", ".join(f"{name}={value:g}" for name, value in point.items())
