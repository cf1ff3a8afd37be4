"""Plots of figures: epochs, the confusion of classes, a sweep."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from twostage_jax.show.epochs import Record
from twostage_jax.show.figure import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    WIDTH,
    Kind,
    as_file,
    new_figure,
    place_axes,
    short_name,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DECADE = 10  # an axis whose values differ by this factor is logarithmic
DOTS = 12  # epochs up to which each is marked by a dot
PANELS = (("pretrain", "loss"), ("head", "loss"), ("head", "accuracy"))
PANEL = 2.9  # inches
TITLES = {"pretrain": "stage 1", "head": "stage 2"}
# Number of classes up to which a cell shows its count and its rate, its count, and a name.
RATES = 12
COUNTS = 25
NAMES = 40
NAME_LIMIT = 14  # characters
PAGE = 45  # characters of names that fit side by side below a matrix


def plot_curves(records: Sequence[Record], kind: Kind = "png") -> bytes:
    """Plot loss and accuracy of every epoch on training and validation, for both stages.

    With several members, lines are means, and bands reach from the lowest to the highest member.

    Args:
        records: `store.EpochRecord` of all stages, at least one.
        kind: kind of the file.

    Returns:
        Content of the file.
    """
    panels = []
    for stage, name in PANELS:
        of_stage = [record for record in records if record.stage == stage]
        if of_stage and _curve(of_stage, name, False).size:
            panels.append((stage, name, of_stage))
    with style():
        figure = new_figure(2.7)
        width = WIDTH / len(panels)
        for number, (stage, name, of_stage) in enumerate(panels):
            right = WIDTH - (number + 1) * width + 0.12
            axes = place_axes(figure, number * width + 0.62, right, 0.5, 0.35)
            _draw_curves(axes, of_stage, name)
            axes.set_title(f"{TITLES[stage]}: {name}")
            if number == 0:
                axes.legend()
        return as_file(figure, kind)


def plot_panels(records: Sequence[Record]) -> dict[str, bytes]:
    """Plot every panel of `plot_curves` by itself, for a page; returns SVG files by title."""
    files = {}
    for stage, name in PANELS:
        of_stage = [record for record in records if record.stage == stage]
        if not of_stage or not _curve(of_stage, name, False).size:
            continue
        with style():
            figure = new_figure(2.3, PANEL)
            axes = place_axes(figure, 0.55, 0.08, 0.5, 0.1)
            _draw_curves(axes, of_stage, name)
            axes.legend()
            files[f"{TITLES[stage]}: {name}"] = as_file(figure, "page")
    return files


def _draw_curves(axes: "Axes", records: Sequence[Record], name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = [record.epoch for record in records]
    everything = []
    splits = (("training", False, BLUE, "-"), ("validation", True, ORANGE, "--"))
    for label, held_out, colour, dashes in splits:
        values = _curve(records, name, held_out)
        if not values.size:
            continue
        everything.append(values)
        mark = "o" if len(records) <= DOTS else ""
        axes.plot(epochs, values, dashes, color=colour, marker=mark, ms=3, label=label)
        band = _band(records, f"validation_{name}" if held_out else name)
        if band is not None:
            name_of_band = None if held_out else "range of members"
            shade = {"color": colour, "alpha": 0.2, "linewidth": 0}
            axes.fill_between(epochs, *band, label=name_of_band, **shade)
    # A loss falls quickly at first; on a linear axis, the rest would look flat.
    positive = np.concatenate(everything)
    positive = positive[np.isfinite(positive)]
    if name == "loss" and positive.size and _is_wide(positive):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    margin = min(0.5, 0.04 * len(epochs)) if len(epochs) > 1 else 0.5
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    axes.set_xlabel("epoch")


def _curve(records: Sequence[Record], name: str, held_out: bool) -> np.ndarray:
    """Values of a figure by epoch, NaN where it is missing; empty if it is missing in all."""
    values = []
    for record in records:
        train = {"loss": record.loss, **record.metrics}
        value = (record.validation if held_out else train).get(name)
        values.append(math.nan if value is None else value)
    return np.array([] if np.isnan(values).all() else values, float)


def _band(records: Sequence[Record], key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Lowest and highest finite member of each epoch; None for a single member."""
    if not all(record.members.get(key) for record in records):
        return None
    values = np.array([record.members[key] for record in records], float)  # None becomes NaN
    # An epoch without a finite member leaves a gap.
    low = np.where(np.isnan(values), np.inf, values).min(1)
    high = np.where(np.isnan(values), -np.inf, values).max(1)
    return np.where(np.isfinite(low), low, np.nan), np.where(np.isfinite(high), high, np.nan)


def plot_confusion(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], split: str, kind: Kind = "png"
) -> bytes:
    """Plot the confusion matrix: counts, and shares of each true class as colours.

    Args:
        confusion: counts `[K][K]`: true class (row), predicted class (column).
        classes: the K names.
        split: name of the split.
        kind: kind of the file.

    Returns:
        Content of the file.
    """
    counts = np.array(confusion)
    number = len(counts)
    rates = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [short_name(name, NAME_LIMIT) for name in classes]
    longest = max(map(len, names))
    # Room for the longest name at 9 points, beside the matrix and below it if it stands upright.
    margin = 0.45 + 0.085 * longest
    upright = longest * min(number, NAMES) > PAGE
    below = margin if upright else 0.55
    side = WIDTH - margin - 0.3
    # With few classes, the matrix is narrower than the page.
    side = min(side, 1.3 * number + 0.6)
    with style():
        figure = new_figure(side + below + 0.55)
        right = WIDTH - margin - side
        # The matrix stands in the middle.
        axes = place_axes(figure, margin + right / 2, right / 2, below, 0.55)
        axes.imshow(_shades(rates), interpolation="nearest", aspect="equal")
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        _name_ticks(axes, names, upright)
        _write_counts(axes, counts, rates)
        total = int(counts.sum())
        right_ones = int(counts.trace())
        axes.set_title(
            f"{split} split: {right_ones:,} of {total:,} correct\n"
            "blue: correct, orange: mistakes; colours show shares of the true class"
        )
        return as_file(figure, kind)


def _shades(rates: np.ndarray) -> np.ndarray:
    """Colours `[K, K, 4]` of the cells: blue on the diagonal, orange beside it."""
    from matplotlib import colormaps

    # The root makes rare mistakes visible: one in a hundred has a tenth of the colour.
    colours = colormaps["Oranges"](0.75 * np.sqrt(rates))
    diagonal = np.arange(len(rates))
    colours[diagonal, diagonal] = colormaps["Blues"](0.1 + 0.65 * rates.diagonal())
    # Empty cells are nearly transparent, because the page of a report may be dark.
    colours[rates == 0] = (0.5, 0.5, 0.5, 0.06)
    missed = diagonal[rates.diagonal() == 0]
    colours[missed, missed] = (0, 0.45, 0.7, 0.2)
    return colours


def _name_ticks(axes: "Axes", names: Sequence[str], upright: bool) -> None:
    number = len(names)
    # Of many classes, only every n-th has a name.
    ticks = list(range(0, number, max(1, math.ceil(number / NAMES))))
    labels = [names[tick] for tick in ticks]
    size = 9 if number <= COUNTS else 7
    axes.set_xticks(ticks, labels, fontsize=size, rotation=90 if upright else 0, parse_math=False)
    axes.set_yticks(ticks, labels, fontsize=size, parse_math=False)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")


def _write_counts(axes: "Axes", counts: np.ndarray, rates: np.ndarray) -> None:
    number = len(counts)
    if number > COUNTS:
        return
    for row, column in np.argwhere(counts > 0):
        text = f"{counts[row, column]:,}"
        rate = rates[row, column]
        if number <= RATES:
            text += f"\n{100 * rate:.1f} %"
        dark = rate > 0.6 if row == column else rate > 0.5
        size = 9 if number <= RATES else 7
        colour = "white" if dark else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def plot_sweep(sweep: Record, kind: Kind = "png") -> bytes:
    """Plot validation accuracy over the first field of a sweep, with a line per other value.

    Dots are members, lines connect their means, and a ring marks the chosen point.

    Args:
        sweep: `scores.SweepRecord` with validation scores.
        kind: kind of the file.

    Returns:
        Content of the file.
    """
    name = next(iter(sweep.fields))
    values = sweep.fields[name]
    with style():
        figure = new_figure(4.2)
        axes = place_axes(figure, 0.75, 0.2, 0.6, 0.2)
        # A logarithm needs positive values.
        axes.set_xscale("log" if _is_wide(values) else "linear")
        for number, (label, points) in enumerate(_lines(sweep, name).items()):
            x = [point.values[name] for point in points]
            accuracy = [point.validation["accuracy"] for point in points]
            colour = COLOURS[number % len(COLOURS)]
            means = [np.mean(members) for members in accuracy]
            axes.plot(x, means, label=label or None, color=colour)
            for position, members in zip(x, accuracy, strict=True):
                axes.plot([position] * len(members), members, ".", color=colour, alpha=0.5)
        chosen = sweep.points[sweep.chosen]
        best = np.mean(chosen.validation["accuracy"])
        ring = {"ms": 12, "mfc": "none", "mec": GREY, "mew": 1.5, "ls": "none"}
        axes.plot(chosen.values[name], best, "o", label="chosen", **ring)
        axes.set_xlabel(name)
        axes.set_ylabel("validation accuracy")
        axes.legend()
        return as_file(figure, kind)


def _lines(sweep: Record, name: str) -> dict[str, list[Record]]:
    """Group points with scores by the values of all fields but `name`, in the order of `name`."""
    lines: dict[str, list[Record]] = {}
    for point in sorted(sweep.points, key=lambda point: point.values[name]):
        fixed = [f"{field}={x:g}" for field, x in point.values.items() if field != name]
        if point.validation:  # None if all members have diverged
            lines.setdefault(", ".join(fixed), []).append(point)
    return lines


def _is_wide(values: Iterable[float]) -> bool:
    """Return True if positive values are spread over at least a decade."""
    numbers = list(values)
    return min(numbers) > 0 and max(numbers) / min(numbers) >= DECADE
