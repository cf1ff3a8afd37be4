"""Pictures of results, as PNG files."""

import io
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from twostage_jax.show.tables import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DECADE = 10  # an axis whose values differ by this factor is logarithmic


def plot_sweep(sweep: Record) -> bytes:
    """Plot accuracy on validation over the first field of a sweep; a line for the other values.

    Dots are members, lines connect their means, and a ring marks the chosen point.

    Args:
        sweep: `scores.SweepRecord` with validation scores.

    Returns:
        Content of a PNG file.
    """
    # The import takes half a second, and most commands draw nothing.
    from matplotlib.figure import Figure

    name = next(iter(sweep.fields))
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale(_scale(sweep.fields[name]))
    for fixed in _combinations(sweep):
        _plot_line(axes, sweep, name, fixed)
    chosen = sweep.points[sweep.chosen]
    best = np.mean(chosen.validation["accuracy"])
    axes.plot(chosen.values[name], best, "o", ms=12, mfc="none", mec="black", label="chosen")
    axes.set_xlabel(name)
    axes.set_ylabel("accuracy on validation")
    axes.legend()
    file = io.BytesIO()
    # Without the version of matplotlib, the same sweep gives the same bytes.
    figure.savefig(file, dpi=150, format="png", metadata={"Software": None})
    return file.getvalue()


def _scale(values: list[float]) -> str:
    # A logarithm needs positive values.
    return "log" if min(values) > 0 and max(values) / min(values) >= DECADE else "linear"


def _combinations(sweep: Record) -> Iterator[dict[str, float]]:
    """Combinations of the values of all fields but the first."""
    fixed = list(sweep.fields)[1:]
    for values in itertools.product(*(sweep.fields[field] for field in fixed)):
        yield dict(zip(fixed, values, strict=True))


def _plot_line(axes: "Axes", sweep: Record, name: str, fixed: dict[str, float]) -> None:
    """Plot the points that have the values `fixed`, in the order of field `name`."""
    points = [
        point
        for point in sweep.points
        if point.validation and fixed.items() <= point.values.items()
    ]
    points.sort(key=lambda point: point.values[name])
    x = [point.values[name] for point in points]
    accuracy = [point.validation["accuracy"] for point in points]
    label = ", ".join(f"{field}={value:g}" for field, value in fixed.items()) or None
    (line,) = axes.plot(x, [np.mean(values) for values in accuracy], label=label)
    for position, values in zip(x, accuracy, strict=True):
        axes.plot([position] * len(values), values, ".", color=line.get_color(), alpha=0.5)
