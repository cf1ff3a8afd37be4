"""Dropout in training and not in validation, although both compute the same loss."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from twostage_jax.stages.stage import Key

_training: ContextVar[bool] = ContextVar("training", default=True)


@contextlib.contextmanager
def without_dropout() -> Iterator[None]:
    """Switch dropout off in every loss that is traced within the block."""
    token = _training.set(False)
    try:
        yield
    finally:
        _training.reset(token)


def training_key(key: Key | None) -> Key | None:
    """Return the key for the dropout of a module: `key`, or None within `without_dropout`."""
    return key if _training.get() else None
