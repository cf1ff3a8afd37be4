"""Points of a sweep, and the choice between them on validation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twostage_jax.scores.figures import MemberScores

CHOSEN_BY = "highest mean accuracy of the members on validation, then lowest mean nll"


@dataclass(frozen=True)
class SweepPoint:
    """One point in the grid of a sweep.

    Attributes:
        values: `{field: value}`.
        members: number of members that have not diverged.
        validation: scores of these members; None without validation examples.
    """

    values: dict[str, float]
    members: int
    validation: MemberScores | None


@dataclass(frozen=True)
class SweepRecord:
    """A sweep: `{field: values}`, the grid (the last field varies fastest), and the chosen point.

    `chosen` is an index into `points`, `chosen_by` the rule in words.
    """

    fields: dict[str, list[float]]
    points: list[SweepPoint]
    chosen: int
    chosen_by: str = CHOSEN_BY


def choose_point(points: Sequence[SweepPoint]) -> int:
    """Index of the point with the highest mean accuracy, then the lowest mean NLL, on validation.

    Points without members are not eligible. A single point needs no validation scores.
    """
    if len(points) == 1:
        return 0
    eligible = [index for index, point in enumerate(points) if point.members]
    return max(eligible, key=lambda index: _merit(points[index]))


def _merit(point: SweepPoint) -> tuple[float, float]:
    # A sweep without validation examples is refused with the config.
    assert point.validation is not None
    scores = {name: np.array(values, float) for name, values in point.validation.items()}
    return float(scores["accuracy"].mean()), -float(scores["nll"].mean())
