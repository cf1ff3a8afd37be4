"""Columns of a csv file: paths, labels, groups and splits, found by name and content."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from twostage_jax.data.folder import SPLITS
from twostage_jax.data.listing import ENDINGS
from twostage_jax.data.located import Files
from twostage_jax.data.names import listed
from twostage_jax.data.spec import OFF, Reading
from twostage_jax.data.table import SAMPLE, Table, read_table
from twostage_jax.errors import UserError, shown

PATH_NAMES = (
    "path file filename file_name filepath file_path image image_path image_file image_name img"
    " img_path image_id images files photo picture id name"
).split()
LABEL_NAMES = "label labels class classes class_name category target y diagnosis species dx".split()
SPLIT_NAMES = ("split", "splits", "subset", "set", "partition", "data_split", "dataset_split")
GROUP_NAME = re.compile(
    "(patient|subject|person|participant|individual|animal|lesion|case|slide|camera|group)s?"
    "([ _-]?(id|ids|no|nr|number|name))?"
)
NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]*)?")
ZERO_OR_ONE = {"0": False, "0.0": False, "1": True, "1.0": True}
# Of more different values than this, most must be in several rows to be classes.
FEW_VALUES = 20


class Columns(NamedTuple):
    """Positions of the columns; None for one that is not there.

    `one_hot` has the columns that are named like a class, with 1 in the column of the row's class
    and 0 in the others.
    """

    path: int
    label: int | None = None
    group: int | None = None
    split: int | None = None
    one_hot: tuple[int, ...] = ()


def find_columns(
    table: Table, files: Files, path: Path, reading: Reading, as_pool: bool
) -> tuple[Table, Columns]:
    """Find header and columns, and note the decision.

    With `as_pool`, labels do not matter.

    Raises:
        UserError: a column that is not there, or that is not certain.
    """
    width = len(table.rows[0])
    first = [cell.strip() for cell in table.rows[0]]
    split_column = None if reading.split_column == OFF else reading.split_column
    asked = (reading.path_column, reading.label_column, reading.group_column, split_column)
    by_name = [name for name in asked if name and (name in first or not name.isdecimal())]
    has_header = bool(by_name) or _looks_like_header(table, files)
    header = first if has_header else None
    if header is not None:
        table = table._replace(header=header, rows=table.rows[1:], lines=table.lines[1:])
    names = header or [str(number) for number in range(1, width + 1)]

    def position(name: str | None, flag: str) -> int | None:
        if name is None:
            return None
        if header is not None and name in header:
            return header.index(name)
        if name.isdecimal() and 1 <= int(name) <= width:
            return int(name) - 1
        raise UserError(
            f"{path} has no column {shown(name)}: give {flag} one of {listed(names, 20)}, or a "
            f"number from 1 to {width}"
        )

    at = position(reading.path_column, "--path-column")
    several = () if as_pool or header is None else _several(reading.label_column, header)
    label = None
    if not several and not as_pool:
        label = position(reading.label_column, "--label-column")
    group = position(reading.group_column, "--group-column")
    split = position(split_column, "--split-column")
    if split is None and reading.split_column is None:
        split = _split_column(table, {at, label, group})
    if at is None:
        at = _path_column(table, files, {label, group, split}, path)
    columns = Columns(at, label, group, split, several)
    if several:
        _check_one_hot(table, several, path)
    elif label is None and not as_pool:
        columns = _with_labels(table, columns, names, path)
    if at == label:
        raise UserError(
            f"{path}: paths and labels come from the same column {names[at]!r}: give another "
            "--label-column"
        )
    table.notes.extend(_notes(table, columns, names, reading, as_pool))
    return table, columns


def for_another_table(reading: Reading, path: Path) -> tuple[Reading, tuple[str, ...]]:
    """Return settings of another table without the columns that this table lacks, and notes."""
    first = [cell.strip() for cell in read_table(path).rows[0]]
    notes = []
    values = {"label_column": None}  # labels of more unlabelled images do not matter
    for field in ("path_column", "group_column", "split_column"):
        name = getattr(reading, field)
        is_number = name is not None and name.isdecimal() and 1 <= int(name) <= len(first)
        if name not in (None, OFF, *first) and not is_number:
            values[field] = None
            flag = f"--{field.replace('_', '-')}"
            notes.append(f"{path.name} has no column {shown(name)}, so {flag} is ignored")
    return reading._replace(**values), tuple(notes)


def _looks_like_header(table: Table, files: Files) -> bool:
    """Return True if the first row has names and no file."""
    first = [cell.strip() for cell in table.rows[0]]
    if any(files.exists(cell) for cell in first):
        return False
    named_columns = {cell.lower() for cell in first} & {*PATH_NAMES, *LABEL_NAMES}
    # Without a known name: a header is a row without a file above rows with files.
    below = table.rows[1 : 1 + SAMPLE]
    return bool(named_columns) or any(files.exists(cell.strip()) for row in below for cell in row)


def _named(table: Table, names: Sequence[str]) -> list[int]:
    """Return the columns with one of the usual names, in the order of these names."""
    lower = [name.lower() for name in table.header or []]
    return [lower.index(name) for name in names if name in lower]


def _values(table: Table, column: int) -> list[str]:
    """Return the cells of a column that are not empty."""
    return [text for row in table.rows if (text := row[column].strip())]


def _split_column(table: Table, taken: set[int | None]) -> int | None:
    """Return the column with a usual name in which every row has the name of a split."""
    for column in _named(table, SPLIT_NAMES):
        values = _values(table, column)
        is_whole = len(values) == len(table.rows) > 0
        if column not in taken and is_whole and {x.lower() for x in values} <= SPLITS.keys():
            return column
    return None


def _path_column(table: Table, files: Files, taken: set[int | None], path: Path) -> int:
    """Return the column whose cells are files.

    Raises:
        UserError: a column that is not certain.
    """
    rows = table.rows[:SAMPLE]
    columns = range(len(table.rows[0]) if rows else len(table.header or []))
    counts = {c: sum(files.exists(row[c].strip()) for row in rows) for c in columns}
    named_columns = _named(table, PATH_NAMES)
    if any(counts.values()):
        # Of equal columns one that has no other meaning, with a known name, then the first.
        return max(counts, key=lambda c: (counts[c], c not in taken, c in named_columns, -c))
    # Files that do not exist are reported with the folder where they were sought.
    named = [c for c in columns if any(row[c].lower().endswith(ENDINGS) for row in rows)]
    candidates = [c for c in (*named_columns, *named, *columns[:1]) if c not in taken]
    if candidates and (named_columns or named or len(columns) == 1):
        return candidates[0]
    first = table.header if table.header is not None else table.rows[0]
    raise UserError(
        f"{path} has the columns {listed(first, 20)}, and none has the names of files in "
        f"{files.folder}: give --path-column, or --image-dir with the folder of the images"
    )


def _with_labels(table: Table, columns: Columns, names: Sequence[str], path: Path) -> Columns:
    """Find the labels: a column with a usual name, the only other column, or one for each class.

    Raises:
        UserError: a column that is not certain.
    """
    free = [column for column in range(len(names)) if column not in columns]
    named = [column for column in _named(table, LABEL_NAMES) if column in free]
    if named or len(free) == 1:
        label = named[0] if named else free[0]
        _check_labels(table, label, names, path)
        return columns._replace(label=label)
    one_hot = _one_hot(table, free) if table.header else ()
    if free and not one_hot:
        raise UserError(
            f"{path} has the columns {listed(names, 20)}: give --label-column with the column of "
            "the labels"
        )
    return columns._replace(one_hot=one_hot)


def _check_labels(table: Table, column: int, names: Sequence[str], path: Path) -> None:
    """Refuse a column in which most rows have a value of their own, such as an age."""
    values = _values(table, column)
    count = len(set(values))
    if count > FEW_VALUES and 2 * count > len(values):
        raise UserError(
            f"{path} has {count:,} different values in {len(values):,} rows of column "
            f"{shown(names[column])}, such as {shown(values[0])}, so they do not look like "
            f"classes: give --label-column with the column of the labels, even if it is this one"
        )


def _one_hot(table: Table, free: Sequence[int]) -> tuple[int, ...]:
    """Return the columns of zeros and ones if each row has a single one in them.

    Empty if they are splits, or another column has texts, which may be the labels.
    """
    header = table.header or []
    columns = []
    for column in free:
        values = {row[column].strip() for row in table.rows}
        if values <= ZERO_OR_ONE.keys():
            columns.append(column)
        elif not all(map(NUMBER.fullmatch, values - {""})):
            return ()
    if any(header[column].lower().removeprefix("is_") in SPLITS for column in columns):
        return ()
    is_certain = len(columns) > 1 and all(_ones(row, columns) == 1 for row in table.rows)
    return tuple(columns) if is_certain else ()


def _ones(row: Sequence[str], columns: Sequence[int]) -> int:
    return sum(ZERO_OR_ONE.get(row[column].strip(), False) for column in columns)


def _several(name: str | None, header: Sequence[str]) -> tuple[int, ...]:
    """Return the columns that a text such as `MEL,NV` names; empty if it names no several."""
    if name is None or name in header:
        return ()
    names = [part.strip() for part in name.split(",")]
    if len(names) < 2 or not set(names) <= set(header):
        return ()
    return tuple(map(header.index, names))


def _check_one_hot(table: Table, columns: Sequence[int], path: Path) -> None:
    """Raise `UserError` if a row has several ones in some columns, or none."""
    for row, line in zip(table.rows, table.lines, strict=True):
        count = _ones(row, columns)
        if count != 1:
            raise UserError(
                f"line {line} of {path} has {count} ones in the columns of --label-column: give "
                "each image a single class"
            )


def class_of(row: Sequence[str], columns: Columns, header: Sequence[str] | None) -> str:
    """Return the text of the label of a row; empty if there is none."""
    if columns.one_hot and header is not None:
        return next(header[c] for c in columns.one_hot if _ones(row, [c]))
    return "" if columns.label is None else row[columns.label].strip()


def _notes(
    table: Table, columns: Columns, names: Sequence[str], reading: Reading, as_pool: bool
) -> list[str]:
    """Return sentences on the columns that are used, and on those that are not."""
    words = [f"paths from column {names[columns.path]!r}"]
    if columns.one_hot:
        words.append(f"a class for each of {listed([repr(names[c]) for c in columns.one_hot], 6)}")
    elif columns.label is not None:
        words.append(f"labels from {names[columns.label]!r}")
    else:
        words.append("no labels")
    words += [f"groups from {names[columns.group]!r}"] if columns.group is not None else []
    words += [f"splits from {names[columns.split]!r}"] if columns.split is not None else []
    used = {*columns[:4], *columns.one_hot}
    unused = [c for c in range(len(names)) if c not in used and names[c]]
    kind = "with a header" if table.header else "without a header"
    text = f"csv {kind}: {', '.join(words)}"
    if as_pool or not unused:
        return [text]
    notes = [f"{text}; not used: {listed([shown(names[c]) for c in unused], 12)}"]
    if columns.group is not None or reading.group_by:
        return notes
    for column in unused:
        if GROUP_NAME.fullmatch(names[column].lower()):
            count = len(set(_values(table, column)))
            if 1 < count < len(table.rows):
                notes.append(
                    f"column {names[column]!r} looks like groups ({count:,}): --group-column "
                    f"{names[column]!r} keeps each on one side of every split"
                )
    return notes
