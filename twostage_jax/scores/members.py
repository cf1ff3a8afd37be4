"""Scores of members: their spread, the gain of the ensemble, and the choice in a sweep."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

SCORES = ("accuracy", "nll", "ece", "brier")
CHOSEN_BY = "highest mean accuracy of the members on validation, then lowest mean nll"

MemberScores = dict[str, list[float | None]]


@dataclass(frozen=True)
class Spread:
    """One score of M members. With one member, `std`, `low` and `high` are None.

    Attributes:
        mean: mean of the members.
        std: standard deviation, with M - 1 degrees of freedom.
        low: lower end of Student's 95 % interval of the mean.
        high: upper end of the interval.
        ensemble: score of the ensemble, or of the only member.
        gain: `ensemble - mean`.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    ensemble: float
    gain: float


@dataclass(frozen=True)
class Summary:
    """Spread of each score over the members.

    Attributes:
        accuracy: of the members.
        nll: of the members.
        ece: of the members.
        brier: of the members.
        fewer_errors: share of the mean member's errors that the ensemble avoids; None if the
            members make none.
    """

    accuracy: Spread
    nll: Spread
    ece: Spread
    brier: Spread
    fewer_errors: float | None


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
    """A sweep, and its chosen point.

    Attributes:
        fields: `{field: values}`, in the order of the command line.
        points: the grid; the last field varies fastest.
        chosen: index of the chosen point.
        chosen_by: the rule, in words.
    """

    fields: dict[str, list[float]]
    points: list[SweepPoint]
    chosen: int
    chosen_by: str = CHOSEN_BY


def summarise(members: MemberScores, ensemble: Mapping[str, float]) -> Summary:
    """Summarise the scores of the members beside those of their ensemble."""
    spreads = {name: spread(np.array(members[name], float), ensemble[name]) for name in SCORES}
    # A gain of 0.01 means more at an accuracy of 0.98 than at 0.5.
    errors = 1 - spreads["accuracy"].mean
    avoided = spreads["accuracy"].gain / errors if errors else None
    return Summary(**spreads, fewer_errors=avoided)


def spread(values: np.ndarray, ensemble: float) -> Spread:
    """Spread of one score: of the members, `[M]`, and of their ensemble."""
    mean = float(values.mean())
    gain = ensemble - mean
    count = len(values)
    if count < 2:
        return Spread(mean, None, None, None, ensemble, gain)
    std = float(values.std(ddof=1))
    # Few members: Student's quantile, which is 2.8 for M = 5, and not the normal's 1.96.
    half = float(stats.t.ppf(0.975, count - 1)) * std / math.sqrt(count)
    return Spread(mean, std, mean - half, mean + half, ensemble, gain)


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
    accuracy = np.mean(np.array(point.validation["accuracy"], float))
    nll = np.mean(np.array(point.validation["nll"], float))
    return float(accuracy), -float(nll)
