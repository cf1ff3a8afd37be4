"""Labels that a person writes into a csv file, and the files that ask for them."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from twostage_jax.data.names import listed
from twostage_jax.errors import UserError, shown
from twostage_jax.files import MIB, read_text

LIMIT = 64 * MIB
DELIMITERS = ",;\t"  # spreadsheets write semicolons if the comma is the decimal mark
# A spreadsheet computes a cell that begins like this, and `=cmd()` in it can start a program.
FORMULA = re.compile(r"'*[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?[0-9]+([.][0-9]+)?(e[+-]?[0-9]+)?")


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Content of a csv file in UTF-8; text that a spreadsheet would compute gets a `'` before it.

    >>> csv_bytes(("index", "label"), [(7, "=a"), (9, "a,b")]).decode().splitlines()
    ['index,label', "7,'=a", '9,"a,b"']
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_neutral(cell) for cell in row] for row in rows)
    # A file name can have bytes that are no text.
    return file.getvalue().encode("utf-8", "backslashreplace")


def _neutral(cell: object) -> object:
    if isinstance(cell, str) and FORMULA.match(cell) and not NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def original(cell: str) -> str:
    """Return a cell as it was before `csv_bytes` made it harmless."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell[1:]) else cell


def read_labels(
    path: Path | str, rows: np.ndarray, classes: Sequence[str], paths: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read the labels of some images from a csv file with the columns `index` and `label`.

    Other columns are ignored, and so are rows with an empty label.

    Args:
        path: file in UTF-8; columns are separated by commas, semicolons or tabs.
        rows: `index` of each image, int `[N]`.
        classes: names of the K classes; a label is one of them. Without any, the file names them.
        paths: path of each image, text `[N]`, if the file may have a column `path` instead of
            `index`.

    Returns:
        Positions in `rows`, int32 `[L]` in rising order, and their labels, int32 `[L]`.

    Raises:
        UserError: a file that cannot be read, a missing column, an index or a class that does not
            exist, or an image with two labels.
    """
    reader = _reader(path)
    column = _identity(reader, path, paths is not None)
    identities = rows.tolist() if paths is None or column == "index" else paths.tolist()
    position = {str(identity): number for number, identity in enumerate(identities)}
    cells = list(_cells(reader, column))
    classes = classes or sorted({name for _, (_, name) in cells} - {""})
    number = {name: k for k, name in enumerate(classes)}
    labels: dict[int, int] = {}
    for line, (index, name) in cells:
        if not name:
            continue
        place = position.get(index)
        if place is None:
            raise UserError(
                f"line {line} of {path} has the {column} {shown(index)}, but no image has it: keep "
                f"the column {column} that twostage study next wrote for the same data"
            )
        if name not in number:
            raise UserError(
                f"line {line} of {path} has the label {shown(name)}: give one of {listed(classes)}"
            )
        if labels.setdefault(place, number[name]) != number[name]:
            raise UserError(
                f"line {line} of {path} gives {column} {index} a second label: keep one"
            )
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


def _identity(lines: list[list[str]], path: Path | str, with_paths: bool) -> str:
    """Return the column that says which image a row is about: `path` or `index`."""
    header = [name.strip() for name in lines[0]] if lines else []
    allowed = ("path", "index") if with_paths else ("index",)
    columns = [name for name in allowed if name in header]
    if not columns or "label" not in header:
        raise UserError(
            f"{path} has the columns {listed(header) or 'none'}: give a csv file with the columns "
            f"{' or '.join(allowed)} and label, as twostage study next writes it"
        )
    return columns[0]


def _cells(lines: list[list[str]], column: str) -> Iterable[tuple[int, tuple[str, str]]]:
    """Number of each line, and its cells in a column and in `label`."""
    header = [name.strip() for name in lines[0]]
    columns = (header.index(column), header.index("label"))
    for line, cells in enumerate(lines[1:], start=2):
        # Editors leave empty lines.
        if any(cells):
            cells = cells + [""] * len(header)
            index, name = (original(cells[column].strip()) for column in columns)
            yield line, (index, name)
