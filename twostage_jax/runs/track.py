"""Records of epochs, and the functions that receive them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from twostage_jax.engine.loop import Progress
from twostage_jax.store.records import VALIDATION_PREFIX, EpochRecord

# Receives the record of an epoch as `metrics.jsonl` holds it; True ends the stage.
OnEpoch = Callable[[dict[str, Any]], object]


def make_record(stage: str, progress: Progress) -> EpochRecord:
    """Return the record of a completed epoch; figures are means over the finite members."""
    assert progress.metrics is not None
    means, members = _summary(progress.metrics)
    validation, on_validation = _summary(progress.validation)
    members |= {f"{VALIDATION_PREFIX}{name}": values for name, values in on_validation.items()}
    loss = means.pop("loss")
    seconds = round(progress.seconds, 3)
    return EpochRecord(stage, progress.epoch, loss, seconds, means, members, validation)


def _summary(
    metrics: Mapping[str, np.ndarray],
) -> tuple[dict[str, float | None], dict[str, list[float | None]]]:
    """Return means over the finite members, and the values of all members if there are several."""
    means: dict[str, float | None] = {}
    members = {}
    for name, values in metrics.items():
        finite = values[np.isfinite(values)]
        means[name] = float(finite.mean()) if finite.size else None
        # The figures of a single member are the means.
        if len(values) > 1:
            members[name] = [float(x) if math.isfinite(x) else None for x in values]
    return means, members
