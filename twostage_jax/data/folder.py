"""Images in folders: `DIR/SPLIT/CLASS/*`, `DIR/CLASS/*`, `DIR/unlabeled/*`, or `DIR/*`."""

import os
from collections import Counter
from pathlib import Path

from twostage_jax.data.listing import Entry, Listing, find_images, others_note
from twostage_jax.data.names import listed
from twostage_jax.data.spec import Reading
from twostage_jax.errors import UserError, shown

# Names of folders, in lower case, and the split that they stand for; empty for unlabelled images.
POOL = ""
SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
    "unlabeled": POOL,
    "unlabelled": POOL,
}
UNUSED = "unused"
HELD_OUT = "held out"  # of a split that nothing may be trained on


def list_folder(
    root: Path, reading: Reading, as_pool: bool = False
) -> tuple[list[Entry], list[str]]:
    """List the images of a folder with their splits and labels, and notes on the others.

    With `as_pool`, labels do not matter, and images outside of the folders of classes count.

    Raises:
        UserError: a folder that cannot be read or has no images.
    """
    if root.is_file():
        raise UserError(f"{root} is a file: give a folder of images, or csv:FILE for a table")
    listing = find_images(root, reading.glob, _has_classes)
    if not listing.images:
        raise UserError(_nothing(root, listing, reading))
    notes = others_note(listing, reading.glob)
    by_split = _has_splits(listing.images)
    entries = _as_entries(root, listing.images, notes, by_split, as_pool)
    if as_pool:
        return entries, notes
    folders = _class_folders(root, by_split)
    missing = sorted(folders - {entry.label for entry in entries})
    if missing:
        notes.append(f"folders without an image, not used as classes: {listed(map(repr, missing))}")
    return entries, notes


def _has_classes(parts: tuple[str, ...]) -> bool:
    """Return True for the folder itself and the folders of splits."""
    return not parts or (len(parts) == 1 and parts[0].lower() in SPLITS)


def _nothing(root: Path, listing: Listing, reading: Reading) -> str:
    counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(listing.unread.items())[:8])
    if reading.glob:
        remedy = f"no file matches --glob {shown(reading.glob)}; give another pattern"
    else:
        remedy = "give a folder of PNG, JPEG, BMP, GIF, TIFF or WebP files"
    return f"{root} has no images{f', only {counts}' if counts else ''}: {remedy}"


def _as_entries(
    root: Path, images: list[tuple[str, ...]], notes: list[str], by_split: bool, as_pool: bool
) -> list[Entry]:
    """Return the images with their splits and labels, by the names of their folders."""
    base = os.fspath(root)
    if not any(len(parts) > 1 for parts in images):
        notes.append("no sub-folders: all images are unlabelled")
        return [Entry(f"{base}/{parts[0]}", parts[0], row=row) for row, parts in enumerate(images)]
    unused: Counter[str] = Counter()
    entries = []
    meanings: dict[tuple[str, ...], tuple[str, str]] = {}
    for row, parts in enumerate(images):
        folder = parts[:-1]
        if folder not in meanings:
            meanings[folder] = _meaning(folder, by_split)
        split, label = meanings[folder]
        path = "/".join(parts)
        if split == UNUSED and as_pool:
            split = POOL
        if split in (UNUSED, HELD_OUT):
            unused[label] += 1
        else:
            entries.append(Entry(f"{base}/{path}", path, split, label, row=row))
    notes += [f"not used: {count:,} images {where}" for where, count in sorted(unused.items())]
    return entries


def _has_splits(images: list[tuple[str, ...]]) -> bool:
    """Return True if the top folders are splits and not classes."""
    tops = {parts[0].lower() for parts in images if len(parts) > 1}
    # A class may be called `train`: then it has images and no classes below it.
    with_classes = {parts[0].lower() for parts in images if len(parts) > 2}
    splits = {name for name in tops if SPLITS.get(name)}
    return bool(splits & with_classes) or (bool(splits) and tops <= SPLITS.keys())


def _meaning(folder: tuple[str, ...], by_split: bool) -> tuple[str, str]:
    """Return split and label of the images of a folder; for unused ones, `unused` and where."""
    if not folder:
        return UNUSED, "beside the folders"
    top = folder[0].lower()
    if SPLITS.get(top) == POOL:
        return POOL, ""
    if not by_split:
        return "train", folder[0]
    split = SPLITS.get(top)
    if split is None:
        return UNUSED, f"in {folder[0]!r}, which is no split"
    has_class = len(folder) > 1
    if has_class and SPLITS.get(folder[1].lower()) != POOL:
        return split, folder[1]
    # An unlabelled image of the test split must not be trained on.
    return (POOL, "") if split == "train" else (HELD_OUT, f"of {split} without a class")


def _class_folders(root: Path, by_split: bool) -> set[str]:
    """Return the names of the folders at the place of the classes."""
    places = [root]
    if by_split:
        places = [path for path in root.iterdir() if SPLITS.get(path.name.lower())]
    folders = [path for place in places if place.is_dir() for path in place.iterdir()]
    return {
        path.name
        for path in folders
        if path.name.lower() not in SPLITS
        and not path.name.startswith((".", "__MACOSX"))
        and path.is_dir()
    }
