"""Rows of a CSV of predictions, safe to open in a spreadsheet."""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np

COLUMNS = (
    "path",
    "class",
    "probability",
    "second_class",
    "second_probability",
    "rejected",
    "set",
    "ood_score",
    "error",
)
# A spreadsheet evaluates a cell that begins with one of these.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
BETWEEN = "|"  # between the classes of a prediction set


def safe_cell(text: str) -> str:
    """Return text that a spreadsheet does not evaluate: a formula gets an apostrophe in front.

    >>> safe_cell("=cmd()"), safe_cell("-1.5"), safe_cell("cat")
    ("'=cmd()", '-1.5', 'cat')
    """
    if not text.startswith(FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def header(classes: Sequence[str]) -> str:
    """First line: the columns, then one `probability: NAME` for each class, in their order."""
    return _lines([[*COLUMNS, *(f"probability: {name}" for name in classes)]])


def rows(
    names: Sequence[str],
    errors: Mapping[int, str],
    classes: Sequence[str],
    probability: np.ndarray,
    rejected: np.ndarray | None,
    score: np.ndarray | None,
    sets: np.ndarray | None,
) -> str:
    """Lines of some images.

    Args:
        names: path of each image, `[B]`.
        errors: reasons for images that could not be read, by position. Their rows have only the
            path and the reason.
        classes: names of the K classes.
        probability: `[N, K]` of the other images, in their order.
        rejected: bool `[N]`, or None for empty cells.
        score: `[N]`, or None.
        sets: bool `[N, K]`, or None.
    """
    safe = [safe_cell(name) for name in classes]
    first, second = _best_two(probability)
    lines = []
    place = 0
    for index, name in enumerate(names):
        path = safe_cell(name)
        if index in errors:
            empty = [""] * (len(COLUMNS) - 2)
            lines.append([path, *empty, safe_cell(errors[index]), *[""] * len(classes)])
            continue
        values = probability[place].tolist()
        members = [] if sets is None else np.flatnonzero(sets[place]).tolist()
        lines.append(
            [
                path,
                safe[first[place]],
                f"{values[first[place]]:.6f}",
                safe[second[place]],
                f"{values[second[place]]:.6f}",
                "" if rejected is None else str(bool(rejected[place])).lower(),
                BETWEEN.join(safe[k] for k in members),
                "" if score is None else f"{score[place]:.6g}",
                "",
                *(f"{value:.6f}" for value in values),
            ]
        )
        place += 1
    return _lines(lines)


def _best_two(probability: np.ndarray) -> tuple[list[int], list[int]]:
    """Return the most probable and the second class of each image; ties go to the first."""
    order = np.argsort(-probability, axis=-1, kind="stable")
    return order[:, 0].tolist(), order[:, 1].tolist()


def _lines(values: Sequence[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(values)
    return text.getvalue()
