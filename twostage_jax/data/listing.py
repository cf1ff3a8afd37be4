"""Lists of image files in a folder and below it, in one order on every machine."""

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from twostage_jax.data.names import listed
from twostage_jax.errors import UserError, shown

ENDINGS = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".bmp",
    ".dib",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
)
# `cat_mask.png` beside `cat.png` is no second cat.
MASK = re.compile(
    r"(.+?)[ ._-]+(?:mask|masks|seg|segmentation|gt|groundtruth|annotation)(?:[ ._-]?\d+)?",
    re.IGNORECASE,
)
MASK_FOLDERS = ("mask", "masks", "segmentation", "segmentations", "annotation", "annotations")
MASKS = "masks"  # key of their count


class Entry(NamedTuple):
    """An image file of a source, before it is read.

    Attributes:
        file: the path to open.
        path: the path as the source gives it, relative to its folder, with `/`.
        split: `train`, `validation`, `test`, or empty for an image of the unlabelled pool.
        label: text of the label; empty if there is none.
        group: text of the group; empty if there is none.
        row: position in the sorted list of files of a folder, or row of a csv, from 0.
    """

    file: str
    path: str
    split: str = ""
    label: str = ""
    group: str = ""
    row: int = 0


class Listing(NamedTuple):
    """Files below a folder.

    Attributes:
        images: paths of the images relative to the folder, as tuples of names, sorted.
        unread: number of files that are not read, by ending or `masks`.
        repeated: number of links to folders that are read in another place already.
    """

    images: list[tuple[str, ...]]
    unread: Counter[str]
    repeated: int


def find_images(
    root: Path,
    glob: str | None = None,
    has_classes: Callable[[tuple[str, ...]], bool] = lambda parts: False,
) -> Listing:
    """List the images of a folder and its sub-folders.

    A link to a folder is followed, but no folder is read twice, so links may form a loop.

    Args:
        root: the folder.
        glob: pattern of names, or of relative paths if it has a `/`; it replaces all other rules
            but the one for hidden files.
        has_classes: True for a folder, as names below `root`, in which a folder called `masks` may
            be a class; elsewhere it is left out.

    Raises:
        UserError: a folder that does not exist or cannot be read.
    """
    images: list[tuple[str, ...]] = []
    unread: Counter[str] = Counter()
    repeated = 0
    seen: set[tuple[int, int]] = set()
    # A list of work instead of recursion: folders can be nested deeper than Python's stack.
    waiting: list[tuple[str, tuple[str, ...]]] = [(os.fspath(root), ())]
    links: list[tuple[str, tuple[str, ...]]] = []
    while waiting or links:
        # Links come last and in order, so a folder has the same path whatever the order on disk.
        if not waiting:
            links.sort(key=lambda link: (len(link[1]), link))
            waiting.append(links.pop(0))
        folder, parts = waiting.pop()
        files: list[str] = []
        for entry, is_folder in _entries(folder, seen):
            if entry is None:
                repeated += 1
            elif not is_folder:
                files.append(entry.name)
            elif entry.name.startswith(".") or entry.name == "__MACOSX":
                unread["hidden folders"] += 1
            elif not glob and entry.name.lower() in MASK_FOLDERS and not has_classes(parts):
                unread[f"folders {entry.name}"] += 1
            else:
                queue = links if entry.is_symlink() else waiting
                queue.append((entry.path, (*parts, entry.name)))
        chosen = _choose(files, parts, glob, unread)
        images += [(*parts, name) for name in chosen]
    images.sort()
    return Listing(images, unread, repeated)


def _entries(
    folder: str, seen: set[tuple[int, int]]
) -> Iterator[tuple["os.DirEntry[str] | None", bool]]:
    """Give each entry of a folder, and "is a folder"; None for a folder that was read before."""
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            yield None, True
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry, _is_folder(entry)
    except OSError as error:
        raise UserError(
            f"cannot list {folder}: {error.strerror}; give a folder that can be read"
        ) from error


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _choose(
    names: list[str], parts: tuple[str, ...], glob: str | None, unread: Counter[str]
) -> list[str]:
    """Return the names of images among the files of a folder, and count the others."""
    if glob:
        matches = _matcher(glob, parts)
        chosen = [name for name in names if not name.startswith(".") and matches(name)]
        unread.update(_ending(name) for name in set(names).difference(chosen))
        return chosen
    images = []
    masks: dict[str, str] = {}  # names that can be masks, with the stem of their image
    for name in names:
        stem, ending = os.path.splitext(name)
        # `._cat.jpg` is a file that macOS writes beside `cat.jpg`.
        if name.startswith(".") or ending.lower() not in ENDINGS:
            unread[_ending(name)] += 1
            continue
        images.append(name)
        match = MASK.fullmatch(stem)
        if match is not None:
            masks[name] = match.group(1)
    if not masks:  # a set of all stems would take as much memory as the names
        return images
    stems = {os.path.splitext(name)[0] for name in images}
    chosen = [name for name in images if masks.get(name) not in stems]
    if len(chosen) < len(images):
        unread[MASKS] += len(images) - len(chosen)
    return chosen


def _matcher(glob: str, parts: tuple[str, ...]) -> Callable[[str], bool]:
    if "/" not in glob:
        return lambda name: fnmatch.fnmatchcase(name, glob)
    folder = "".join(f"{part}/" for part in parts)
    return lambda name: fnmatch.fnmatchcase(folder + name, glob)


def _ending(name: str) -> str:
    if name.startswith("."):
        return "hidden"
    return os.path.splitext(name)[1].lower() or "without ending"


def others_note(listing: Listing, glob: str | None) -> list[str]:
    """Return sentences about the files that are not read."""
    notes = []
    if listing.unread:
        counts = (f"{count:,} {kind}" for kind, count in sorted(listing.unread.items()))
        kinds = f"files that do not match --glob {shown(glob)}" if glob else "other files"
        notes.append(f"{kinds}, not read: {listed(counts, 12)}")
    if listing.repeated:
        notes.append(f"links to folders that are read already: {listing.repeated:,}, not followed")
    return notes
