"""Drawings that only the page has: reliability, a map of features, members, several runs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twostage_jax.show.figure import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    as_file,
    new_figure,
    place_axes,
    short_name,
    style,
)

NARROW = 3.9  # inches: readable on a phone
LARGE_POINTS = 200  # at most so many points of a map are large


def plot_reliability(bins: np.ndarray, labels: Sequence[str]) -> bytes:
    """Plot accuracy over confidence, for each set of bins.

    Args:
        bins: `[S, B, 3]`: number of images, mean confidence and accuracy of each bin.
        labels: names of the S sets.
    """
    with style():
        figure = new_figure(3.6, NARROW)
        axes = place_axes(figure, 0.6, 0.15, 1.1, 0.1)
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
        below = place_axes(figure, 0.6, 0.15, 0.5, 2.6)
        looks = ((BLUE, "o"), (ORANGE, "D"))
        for (colour, mark), values, label in zip(looks, bins, labels, strict=False):
            used = values[:, 0] > 0
            confidence, accuracy = values[used, 1], values[used, 2]
            # A bin with few images tells little: its mark is small.
            area = 12 + 90 * np.sqrt(values[used, 0] / values[:, 0].sum())
            look = {"color": colour, "marker": mark, "alpha": 0.75, "lw": 0}
            axes.scatter(confidence, accuracy, area, label=label, **look)
        share = bins[0, :, 0] / max(1, bins[0, :, 0].sum())
        count = len(share)
        below.bar((np.arange(count) + 0.5) / count, share, 0.9 / count, color=BLUE, alpha=0.6)
        for panel in (axes, below):
            panel.set_xlim(0, 1)
        axes.set_ylim(0, 1.03)
        axes.set_xticklabels([])
        axes.set_ylabel("accuracy")
        axes.legend(loc="upper left", markerscale=0.7)
        below.set_xlabel("confidence")
        below.set_ylabel("share", fontsize=8)
        below.set_yticks([])
        below.grid(False)
        return as_file(figure, "page")


class FeatureMap(NamedTuple):
    """Images on a plane.

    Attributes:
        points: float `[N, 2]`.
        label: class of each, int `[N]`.
        shares: shares of the variance along the two axes.
    """

    points: np.ndarray
    label: np.ndarray
    shares: np.ndarray


def plot_map(feature_map: FeatureMap, colours: Sequence[str]) -> bytes:
    """Plot images as points, in the colour of their class."""
    with style():
        figure = new_figure(3.4, NARROW)
        axes = place_axes(figure, 0.3, 0.1, 0.3, 0.1)
        size = 10 if len(feature_map.points) <= LARGE_POINTS else 5
        for index, colour in enumerate(colours):
            points = feature_map.points[feature_map.label == index]
            axes.plot(*points.T, ".", ms=size, mew=0, color=colour, alpha=0.7)
        axes.set_xticklabels([])
        axes.set_yticklabels([])
        axes.tick_params(length=0)
        axes.grid(False)
        first, second = 100 * feature_map.shares
        axes.set_xlabel(f"first component ({first:.0f} % of the variance)")
        axes.set_ylabel(f"second component ({second:.0f} %)")
        return as_file(figure, "page")


def class_colours(number: int) -> list[str]:
    """Return a colour for each class."""
    # Four more that can be told from Okabe and Ito's.
    palette = [*COLOURS[:-1], "#8C6BB1", "#7F7F00", "#A65628", "#999999"]
    if number <= len(palette):
        return palette[:number]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    wheel = colormaps["hsv"]
    return [to_hex(wheel(0.9 * index / number)) for index in range(number)]


class Measured(NamedTuple):
    """An accuracy with its 95 % interval; None if there is no interval."""

    name: str
    accuracy: float
    interval: Sequence[float] | None


def plot_accuracies(rows: Sequence[Measured], label: str = "test accuracy in %") -> bytes:
    """Plot accuracies one below the other, with their intervals; the first is on top."""
    names = [short_name(row.name, 26) for row in rows]
    left = 0.35 + 0.075 * max(map(len, names))
    with style():
        figure = new_figure(0.75 + 0.3 * len(rows), NARROW + 0.9)
        axes = place_axes(figure, left, 0.25, 0.5, 0.15)
        for number, row in enumerate(rows):
            y = len(rows) - number
            if row.interval is not None:
                axes.plot(100 * np.array(row.interval), [y, y], color=BLUE, lw=2, alpha=0.5)
            axes.plot(100 * row.accuracy, y, "o", color=BLUE, ms=6)
        axes.set_ylim(0.4, len(rows) + 0.6)
        axes.set_yticks(range(len(rows), 0, -1), names, parse_math=False)
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label)
        return as_file(figure, "page")


def plot_members(accuracy: Sequence[float], ensemble: float) -> bytes:
    """Plot the accuracy of every member as a point, and that of the ensemble as a line."""
    with style():
        figure = new_figure(1.5, NARROW)
        axes = place_axes(figure, 0.25, 0.25, 0.5, 0.3)
        values = 100 * np.sort(np.array(accuracy))
        # Points that would hide each other stand one above the other.
        spread = np.arange(len(values)) % 4 / 4
        axes.plot(values, spread, "o", color=BLUE, ms=5, alpha=0.7, label="members")
        axes.axvline(100 * ensemble, color=ORANGE, lw=2, label="ensemble")
        axes.set_ylim(-0.4, 1.2)
        axes.set_yticks([])
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("test accuracy in %")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 0.95), ncols=2)
        return as_file(figure, "page")
