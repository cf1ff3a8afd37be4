"""Whole numbers that decide the shapes of a head."""

import jax
import numpy as np

from twostage_jax.errors import UserError


def check_count(name: str, value: object, least: int, most: int) -> None:
    """Raise `UserError` unless a value is a whole number from `least` to `most`.

    >>> check_count("votes", 10, 1, 100)
    """
    if isinstance(value, jax.Array | np.generic):
        raise UserError(f"cannot sweep {name}: it decides shapes; run once for each value")
    if not isinstance(value, int) or not least <= value <= most:
        raise UserError(f"{name} is {value}: give a whole number from {least} to {most}")
