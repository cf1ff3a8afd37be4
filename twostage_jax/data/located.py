"""Files that the paths of a csv file stand for."""

import os
import re
import unicodedata
from pathlib import Path

from twostage_jax.data.listing import ENDINGS, Entry, find_images
from twostage_jax.data.marks import original
from twostage_jax.errors import UserError, shown

DRIVE = re.compile("[A-Za-z]:/")  # beginning of a whole path on Windows


class Files:
    """Files that the paths of a csv stand for.

    Args:
        folder: folder that relative paths start from.
        is_named: True if the user named it; then no path may lead out of it.
        table: the csv file, for messages.
    """

    def __init__(self, folder: Path, is_named: bool, table: Path) -> None:
        self.folder = folder
        self._base = os.path.abspath(folder)
        self._is_named = is_named
        self._table = table
        self._by_stem: dict[str, list[str]] | None = None
        self._by_folded: dict[str, list[str]] = {}
        self._moved: set[str] = set()
        self._other_form: set[str] = set()

    def exists(self, text: str) -> bool:
        """Return True if a cell is the path of a file, or the beginning of its name."""
        try:
            return bool(text) and self.find(text, 0) is not None
        except UserError:
            return True  # a path that leads elsewhere is a path

    def find(self, text: str, line: int) -> str | None:
        """Return the file that a path stands for, or None.

        Raises:
            UserError: a path that leads out of the folder.
        """
        if not text or "\0" in text:
            return None
        slashes = text.replace("\\", "/")
        is_whole = slashes.startswith("/") or DRIVE.match(slashes)
        # A whole path of another computer is neither here nor a way out of the folder.
        if is_whole and ".." not in slashes and not os.path.exists(text):
            return self._by_end(text, slashes)
        for name in dict.fromkeys((text, original(text), slashes)):
            file = os.path.normpath(os.path.join(self._base, os.path.expanduser(name)))
            self._check_inside(file, text, line)
            if os.path.isfile(file):
                return file
        return self._by_name(text, slashes)

    def notes(self) -> list[str]:
        """Return sentences on paths that are not those of the files."""
        notes = []
        if self._moved:
            notes.append(
                f"paths of another computer: {len(self._moved):,} ({shown(min(self._moved))}), "
                f"found by their ends below {self.folder}"
            )
        if self._other_form:
            notes.append(
                f"names that differ from the files by case or accents: {len(self._other_form):,} "
                f"({shown(min(self._other_form))})"
            )
        return notes

    def with_other_ending(self, text: str) -> str | None:
        """Return the name of the file that has another ending than a path, if there is one."""
        name = os.path.basename(text.replace("\\", "/"))
        files = self._stems().get(os.path.splitext(name)[0], [])
        return os.path.basename(files[0]) if files else None

    def _check_inside(self, file: str, text: str, line: int) -> None:
        is_inside = file.startswith(self._base.rstrip("/") + "/")
        # A whole path is what the author of the csv wants, unless the folder was named.
        if is_inside or (os.path.isabs(text) and not self._is_named):
            return
        raise UserError(
            f"line {line} of {self._table} has the path {shown(text)}, which leads out of "
            f"{self._base}: give --image-dir with a folder that has all images"
        )

    def _by_end(self, text: str, slashes: str) -> str | None:
        """Return the file below the folder whose path is the longest end of a path."""
        names = [name for name in slashes.split("/") if name]
        for start in range(1, len(names)):
            file = "/".join((self._base, *names[start:]))
            if os.path.isfile(file):
                self._moved.add(text)
                return file
        return None

    def _by_name(self, text: str, slashes: str) -> str | None:
        """Return the file whose name without its ending, or with it, is that of a path."""
        stems = self._stems()
        folder, _, name = slashes.strip("/").rpartition("/")
        end = f"/{folder}" if folder else ""
        matches = [x for x in stems.get(name, []) if os.path.dirname(x).endswith(end)]
        if not matches:
            # Other systems compare names in this way, and macOS writes é as two characters.
            end = _folded(end)
            matches = self._by_folded.get(_folded(name), [])
            matches = [x for x in matches if _folded(os.path.dirname(x)).endswith(end)]
            if len(matches) == 1:
                self._other_form.add(text)
        if len(matches) > 1:
            raise UserError(
                f"{self._table} has the name {shown(text)}, and {len(matches)} files have it, for "
                f"instance {matches[0]} and {matches[1]}: give paths with their folders and endings"
            )
        return matches[0] if matches else None

    def _stems(self) -> dict[str, list[str]]:
        if self._by_stem is None:
            self._by_stem = {}
            for parts in find_images(self.folder).images:
                file = "/".join((self._base, *parts))
                stem = os.path.splitext(parts[-1])[0]
                for name in dict.fromkeys((stem, parts[-1])):
                    self._by_stem.setdefault(name, []).append(file)
                    self._by_folded.setdefault(_folded(name), []).append(file)
        return self._by_stem

    def without_row(self, listed_files: dict[str, Entry]) -> list[str]:
        """Return the images beside those of the table, relative to the folder."""
        folders = {os.path.dirname(file) for file in listed_files}
        missing = []
        for folder in sorted(folders):
            with os.scandir(folder) as entries:
                for entry in entries:
                    ending = os.path.splitext(entry.name)[1].lower()
                    is_image = ending in ENDINGS and not entry.name.startswith(".")
                    if is_image and entry.path not in listed_files and entry.is_file():
                        missing.append(os.path.relpath(entry.path, self._base))
        return sorted(missing)


def _folded(name: str) -> str:
    """Return a name without differences of case and composition of its characters."""
    return unicodedata.normalize("NFC", name).casefold()
