"""Tables of images: a csv file with a path, and perhaps a label and a group, in each row."""

from collections.abc import Sequence
from pathlib import Path

from twostage_jax.data.columns import Columns, class_of, find_columns
from twostage_jax.data.folder import POOL, SPLITS
from twostage_jax.data.listing import Entry
from twostage_jax.data.located import Files
from twostage_jax.data.marks import original
from twostage_jax.data.names import listed
from twostage_jax.data.spec import Reading, expanded
from twostage_jax.data.table import Table, read_table
from twostage_jax.errors import UserError, shown

SHOWN = {"rows without a file": 8, "files without a row": 3}  # names in a message


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
    absent: list[str] = []
    conflicts: list[str] = []
    repeated = 0
    for number, (row, line) in enumerate(zip(table.rows, table.lines, strict=True)):
        text = row[columns.path].strip()
        file = files.find(text, line)
        if file is None:
            absent.append(text)
            continue
        entry = _as_entry(table, columns, number, file, path)
        before = entries.setdefault(file, entry)
        if before is not entry:
            repeated += 1
            if before[2:5] != entry[2:5]:
                conflicts.append(_conflict(before, entry, line))
    if conflicts:
        raise UserError(
            f"{path} has rows that contradict an earlier row of the same image, "
            f"{len(conflicts):,}: {listed(conflicts, 3)}; keep one row for each image"
        )
    if not entries:
        raise UserError(_no_files(path, absent, files))
    if repeated:
        notes.append(f"rows that repeat another row, read once: {repeated:,}")
    notes += files.notes()
    _report("rows without a file", absent, path, reading, notes, "they are left out")
    use = "they are left out"
    if not as_pool:
        use = f"--unlabeled folder:{files.folder} trains stage 1 on them"
    if reading.unlabeled:
        use = ""
    _report("files without a row", files.without_row(entries), path, reading, notes, use)
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
        raise UserError(_no_files(path, [text for text, _ in rows], files))
    return rows, [*table.notes, *files.notes()]


def _open_csv(path: Path, reading: Reading, as_pool: bool) -> tuple[Table, Columns, Files]:
    """Read a csv file, and find its columns and the folder of its files."""
    folder = expanded(reading.image_dir) if reading.image_dir else path.parent
    if not folder.is_dir():
        raise UserError(f"--image-dir {folder} is not a folder: give the folder of the images")
    cells = read_table(path)
    files = Files(folder, reading.image_dir is not None, path)
    table, columns = find_columns(cells, files, path, reading, as_pool)
    return table, columns, files


def _as_entry(table: Table, columns: Columns, number: int, file: str, path: Path) -> Entry:
    """Return the image of a row.

    Raises:
        UserError: a split with an unknown name.
    """
    row = table.rows[number]
    label = original(class_of(row, columns, table.header))
    group = original(row[columns.group].strip()) if columns.group is not None else ""
    split = "train"
    if columns.split is not None:
        text = row[columns.split].strip()
        if text.lower() not in SPLITS:
            raise UserError(
                f"line {table.lines[number]} of {path} has the split {shown(text)}: give train, "
                "validation, test or unlabeled in each row, or --split-column off"
            )
        split = SPLITS[text.lower()]
    label = "" if split == POOL else label
    return Entry(file, row[columns.path].strip(), split, label, group, number)


def _conflict(before: Entry, entry: Entry, line: int) -> str:
    """Return the difference of two rows of an image, in words."""
    for kind in ("label", "group", "split"):
        values = (getattr(before, kind), getattr(entry, kind))
        if values[0] != values[1]:
            break
    return (
        f"line {line} gives {shown(entry.path)} a second {kind} ({shown(values[0])} and "
        f"{shown(values[1])})"
    )


def _report(
    kind: str, names: Sequence[str], path: Path, reading: Reading, notes: list[str], use: str
) -> None:
    if not names:
        return
    text = f"{kind}: {len(names):,} ({listed([shown(name) for name in names], SHOWN[kind])})"
    if reading.strict:
        raise UserError(f"{path} has {text}: correct it, or leave out --strict")
    notes.append(f"{text}; {use}" if use else text)


def _no_files(path: Path, absent: Sequence[str], files: Files) -> str:
    if not absent:
        return f"{path} has no rows: give a csv file with a row for each image"
    text = f"none of the {len(absent):,} files in {path} exists in {files.folder}"
    other = files.with_other_ending(absent[0])
    if other is not None:
        return (
            f"{text}: it has {shown(other)} instead of {shown(absent[0])}; correct the endings in "
            "the csv, or leave them out"
        )
    return (
        f"{text}, for instance {shown(absent[0])}: give --image-dir with the folder that the paths "
        "start from, or --path-column"
    )
