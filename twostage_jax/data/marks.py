"""Labels that a person writes into a csv file, and the files that ask for them."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from twostage_jax.data.names import listed
from twostage_jax.errors import UserError, shown
from twostage_jax.files import MIB, read_text

LIMIT = 64 * MIB
DELIMITERS = ",;\t"  # spreadsheets write semicolons if the comma is the decimal mark


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Content of a csv file in UTF-8.

    >>> csv_bytes(("index", "label"), [(7, ""), (9, "a,b")])
    b'index,label\\n7,\\n9,"a,b"\\n'
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue().encode()


def read_labels(
    path: Path | str, rows: np.ndarray, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Read the labels of some images from a csv file with the columns `index` and `label`.

    Other columns are ignored, and so are rows with an empty label.

    Args:
        path: file in UTF-8; columns are separated by commas, semicolons or tabs.
        rows: `index` of each image, int `[N]`.
        classes: names of the K classes; a label is one of them.

    Returns:
        Positions in `rows`, int32 `[L]` in rising order, and their labels, int32 `[L]`.

    Raises:
        UserError: a file that cannot be read, a missing column, an index or a class that does not
            exist, or an image with two labels.
    """
    reader = _reader(path)
    position = {int(row): number for number, row in enumerate(rows)}
    number = {name: k for k, name in enumerate(classes)}
    labels: dict[int, int] = {}
    for line, (index, name) in _cells(reader, path):
        if not name:
            continue
        place = position.get(int(index)) if index.isdecimal() else None
        if place is None:
            raise UserError(
                f"line {line} of {path} has the index {shown(index)}, but no image has it: keep "
                "the indices that twostage study next wrote for the same data"
            )
        if name not in number:
            raise UserError(
                f"line {line} of {path} has the label {shown(name)}: give one of {listed(classes)}"
            )
        if labels.setdefault(place, number[name]) != number[name]:
            raise UserError(f"line {line} of {path} gives index {index} a second label: keep one")
    positions = sorted(labels)
    return np.array(positions, np.int32), np.array([labels[i] for i in positions], np.int32)


def _reader(path: Path | str) -> list[list[str]]:
    # A spreadsheet may begin the file with a byte order mark.
    text = read_text(path, LIMIT).removeprefix("\ufeff")
    first = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first.count)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise UserError(f"cannot read {path}: {error}; give a csv file") from error


def _cells(lines: list[list[str]], path: Path | str) -> Iterable[tuple[int, tuple[str, str]]]:
    """Number of each line and its cells `index` and `label`."""
    header = [name.strip() for name in lines[0]] if lines else []
    if "index" not in header or "label" not in header:
        raise UserError(
            f"{path} has the columns {listed(header) or 'none'}: give a csv file with the columns "
            "index and label, as twostage study next writes it"
        )
    columns = (header.index("index"), header.index("label"))
    for line, cells in enumerate(lines[1:], start=2):
        # Editors leave empty lines.
        if any(cells):
            cells = cells + [""] * len(header)
            index, name = (cells[column].strip() for column in columns)
            yield line, (index, name)
