"""Results of a label study from the errors of all arms: figures and sentences."""

import math
from collections.abc import Sequence

import numpy as np

from twostage_jax.data.dataset import TrainingData
from twostage_jax.runs.study.arms import Arm
from twostage_jax.runs.study.context import Values
from twostage_jax.scores.curves import (
    Interval,
    extrapolate,
    labels_to_match,
    mean_interval,
    paired_difference,
)
from twostage_jax.scores.interval import NORMAL_QUANTILE, accuracy_interval
from twostage_jax.show.study import headline

Row = Values
Entry = Values


def summarise(
    rows: Sequence[Row], dataset: TrainingData, on_validation: bool, arms: Sequence[Arm]
) -> Values:
    """Return the results of a label study as JSON values.

    Args:
        rows: for each arm and number of labels: `arm`, `count`, `errors` float `[R]`, `wrong` bool
            `[R, T]`, `how`, `transductive` float `[R]` or None.
        dataset: the data, for its sizes.
        on_validation: True if the labels of the validation split were used to choose.
        arms: arms in order; the headline uses the first one with the pretrained encoder.
    """
    curves: dict[str, dict[int, np.ndarray]] = {}
    cells: dict[tuple[str, int], Row] = {}
    for row in rows:
        curves.setdefault(row["arm"], {})[row["count"]] = row["errors"]
        cells[row["arm"], row["count"]] = row
    controls = {arm.name: controls_of(arm, arms) for arm in arms}
    table = [_entry(row, cells, controls[row["arm"]]) for row in rows]
    available = len(dataset.train["label"])
    matches = [
        _match(name, count, control, curves, available)
        for name, names in controls.items()
        for count in curves[name]
        for control in names
    ]
    validation = len(dataset.validation["label"]) if on_validation else 0
    results = {
        "arms": [arm.name for arm in arms],
        "counts": sorted({row["count"] for row in rows}),
        "controls": controls,
        "validation_labels_used": validation,
        "selection": selection_words(on_validation, validation),
        "table": table,
        "labels_to_match": matches,
        "extrapolation": [
            entry for name, curve in curves.items() if (entry := _extrapolation(name, curve))
        ],
    }
    return {"headline": headline(results), **results}


def controls_of(arm: Arm, arms: Sequence[Arm]) -> list[str]:
    """Return the controls of an arm that uses a pretrained encoder: arms without pretraining."""
    if arm.representation in ("random", "pixels", "pca") or arm.name == "supervised":
        return []
    names = ["supervised", f"random:{arm.protocol}", "pixels", "pca"]
    if arm.name == "finetuned":
        names = ["supervised"]
    present = {other.name for other in arms}
    return [name for name in names if name in present]


def selection_words(on_validation: bool, validation: int) -> str:
    """Return a sentence about the labels that were used for choices."""
    if on_validation:
        return (
            f"strengths of solved heads are chosen on {validation:,} validation labels, which are "
            "used in addition to those of the table; durations are chosen on the labels of the draw"
        )
    return (
        "strengths and durations are chosen on the labels of the draw, by stratified "
        "cross-validation; if a class has one label, they are fixed; no other labels are used"
    )


def _entry(row: Row, cells: dict[tuple[str, int], Row], controls: Sequence[str]) -> Entry:
    """Return the line of the table for one arm and number of labels."""
    errors = row["errors"]
    interval = _interval(row)
    inside = row["transductive"]
    return {
        "arm": row["arm"],
        "labels": row["count"],
        "draws": len(errors),
        "mean": interval.value,
        "low": interval.low,
        "high": interval.high,
        "interval_over": "draws" if len(errors) > 1 else "test images",
        "sd": float(errors.std(ddof=1)) if len(errors) > 1 else None,
        "median": float(np.median(errors)),
        "best": float(errors.min()),
        "worst": float(errors.max()),
        "transductive": None if inside is None else float(np.mean(inside)),
        "chosen_by": row["how"],
        "minus": {name: list(_difference(row, cells[name, row["count"]])) for name in controls},
    }


def _interval(row: Row) -> Interval:
    """Mean error and interval: over draws, or over the test images of a single draw."""
    if len(row["errors"]) > 1:
        return mean_interval(row["errors"])
    right = ~row["wrong"][0]
    low, high = accuracy_interval(int(right.sum()), len(right))
    return Interval(float(row["errors"][0]), 1 - high, 1 - low)


def _difference(row: Row, control: Row) -> Interval:
    """Paired difference of two arms: over draws, or over test images if one has a single draw."""
    if min(len(row["errors"]), len(control["errors"])) > 1:
        return paired_difference(row["errors"], control["errors"])
    difference = row["wrong"][0].astype(float) - control["wrong"][0]
    half = NORMAL_QUANTILE * difference.std(ddof=1) / math.sqrt(len(difference))
    mean = float(difference.mean())
    return Interval(mean, mean - half, mean + half)


def _match(
    name: str,
    count: int,
    control: str,
    curves: dict[str, dict[int, np.ndarray]],
    available: int,
) -> Entry:
    """Return the number of labels that a control needs for the error of an arm."""
    match = labels_to_match(curves[name][count], curves[control])
    smallest = min(curves[control])
    low, value, high = (
        _needed(number, smallest, max(curves[control]))
        for number in (match.low, match.value, match.high)
    )
    return {
        "arm": name,
        "labels": count,
        "control": control,
        "needs": value,
        "low": low,
        "high": high,
        "largest_measured": max(curves[control]),
        "available": available,
    }


def _needed(number: float, smallest: int, largest: int) -> float | str | None:
    """Return a number of labels; outside of the measured range a text such as `<10` or `>60000`."""
    if math.isnan(number):
        return None
    if number == 0:
        return f"<{smallest}"
    return f">{largest}" if math.isinf(number) else number


def _extrapolation(name: str, curve: dict[int, np.ndarray]) -> Entry | None:
    """Return the prediction for twice the labels, and the test on the largest number."""
    result = extrapolate(curve)
    if result is None:
        return None
    return {
        "arm": name,
        "law": list(result.law),
        "labels": result.labels,
        "expected": _finite(result.expected),
        "held_out": result.held_out,
        "predicted": _finite(result.predicted),
        "measured": result.measured,
    }


def _finite(interval: Interval) -> list[float | None]:
    return [None if math.isnan(value) else value for value in interval]
