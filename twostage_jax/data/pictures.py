"""Sources with one file for each image: `folder:` and `csv:`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from twostage_jax.data.cache import Cache, Decoded, describe_files
from twostage_jax.data.csv import list_csv
from twostage_jax.data.decode import Form
from twostage_jax.data.folder import list_folder
from twostage_jax.data.form import SAMPLE, choose_form, pixel_limit
from twostage_jax.data.grouping import with_groups
from twostage_jax.data.listing import Entry
from twostage_jax.data.names import listed
from twostage_jax.data.pixels import Array
from twostage_jax.data.source import BrokenFile, Source
from twostage_jax.data.spec import Progress, Reading
from twostage_jax.data.spelling import doubtful_labels, with_one_spelling, without_names
from twostage_jax.data.split import Split
from twostage_jax.data.targets import NUMBER, read_class_names
from twostage_jax.errors import UserError, printable, shortened

LISTERS: dict[str, Callable[[Path, Reading, bool], tuple[list[Entry], list[str]]]] = {
    "folder": list_folder,
    "csv": list_csv,
}
DARK = 64
NOTE_LIMIT = 500  # characters; names of files can be long


class BrokenFiles(UserError):
    """Files that cannot be decoded; `details` has all of them with the reason."""

    def __init__(self, message: str, details: Sequence[str]) -> None:
        super().__init__(message)
        self.details = tuple(printable(detail) for detail in details)


def read(
    kind: str,
    path: Path,
    reading: Reading,
    progress: Progress | None = None,
    as_pool: bool = False,
) -> Source:
    """Read the images of a folder or a csv file.

    Args:
        kind: `folder` or `csv`.
        path: the folder or file.
        reading: settings of reading.
        progress: called with the number of images decoded and of all.
        as_pool: True if all images but those of a test split are read without labels.

    Raises:
        UserError: files that are missing, broken or contradict each other; one message for all.
    """
    entries, notes = LISTERS[kind](path, reading, as_pool)
    if as_pool:
        entries = _without_labels(entries, path, notes)
    else:
        entries = without_names(entries, reading.unlabeled_label or (), notes)
        entries = with_one_spelling(entries, bool(reading.merge_labels), path, notes)
        notes += doubtful_labels(entries)
    held_out = sum(not entry.label and entry.split in ("validation", "test") for entry in entries)
    if held_out:
        notes.append(f"unlabelled images of validation and test, not used: {held_out:,}")
    entries = with_groups(entries, reading.group_by, notes)
    files = describe_files([entry.file for entry in entries], [entry.path for entry in entries])
    cache = Cache(reading.cache_dir, notes)
    form = choose_form(files, reading, cache, notes)
    decoded = cache.read_images(files, form, pixel_limit(reading), progress)
    broken = [BrokenFile(entries[x.row].path, x.reason) for x in decoded.broken]
    if broken and not reading.skip_broken:
        raise BrokenFiles(_broken_message(path, broken, len(entries)), list(map(str, broken)))
    if broken:
        files = "1 broken file is" if len(broken) == 1 else f"{len(broken):,} broken files are"
        notes.append(f"{files} left out: {listed(map(str, broken), 3)}")
    if len(broken) == len(entries):
        raise BrokenFiles(
            f"none of the {len(entries):,} images of {path} can be decoded: give other files",
            list(map(str, broken)),
        )
    notes += _note_on_dark(decoded.image)
    source = _as_source(path.stem if kind == "csv" else path.name, entries, decoded, form)
    notes = [printable(shortened(note, NOTE_LIMIT)) for note in notes]
    return source._replace(notes=tuple(notes), broken=tuple(broken))


def _note_on_dark(images: np.ndarray) -> list[str]:
    """Return a sentence if a sample of images uses less than a quarter of the range of values."""
    step = -(-len(images) // SAMPLE)
    brightest = int(images[::step].max(initial=0))
    if brightest >= DARK:
        return []
    return [
        f"all images are dark, at most {brightest} of 255: if the files have 16 bits and values up "
        "to 4,095, scale them to the full range, or most grey levels are lost"
    ]


def _broken_message(path: Path, broken: Sequence[BrokenFile], count: int) -> str:
    return (
        f"{len(broken):,} of {count:,} images of {path} cannot be decoded: "
        f"{listed(map(str, broken), 3)}; repair or remove them, leave them out with --skip-broken, "
        "or raise --pixel-limit for images that are too large"
    )


def _without_labels(entries: list[Entry], path: Path, notes: list[str]) -> list[Entry]:
    """Return the images, but those of a test split, as unlabelled ones.

    Raises:
        UserError: no other images than those of a test split.
    """
    kept = [entry._replace(split="", label="") for entry in entries if entry.split != "test"]
    if not kept:
        raise UserError(f"{path} has only images of a test split: give other images to train on")
    if len(kept) < len(entries):
        notes.append(f"images of its test split, not used: {len(entries) - len(kept):,}")
    return kept


def _as_source(name: str, entries: list[Entry], decoded: Decoded, form: Form) -> Source:
    """Return the images by split, with labels as numbers."""
    present = {entry.label for entry in entries} - {""}
    is_number = all(map(NUMBER.fullmatch, present))
    # 2 comes before 10, as the text of the labels would not have it.
    order = sorted(present, key=lambda label: (float(label) if is_number else 0, label))
    classes: tuple[str, ...] = ()
    if order:
        classes = read_class_names(Array(np.array(order, str), name))
    groups = tuple(sorted({entry.group for entry in entries} - {""}))
    columns = _columns(entries, decoded, classes, groups)
    part = np.array([entry.split if entry.label else "" for entry in entries], "U10")
    # An unlabelled image of another split than train would be trained on, if it came to the pool.
    pool = np.array([not entry.label and entry.split in ("train", "") for entry in entries])
    is_whole = np.ones(len(entries), bool)
    is_whole[[x.row for x in decoded.broken]] = False
    splits: dict[str, Split] = {}
    for split in ("train", "validation", "test"):
        mask = (part == split) & is_whole
        if mask.any():
            # All images of a source without splits stay in the memory map, without a copy.
            chosen = slice(None) if mask.all() else mask
            splits[split] = {key: values[chosen] for key, values in columns.items()}
    unlabelled = {key: values[pool & is_whole] for key, values in columns.items()}
    del unlabelled["label"], unlabelled["row"]
    images = unlabelled.pop("image")
    return Source(
        name=name,
        train=splits.get("train"),
        test=splits.get("test"),
        classes=classes,
        unlabelled=images if len(images) else None,
        validation=splits.get("validation"),
        pool=unlabelled if len(images) else None,
        groups=groups,
        fit=form.fit,
    )


def _columns(
    entries: list[Entry], decoded: Decoded, classes: Sequence[str], groups: Sequence[str]
) -> Split:
    number = {name: index for index, name in enumerate(classes)}
    columns: Split = {
        "image": decoded.image,
        "label": np.array([number.get(entry.label, -1) for entry in entries], np.int32),
        "row": np.array([entry.row for entry in entries], np.int32),
        "path": np.array([entry.path for entry in entries], str),
        # Decides which images two sources have in common.
        "file": np.array([entry.file for entry in entries], object),
    }
    if groups:
        index = {name: position for position, name in enumerate(groups)}
        columns["group"] = np.array([index[entry.group] for entry in entries], np.int32)
    return columns
