"""A signal that comes at a chosen moment of a run."""

import contextlib
from functools import partial
from unittest import mock

from twostage_jax.engine import loop as engine
from twostage_jax.engine import members as chunks
from twostage_jax.runs import train as training
from twostage_jax.signals import Interrupted


@contextlib.contextmanager
def stopped_after(moments):
    """Within it, a run hears SIGTERM after so many moments, of which there is one per step."""
    left = moments

    def heard():
        nonlocal left
        left -= 1
        return left < 0

    @contextlib.contextmanager
    def deferred():
        yield heard
        if left < 0:
            raise Interrupted(15)

    step_by_step = partial(engine.fit, seconds_per_call=0.0)
    with (
        mock.patch.object(training, "fit", step_by_step),
        mock.patch.object(chunks, "fit", step_by_step),
        mock.patch.object(training, "deferred", deferred),
    ):
        yield
