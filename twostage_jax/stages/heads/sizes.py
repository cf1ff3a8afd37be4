"""Assumptions about the sizes of the classes."""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from twostage_jax.errors import UserError, shown

ClassSizes: TypeAlias = str | Sequence[float]
NAMES = ("equal", "labels", "free")


def parse_sizes(class_sizes: ClassSizes, classes: int) -> str | tuple[float, ...]:
    """Return `equal`, `labels`, `free`, or the shares of the K classes.

    Args:
        class_sizes: one of these names, shares, or shares as a text with commas.
        classes: number of classes K.

    Raises:
        UserError: another name, a wrong number of shares, a share that is not above 0, or shares
            that do not add up to 1 (within 0.001).

    >>> parse_sizes("0.2,0.8", 2)
    (0.2, 0.8)
    """
    if isinstance(class_sizes, str) and class_sizes in NAMES:
        return class_sizes
    items = class_sizes.split(",") if isinstance(class_sizes, str) else class_sizes
    try:
        shares = tuple(float(item) for item in items)
    except (TypeError, ValueError):
        raise UserError(
            f"--head.class-sizes is {shown(class_sizes)}: give equal, labels, free, or {classes} "
            "shares such as 0.2,0.8"
        ) from None
    if len(shares) != classes:
        raise UserError(
            f"--head.class-sizes has {len(shares)} shares: give one for each of {classes} classes"
        )
    if not all(0 < share < 1 for share in shares):
        raise UserError(
            f"--head.class-sizes is {shown(class_sizes)}: give shares above 0 and below 1"
        )
    if abs(sum(shares) - 1) > 1e-3:
        raise UserError(
            f"--head.class-sizes adds up to {sum(shares):.4g}: give shares that add up to 1"
        )
    return shares


def size_shares(sizes: str | tuple[float, ...], counted: jax.Array) -> jax.Array | None:
    """Return the assumed shares `[K]`; None for `free`.

    Args:
        sizes: from `parse_sizes`.
        counted: one-hot labels times weights, `[n, K]`.
    """
    classes = counted.shape[1]
    if sizes == "free":
        return None
    if sizes == "equal":
        return jnp.full(classes, 1 / classes)
    if sizes == "labels":
        # One more example of each class: no class is assumed to be empty.
        number = counted.sum(0) + 1
        return number / number.sum()
    return jnp.asarray(sizes, jnp.float32)
