"""Tables of images: a csv file with a path, and perhaps a label and a group, in each row."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from twostage_jax.data.listing import ENDINGS, Entry
from twostage_jax.data.located import Files
from twostage_jax.data.marks import original
from twostage_jax.data.names import listed
from twostage_jax.data.spec import Reading, expanded
from twostage_jax.data.table import SAMPLE, Table, read_table
from twostage_jax.errors import UserError, shown

SHOWN = 8  # names in a message
PATH_NAMES = (
    "path file filename file_name filepath file_path image image_path image_file image_name img"
    " img_path image_id images files photo picture id name"
).split()
LABEL_NAMES = "label labels class classes class_name category target y diagnosis species dx".split()


def list_csv(path: Path, reading: Reading, as_pool: bool = False) -> tuple[list[Entry], list[str]]:
    """List the images of a csv file with their labels and groups, and notes.

    With `as_pool`, labels do not matter.

    Raises:
        UserError: a file that is no csv or has other columns; paths that lead out of the folder;
            no row with a file; with `strict`, a row without a file or a file without a row.
    """
    table, columns, files = _open_csv(path, reading, as_pool)
    notes = table.notes
    entries: dict[str, Entry] = {}
    absent = []
    repeated = 0
    for number, (row, line) in enumerate(zip(table.rows, table.lines, strict=True)):
        text = row[columns.path].strip()
        file = files.find(text, line)
        if file is None:
            absent.append(text)
            continue
        label = original(row[columns.label].strip()) if columns.label is not None else ""
        group = original(row[columns.group].strip()) if columns.group is not None else ""
        entry = Entry(file, text, "train", label, group, number)
        before = entries.setdefault(file, entry)
        if before is not entry:
            repeated += 1
            if (before.label, before.group) != (label, group):
                raise UserError(
                    f"line {line} of {path} gives {shown(text)} a second label or group "
                    f"({shown(before.label)} and {shown(label)}): keep one row for each image"
                )
    if not entries:
        raise UserError(_no_files(path, files.folder, table, absent))
    if repeated:
        notes.append(f"rows that repeat another row, read once: {repeated:,}")
    unlisted = files.without_row(entries)
    _report("rows without a file", absent, path, reading, notes)
    _report("files without a row", unlisted, path, reading, notes)
    return list(entries.values()), notes


def list_rows(path: Path, reading: Reading) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Return the path in each row of a csv file with its file, and notes.

    Rows are in order and none is left out. The file is None if it does not exist.

    Raises:
        UserError: a file that is no csv or has other columns; paths that lead out of the folder;
            no row with a file.
    """
    table, columns, files = _open_csv(path, reading, as_pool=True)
    rows = []
    for row, line in zip(table.rows, table.lines, strict=True):
        text = row[columns.path].strip()
        rows.append((original(text), files.find(text, line)))
    if all(file is None for _, file in rows):
        raise UserError(_no_files(path, files.folder, table, [text for text, _ in rows]))
    return rows, table.notes


def _open_csv(path: Path, reading: Reading, as_pool: bool) -> tuple[Table, "Columns", Files]:
    """Read a csv file, and find its columns and the folder of its files."""
    folder = expanded(reading.image_dir) if reading.image_dir else path.parent
    if not folder.is_dir():
        raise UserError(f"--image-dir {folder} is not a folder: give the folder of the images")
    cells = read_table(path)
    files = Files(folder, reading.image_dir is not None, path)
    table, columns = _columns(cells, files, path, reading, as_pool)
    return table, columns, files


def _report(
    kind: str, names: Sequence[str], path: Path, reading: Reading, notes: list[str]
) -> None:
    if not names:
        return
    text = f"{kind}: {len(names):,} ({listed([shown(name) for name in names], SHOWN)})"
    if reading.strict:
        raise UserError(f"{path} has {text}: correct it, or leave out --strict")
    notes.append(f"{text}; they are left out")


def _no_files(path: Path, folder: Path, table: Table, absent: Sequence[str]) -> str:
    if not absent:
        return f"{path} has no rows: give a csv file with a row for each image"
    return (
        f"none of the {len(absent):,} files in {path} exists in {folder}, for instance "
        f"{shown(absent[0])}: give --image-dir with the folder that the paths start from, or "
        "--path-column"
    )


class Columns(NamedTuple):
    """Positions of the columns; None for one that is not there."""

    path: int
    label: int | None
    group: int | None


def _columns(
    table: Table, files: Files, path: Path, reading: Reading, as_pool: bool
) -> tuple[Table, Columns]:
    """Find header and columns, and note the decision.

    Raises:
        UserError: a column that is not there, or that is not certain.
    """
    width = len(table.rows[0])
    first = [cell.strip() for cell in table.rows[0]]
    asked = (reading.path_column, reading.label_column, reading.group_column)
    by_name = [name for name in asked if name and not _is_number(name, first)]
    has_header = bool(by_name) or _looks_like_header(table, files, reading)
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
    label = position(reading.label_column, "--label-column")
    group = position(reading.group_column, "--group-column")
    if at is None:
        at = _path_column(table, header, files, {label, group}, path)
    taken = {at, group}
    if label is None and not as_pool:
        label = _label_column(header, width, taken, names, path)
    if at == label:
        raise UserError(
            f"{path}: paths and labels come from the same column {names[at]!r}: give another "
            "--label-column"
        )
    words = [f"paths from column {names[at]!r}"]
    words.append("no labels" if label is None else f"labels from {names[label]!r}")
    words += [f"groups from {names[group]!r}"] if group is not None else []
    kind = "with a header" if has_header else "without a header"
    table.notes.append(f"csv {kind}: {', '.join(words)}")
    return table, Columns(at, label, group)


def _is_number(name: str, header: Sequence[str]) -> bool:
    return name.isdecimal() and name not in header


def _looks_like_header(table: Table, files: Files, reading: Reading) -> bool:
    """Return True if the first row has names and no file."""
    first = [cell.strip() for cell in table.rows[0]]
    if any(files.exists(cell) for cell in first):
        return False
    named_columns = {cell.lower() for cell in first} & {*PATH_NAMES, *LABEL_NAMES}
    # Without a known name: a header is a row without a file above rows with files.
    below = table.rows[1 : 1 + SAMPLE]
    return bool(named_columns) or any(files.exists(cell.strip()) for row in below for cell in row)


def _path_column(
    table: Table, header: list[str] | None, files: Files, taken: set[int | None], path: Path
) -> int:
    """Return the column whose cells are files.

    Raises:
        UserError: a column that is not certain.
    """
    rows = table.rows[:SAMPLE]
    columns = range(len(table.rows[0]) if rows else len(header or []))
    counts = {c: sum(files.exists(row[c].strip()) for row in rows) for c in columns}
    lower = [name.lower() for name in header or []]
    named_columns = [lower.index(name) for name in PATH_NAMES if name in lower]
    if any(counts.values()):
        # Of equal columns one that has no other meaning, with a known name, then the first.
        return max(counts, key=lambda c: (counts[c], c not in taken, c in named_columns, -c))
    # Files that do not exist are reported with the folder where they were sought.
    named = [c for c in columns if any(row[c].lower().endswith(ENDINGS) for row in rows)]
    candidates = [c for c in (*named_columns, *named, *columns[:1]) if c not in taken]
    if candidates and (named_columns or named or len(columns) == 1):
        return candidates[0]
    first = header if header is not None else table.rows[0]
    raise UserError(
        f"{path} has the columns {listed(first, 20)}, and none has the names of files in "
        f"{files.folder}: give --path-column, or --image-dir with the folder of the images"
    )


def _label_column(
    header: list[str] | None, width: int, taken: set[int | None], names: Sequence[str], path: Path
) -> int | None:
    """Return the column of the labels; None if the only column has the paths."""
    free = [column for column in range(width) if column not in taken]
    if not free:
        return None
    lower = [name.lower() for name in header or []]
    named_columns = [lower.index(name) for name in LABEL_NAMES if name in lower]
    named_columns = [column for column in named_columns if column in free]
    if named_columns:
        return named_columns[0]
    if len(free) == 1:
        return free[0]
    raise UserError(
        f"{path} has the columns {listed(names, 20)}: say with --label-column which one has the "
        "labels"
    )
