"""Cells of a csv file, whatever its encoding and delimiter."""

import csv
import io
import itertools
import re
from pathlib import Path
from typing import NamedTuple

from twostage_jax.errors import UserError
from twostage_jax.files import MIB, read_bytes

LIMIT = 256 * MIB
# In the order in which they are preferred: cells have commas more often than semicolons or tabs.
DELIMITERS = ("\t", ";", ",", " ")
DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", " ": "spaces"}
DECLARED = re.compile(
    r"sep=([,;\t ])\r?\n", re.IGNORECASE
)  # first line that Excel writes and reads
COMMENTS = re.compile(r"(?:#[^\n]*\n)+")
SAMPLE = 50  # rows that decide about delimiter and columns
# Beginnings of files of spreadsheet programs: a ZIP archive (xlsx, ods), an old Office file (xls).
SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")


class Table(NamedTuple):
    """Content of a csv file.

    Attributes:
        header: names of the columns, or None.
        rows: cells of each row, without empty rows; all as long as the longest.
        lines: number of each row in the file, from 1.
        notes: sentences on how it was read.
    """

    header: list[str] | None
    rows: list[list[str]]
    lines: list[int]
    notes: list[str]


def read_table(path: Path) -> Table:
    """Read the cells of a file, whatever its delimiter and encoding.

    Raises:
        UserError: a spreadsheet, or a file that cannot be read or is empty.
    """
    content = read_bytes(path, LIMIT, regular=True)
    if content.startswith(SPREADSHEETS):
        raise UserError(
            f"{path} is the file of a spreadsheet program: open it there and save it as CSV "
            "(File, Save as, CSV UTF-8), then give csv:FILE"
        )
    notes: list[str] = []
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", errors="replace")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252", errors="replace")
            notes.append("the csv is not UTF-8: it is read as Windows-1252")
    if "\0" in text:
        raise UserError(f"{path} is not a text file: give a csv file")
    declared = DECLARED.match(text)
    if declared is not None:
        text = "\n" + text[declared.end() :]  # an empty line keeps the numbers of the lines
    delimiter = declared.group(1) if declared is not None else _delimiter(text)
    text = _without_comments(text, delimiter, notes)
    try:
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter == " "
        )
        numbered = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"cannot read {path}: {error}; give a csv file") from error
    if not numbered:
        raise UserError(f"{path} is empty: give a csv file with a row for each image")
    width = max(len(row) for _, row in numbered)
    rows = [row + [""] * (width - len(row)) for _, row in numbered]
    if delimiter != "," and width > 1:
        notes.append(f"columns of the csv are separated by {DELIMITER_NAMES[delimiter]}")
    return Table(None, rows, [line for line, _ in numbered], notes)


def _without_comments(text: str, delimiter: str, notes: list[str]) -> str:
    """Empty the lines before the table that begin with # and are not divided into cells."""
    comments = COMMENTS.match(text)
    if comments is None or delimiter in comments.group():
        return text
    rest = text[comments.end() :]
    # A name in a list of names may begin with #, too.
    if delimiter not in rest.partition("\n")[0]:
        return text
    count = comments.group().count("\n")
    notes.append(f"comments before the table, not read: {count:,}")
    return "\n" * count + rest


def _delimiter(text: str) -> str:
    """Return the delimiter that cuts the first rows into the same number of cells, at least two."""
    lines = list(itertools.islice(io.StringIO(text, newline=""), 20 * SAMPLE))
    best = (0.0, 0)
    chosen = ","
    for delimiter in DELIMITERS:
        try:
            reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter == " ")
            widths = [len(row) for row in itertools.islice(reader, SAMPLE) if any(row)]
        except csv.Error:
            continue
        if not widths or max(widths) < 2:
            continue
        if delimiter == " " and widths[0] < 2:
            continue  # a header of one column above names with spaces
        usual = max(set(widths), key=widths.count)
        share = widths.count(usual) / len(widths) if usual > 1 else 0.0
        # A path may have spaces, so a space is only taken where nothing else divides the rows.
        if share > best[0]:
            best = (share, usual)
            chosen = delimiter
    return chosen
