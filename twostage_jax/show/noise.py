"""Words, tables and the plot of a noise study, from the results in its `study.json`."""

from collections.abc import Mapping, Sequence

import numpy as np

from twostage_jax.show.epochs import Record
from twostage_jax.show.figure import (
    COLOURS,
    GREY,
    WIDTH,
    Kind,
    as_file,
    new_figure,
    place_axes,
    style,
)
from twostage_jax.show.terminal import Terminal

MATRIX = "transition"  # noise by a matrix, which has no rate
SHORT = {"symmetric": "sym", "asymmetric": "asym", MATRIX: "matrix"}
LINES = len(COLOURS)  # arms in the plot


def show_noise(results: Record, terminal: Terminal) -> None:
    """Print accuracy and worst-class accuracy of every arm, and the advice."""
    terminal.line("")
    _table("test accuracy in %, mean over draws", results, "accuracy", terminal)
    _table("accuracy of the worst class in %", results, "worst_class_accuracy", terminal)
    single = sorted({x["arm"] for x in results["table"] if x["draws"] < results["draws"]})
    if single:
        terminal.line(
            f"{results['draws']} draws of the noise, but 1 for {', '.join(single)}; all figures "
            "are those of the last epoch",
            hang=2,
        )
    _show_advice(results, terminal)


def _table(title: str, results: Record, figure: str, terminal: Terminal) -> None:
    cells = {(x["arm"], x["noise"]): x[figure]["mean"] for x in results["table"]}
    rows = [
        (arm, *(f"{100 * cells[arm, noise]:.2f}" for noise in results["noises"]))
        for arm in results["arms"]
    ]
    terminal.table(title, ("arm", *map(short_noise, results["noises"])), rows)


def short_noise(name: str) -> str:
    """Return the name of a noise for a column header.

    >>> short_noise("symmetric-0.4")
    'sym\\n40 %'
    """
    kind, _, rate = name.partition("-")
    return f"{SHORT[kind]}\n{100 * float(rate):g} %" if rate else SHORT[kind]


def _show_advice(results: Record, terminal: Terminal) -> None:
    """Print the advice for every noise, and its distance from the best arm on test."""
    terminal.line("")
    terminal.line("advice, chosen on validation labels with the same noise as the training labels:")
    for entry in results["advice"]:
        best = "the best arm on test"
        if entry["gap"] > 0:
            best = f"{100 * entry['gap']:.2f} points below {entry['best']}, the best on test"
        noise = short_noise(entry["noise"]).replace("\n", " ")
        accuracy = f"{100 * entry['accuracy']:.2f} % on test"
        terminal.line(f"  {noise}: {entry['chosen']}, {accuracy}: {best}", hang=4)
    overall = results["overall"]
    mean = 100 * overall["mean_gap"]
    largest = 100 * overall["largest_gap"]
    terminal.line(
        f"The advice is {mean:.2f} points below the best arm on average, at most {largest:.2f}.",
        hang=2,
    )
    terminal.line(
        f"If the noise is unknown, use {overall['chosen']}: "
        f"{100 * overall['mean_accuracy']:.2f} % on average over these noises (best on test: "
        f"{overall['best']}, {100 * overall['best_mean_accuracy']:.2f} %).",
        hang=2,
        bold=True,
    )


def plot_noise(results: Record, kind: Kind) -> bytes:
    """Plot test accuracy over the rate, with a panel for each kind of noise.

    The lines are the advised arm, the first arm and the best other arms. Bars reach from the lowest
    to the highest draw.

    Args:
        results: as in `study.json`.
        kind: kind of the file.

    Returns:
        Content of the file.
    """
    panels = _panels(results["noises"])
    chosen = _plotted(results)
    entries = {(x["arm"], x["noise"]): x["accuracy"] for x in results["table"]}
    with style():
        figure = new_figure(3.6)
        left = 0.65
        room = (WIDTH - 1.75 - left) / len(panels)
        for number, (name, rates) in enumerate(panels.items()):
            start = left + number * room
            axes = place_axes(figure, start, WIDTH - start - room + 0.35, 0.55, 0.35)
            for colour, arm in zip(COLOURS, chosen, strict=False):
                values = [entries[arm, noise] for noise in rates.values()]
                mean = 100 * np.array([value["mean"] for value in values])
                low = mean - 100 * np.array([value["lowest"] for value in values])
                high = 100 * np.array([value["highest"] for value in values]) - mean
                x = [100 * rate for rate in rates]
                axes.errorbar(x, mean, yerr=(low, high), color=colour, marker="o", ms=3, label=arm)
            axes.set_title(f"{name} noise")
            if name == MATRIX:
                axes.set_xticks([])
            else:
                axes.set_xlabel("flipped labels in %")
            if number == 0:
                axes.set_ylabel("test accuracy in %")
            if number == len(panels) - 1:
                axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), labelcolor=GREY)
        return as_file(figure, kind)


def _panels(noises: Sequence[str]) -> dict[str, dict[float, str]]:
    """Return rates and names of the noises of each kind; a matrix has the rate 0."""
    panels: dict[str, dict[float, str]] = {}
    for noise in noises:
        kind, _, rate = noise.partition("-")
        panels.setdefault(kind, {})[float(rate or 0)] = noise
    return panels


def _plotted(results: Mapping) -> list[str]:
    """Return the arms of the plot: advised, first, and the best others."""
    means: dict[str, list[float]] = {}
    for entry in results["table"]:
        means.setdefault(entry["arm"], []).append(entry["accuracy"]["mean"])
    ranked = sorted(means, key=lambda arm: -float(np.mean(means[arm])))
    # The best arm of each representation shows the value of the encoder.
    families = {arm.partition(":")[0].partition("-")[0]: arm for arm in reversed(ranked)}
    wanted = [results["overall"]["chosen"], results["arms"][0], *families.values(), *ranked]
    return list(dict.fromkeys(wanted))[:LINES]
