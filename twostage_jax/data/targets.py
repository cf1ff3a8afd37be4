"""Conversion of labels to int32 `[N]`, -1 for an example without a label; class names."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from twostage_jax.data.pixels import Array, say
from twostage_jax.data.source import CLASS_LIMIT
from twostage_jax.errors import UserError, shown

UNLABELLED = -1
NUMBER = re.compile(r"-?[0-9]{1,15}([.][0-9]{1,15})?")
# scikit-learn and STL-10 write -1 for "no label", PyTorch's losses ignore -100.
MISSING = (-1, -100)
NAME_LIMIT = 200  # characters of a class name
LABEL_LIMIT = 2**31

Labels = dict[str, np.ndarray]


class Column(NamedTuple):
    """Labels `[N]`, their file and name for messages, and the columns of one-hot labels or 0."""

    values: np.ndarray
    where: str
    width: int


def as_labels(
    arrays: Mapping[str, Array],
    counts: Mapping[str, int],
    classes: tuple[str, ...],
    notes: list[str],
) -> tuple[Labels, tuple[str, ...]]:
    """Convert the labels of all splits, and describe the conversion in `notes`.

    Args:
        arrays: by split: `[N]` or `[N, 1]` whole numbers, bools or text, or one-hot `[N, K]`.
        counts: number of images of each split.
        classes: the `K` class names, or none.
        notes: sentences so far.

    Returns:
        int32 `[N]` by split, -1 without a label, and the class names, empty if labels are numbers.

    Raises:
        UserError: labels of another form, or out of range.
    """
    columns = {part: _as_column(array, counts[part], part, notes) for part, array in arrays.items()}
    texts = [part for part, array in columns.items() if array.values.dtype.kind in "US"]
    if texts:
        if len(texts) < len(columns):
            raise UserError(
                f"{columns[texts[0]].where} is text and the labels of another split are numbers: "
                "give all labels in one type"
            )
        labels, classes = _from_text(columns, classes, notes)
    else:
        labels = {part: _as_numbers(array) for part, array in columns.items()}
        labels, classes = _number_from_zero(labels, columns, classes, notes)
    for part, label in labels.items():
        _report_missing(part, int((label == UNLABELLED).sum()), notes)
    return labels, classes


def _as_column(array: Array, count: int, part: str, notes: list[str]) -> Column:
    """Return labels as `[N]`: a column or row without its second axis, one-hot rows as numbers."""
    values, where = array
    if values.ndim == 2 and 1 in values.shape and values.size == count:
        values = values.reshape(-1)  # as Keras, MedMNIST and MATLAB store them
    width = _one_hot_width(values)
    if width:
        say(notes, f"one-hot labels of {width} classes are read as class numbers")
        values = values.argmax(1)
    if values.ndim != 1:
        raise UserError(
            f"{where} has shape {values.shape} and is not one-hot: give one whole number for each "
            "example, [N]; several labels for one image are not supported"
        )
    if len(values) != count:
        raise UserError(
            f"the {part} split has {count} images, but {where} has {len(values)} labels: give one "
            "label for each image"
        )
    if values.dtype.kind == "b":
        say(notes, "labels are True and False: True is class 1")
        values = values.astype(np.int32)
    return Column(values, where, width)


def _one_hot_width(values: np.ndarray) -> int:
    """Return the number of columns of one-hot labels; 0 for other labels."""
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        return 0
    width = values.shape[1]
    if not 1 < width <= CLASS_LIMIT or not ((values == 0) | (values == 1)).all():
        return 0
    return width if (values.sum(1) == 1).all() else 0


def _as_numbers(column: Column) -> np.ndarray:
    """Return whole numbers from 0 as int32, and missing labels as -1."""
    label, where, _ = column
    fractional = label != np.floor(label)  # True for NaN
    if fractional.any():
        raise UserError(
            f"{where} has label {label[fractional][0]}: labels must be whole numbers from 0, or -1 "
            "for an image without a label"
        )
    missing = np.isin(label, MISSING) if label.dtype.kind != "u" else np.zeros(len(label), bool)
    number = label[~missing]
    # Compared as Python's numbers, because a float16 cannot hold 2**31.
    if number.size and not 0 <= number.min().item() <= number.max().item() < LABEL_LIMIT:
        outlier = number.min() if number.min() < 0 else number.max()
        raise UserError(
            f"{where} has label {outlier}, out of range: labels must be 0 to K-1, or -1 for an "
            "image without a label"
        )
    converted = np.full(len(label), UNLABELLED, np.int32)
    converted[~missing] = number
    return converted


def _number_from_zero(
    labels: Labels,
    columns: Mapping[str, Column],
    classes: tuple[str, ...],
    notes: list[str],
) -> tuple[Labels, tuple[str, ...]]:
    """Renumber labels 1 to K as 0 to K-1, and compare them with class names or one-hot columns."""
    everything = np.concatenate(list(labels.values()))
    present = np.unique(everything[everything >= 0])
    where = next(iter(columns.values())).where
    width = max(column.width for column in columns.values())
    if not len(present):
        return labels, classes
    first = int(present[0])
    last = int(present[-1])
    if first == last == 1 and UNLABELLED in everything:
        raise UserError(
            f"{where} has only the labels 1 and -1, and -1 stands for a missing label: number "
            "two classes 0 and 1"
        )
    starts_at_one = first == 1 and not width
    if classes:
        starts_at_one = starts_at_one and last == len(classes)
        if last - starts_at_one >= len(classes):
            raise UserError(
                f"{where} has label {last}, but there are {len(classes)} class names: number the "
                f"classes from 0 to {len(classes) - 1}"
            )
    else:
        # Otherwise 0 would be a class that has no example anywhere.
        starts_at_one = starts_at_one and 1 < last == len(present) <= CLASS_LIMIT
        if starts_at_one:
            classes = tuple(str(k) for k in range(1, last + 1))
        elif width:
            classes = tuple(str(k) for k in range(width))
    if starts_at_one:
        notes.append(f"labels are 1 to {last}: numbered 0 to {last - 1}, with names 1 to {last}")
        labels = {part: label - (label > 0) for part, label in labels.items()}
    return {part: label.astype(np.int32) for part, label in labels.items()}, classes


def _from_text(
    columns: Mapping[str, Column], classes: tuple[str, ...], notes: list[str]
) -> tuple[Labels, tuple[str, ...]]:
    """Number labels that are text; an empty text is a missing label."""
    tables = {}
    for part, (values, where, _) in columns.items():
        names, inverse = np.unique(values, return_inverse=True)
        tables[part] = (_as_names(names, where), inverse)
    present = {name for names, _ in tables.values() for name in names} - {""}
    if not classes:
        is_number = all(map(NUMBER.fullmatch, present))
        order = sorted(present, key=lambda name: (float(name) if is_number else 0, name))
        classes = tuple(order)
        notes.append(f"labels are text: {len(classes)} classes, numbered in sorted order")
    unknown = present.difference(classes)
    if unknown:
        where = next(iter(columns.values())).where
        raise UserError(
            f"{where} has label {shown(min(unknown))}, which is not among the class names "
            f"{shown(list(classes))}: give both from one list"
        )
    numbers = {name: index for index, name in enumerate(classes)} | {"": UNLABELLED}
    labels = {
        part: np.array([numbers[name] for name in names], np.int32)[inverse.reshape(-1)]
        for part, (names, inverse) in tables.items()
    }
    return labels, classes


def read_class_names(array: Array) -> tuple[str, ...]:
    """Return the names in an array `[K]` of text.

    Raises:
        UserError: an array of another kind, or an empty, too long or repeated name.
    """
    values, where = array
    if values.dtype.kind not in "USiu" or values.ndim != 1 or not len(values):
        raise UserError(
            f"{where} has shape {values.shape} and type {values.dtype}: class names must be a list "
            "of text, one for each class; save it as np.array(names, dtype=str)"
        )
    names = _as_names(values, where)
    if len(set(names)) != len(names) or "" in names:
        raise UserError(f"{where} has an empty or repeated name: give each class its own name")
    return tuple(names)


def _as_names(values: np.ndarray, where: str) -> list[str]:
    """Return text as strings that every file can hold."""
    if len(values) > CLASS_LIMIT + 1:  # one more, because an empty text is no class
        raise UserError(
            f"{where} has {len(values):,} different names, but at most {CLASS_LIMIT:,} classes are "
            "possible: give fewer or coarser classes"
        )
    try:
        names = [x.decode() if isinstance(x, bytes) else str(x) for x in values.tolist()]
        for name in names:
            name.encode()
    except ValueError as error:  # bytes in another encoding, or no valid character
        raise UserError(f"{where} has text that is not UTF-8: save it as np.str_") from error
    longest = max(names, key=len, default="")
    if len(longest) > NAME_LIMIT:
        raise UserError(
            f"{where} has a name of {len(longest):,} characters, {shown(longest[:20])} …: give "
            f"names of at most {NAME_LIMIT}"
        )
    return names


def _report_missing(part: str, count: int, notes: list[str]) -> None:
    if not count:
        return
    use = "their images are for stage 1 only" if part == "train" else "they are left out"
    notes.append(f"{count:,} example{'s' * (count > 1)} of the {part} split without a label: {use}")
