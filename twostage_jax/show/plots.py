"""Pictures of results, as PNG files."""

import io

import numpy as np

from twostage_jax.show.epochs import Record

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
    values = sweep.fields[name]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    # A logarithm needs positive values.
    is_wide = min(values) > 0 and max(values) / min(values) >= DECADE
    axes.set_xscale("log" if is_wide else "linear")
    for label, points in _lines(sweep, name).items():
        x = [point.values[name] for point in points]
        accuracy = [point.validation["accuracy"] for point in points]
        (line,) = axes.plot(x, [np.mean(members) for members in accuracy], label=label or None)
        for position, members in zip(x, accuracy, strict=True):
            axes.plot([position] * len(members), members, ".", color=line.get_color(), alpha=0.5)
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


def _lines(sweep: Record, name: str) -> dict[str, list[Record]]:
    """Group points with scores by the values of all fields but `name`, in the order of `name`."""
    lines: dict[str, list[Record]] = {}
    for point in sorted(sweep.points, key=lambda point: point.values[name]):
        fixed = [f"{field}={x:g}" for field, x in point.values.items() if field != name]
        if point.validation:  # None if all members have diverged
            lines.setdefault(", ".join(fixed), []).append(point)
    return lines
