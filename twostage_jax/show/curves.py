"""Plot of a label study: test error against the number of labels, both on logarithmic axes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from twostage_jax.show.epochs import Record
from twostage_jax.show.figure import COLOURS, GREY, Kind, as_file, new_figure, place_axes, style
from twostage_jax.show.study import short_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT = 4.6  # inches
LABEL_HEIGHT = 0.155  # inches between the names at the right edge
SMALLEST = 5e-5  # share of errors that is drawn for 0 on a logarithmic axis


def plot_label_curves(results: Record, kind: Kind) -> bytes:
    """Plot the mean test error of every arm with its 95 % interval, and name the lines.

    Arms that use the pretrained encoder are solid, controls are dashed.

    Args:
        results: results of a label study, from `study.json`.
        kind: kind of the file.

    Returns:
        Content of the file.
    """
    with style():
        figure = new_figure(HEIGHT)
        axes = place_axes(figure, 0.65, 1.75, 0.5, 0.2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        ends = []
        for number, name in enumerate(results["arms"]):
            curve = [x for x in results["table"] if x["arm"] == name]
            colour = COLOURS[number % len(COLOURS)]
            solid = bool(results["controls"][name])
            ends.append((_draw_arm(axes, curve, colour, solid), name, colour))
        _label_axes(axes, results["counts"])
        _name_lines(axes, ends)
        return as_file(figure, kind)


def _draw_arm(axes: "Axes", curve: Sequence[Mapping], colour: str, solid: bool) -> float:
    """Draw the line and band of an arm; return the error at its end, in %."""
    counts = [x["labels"] for x in curve]
    mean, low, high = (
        100 * np.maximum([x[part] for x in curve], SMALLEST) for part in ("mean", "low", "high")
    )
    axes.fill_between(counts, low, high, color=colour, alpha=0.15, linewidth=0)
    dashes = "-" if solid else "--"
    axes.plot(counts, mean, dashes, color=colour, marker="o", ms=3.5, clip_on=False)
    return float(mean[-1])


def _label_axes(axes: "Axes", counts: Sequence[int]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    axes.set_xlabel("labelled training images")
    axes.set_ylabel("test error in %")
    # Numbers closer than a factor of 2 would overlap.
    kept: list[int] = []
    for count in reversed(counts):
        if not kept or kept[-1] >= 2 * count:
            kept.append(count)
    axes.set_xticks(kept, [short_count(count) for count in kept])
    axes.xaxis.set_minor_locator(NullLocator())
    bottom, top = axes.get_ylim()
    ticks = [step * 10.0**power for power in range(-3, 3) for step in (1, 2, 5)]
    axes.set_yticks([tick for tick in ticks if bottom <= tick <= top])
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom, top)


def _plain(value: float, position: object) -> str:
    return f"{value:g}"


def _name_lines(axes: "Axes", ends: Sequence[tuple[float, str, str]]) -> None:
    """Write the name of each arm beside the end of its line; names keep a distance."""
    bottom, top = np.log(axes.get_ylim())
    height = axes.get_position().height * HEIGHT
    order = sorted(ends)
    places = [float((np.log(max(end, 1e-9)) - bottom) / (top - bottom)) for end, _, _ in order]
    gap = LABEL_HEIGHT / height
    for number in range(1, len(places)):
        places[number] = max(places[number], places[number - 1] + gap)
    # If names reach beyond the top, touching names move down together.
    overflow = places[-1] - 1 if places else 0
    for number in reversed(range(len(places))):
        if overflow <= 0:
            break
        places[number] -= overflow
        overflow = places[number - 1] + gap - places[number] if number else 0
    for place, (end, name, colour) in zip(places, order, strict=True):
        start = float((np.log(max(end, 1e-9)) - bottom) / (top - bottom))
        axes.plot(
            [1.005, 1.03],
            [start, place],
            color=GREY,
            lw=0.6,
            transform=axes.transAxes,
            clip_on=False,
        )
        text = name if len(name) <= 24 else f"{name[:23]}…"
        axes.text(
            1.035, place, text, color=colour, fontsize=8.5, va="center", transform=axes.transAxes
        )
