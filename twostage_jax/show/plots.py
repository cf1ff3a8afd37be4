"""Pictures: records in, PNG files out."""

import io
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np


def plot_sweep(record: Mapping[str, Any]) -> bytes:
    """The grid of a sweep: accuracy on validation by the first field, a line per other values.

    Dots are members, lines go through their means, the ring is the point that was chosen.

    Args:
        record: `sweep` of a `result.json`.

    Returns:
        A PNG file.
    """
    # Half a second to import, and only used here.
    from matplotlib.figure import Figure

    (name, values), *others = record["fields"].items()
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    spread = all(x > 0 for x in values) and max(values) / min(values) >= 10
    axes.set_xscale("log" if spread else "linear")
    for combination in itertools.product(*(each for _, each in others)):
        rest = dict(zip((other for other, _ in others), combination, strict=True))
        points = [
            point
            for point in record["points"]
            if point["validation"] and all(point["values"][k] == v for k, v in rest.items())
        ]
        points.sort(key=lambda point: point["values"][name])
        x = [point["values"][name] for point in points]
        accuracy = [point["validation"]["accuracy"] for point in points]
        label = ", ".join(f"{other}={value:g}" for other, value in rest.items()) or None
        (line,) = axes.plot(x, [np.mean(each) for each in accuracy], label=label)
        for one, each in zip(x, accuracy, strict=True):
            axes.plot([one] * len(each), each, ".", color=line.get_color(), alpha=0.5)
    chosen = record["points"][record["chosen"]]
    best = np.mean(chosen["validation"]["accuracy"])
    axes.plot(chosen["values"][name], best, "o", ms=12, mfc="none", mec="black", label="chosen")
    axes.set_xlabel(name)
    axes.set_ylabel("accuracy on validation")
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, dpi=150, format="png", metadata={"Software": None})
    return file.getvalue()
