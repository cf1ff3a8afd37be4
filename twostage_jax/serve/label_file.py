"""The csv file of labels that are made by click: read when it is continued, written after each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from twostage_jax.data.marks import csv_bytes, original
from twostage_jax.data.names import listed
from twostage_jax.data.table import read_table
from twostage_jax.errors import UserError, shown
from twostage_jax.store.atomic import write_bytes

UNSURE = -1  # answer in place of a class: the image stays unlabelled and is not shown again
NOTE = "not sure"


class LabelFile:
    """Labels of a pool of images in a csv file: a row for each image, with its label if it has one.

    Columns are `path` or `index`, `label`, and `note`, which is "not sure" for images that were
    seen and left without a label. An empty label means unlabelled wherever we read the file.

    Attributes:
        path: the file. It is written with the first answer.
        answers: number of the class of each answered image, or `UNSURE`.

    Args:
        path: file to continue or to create.
        column: name of the first column.
        keys: value of the first column for each image of the pool.
        classes: names of the classes.
        labelled: labels of other images of the same source, by the value of the first column.

    Raises:
        UserError: a file that was not written for these images and classes.
    """

    def __init__(
        self,
        path: Path,
        column: str,
        keys: Sequence[str],
        classes: Sequence[str],
        labelled: Mapping[str, str],
    ) -> None:
        self.path = path
        self.answers: dict[int, int] = {}
        self._classes = tuple(classes)
        self._keys = keys
        self._labelled = labelled
        self._header = (column, "label", "note")
        if path.exists():
            self._read()
        self._content = path.read_bytes() if path.exists() else None
        self._fixed = csv_bytes(self._header, [(key, name, "") for key, name in labelled.items()])
        # Only one line changes with an answer; with 200,000 lines it would take half a second to
        # make all of them again.
        self._lines = [self._line(image) for image in range(len(keys))]

    def record(self, image: int, label: int | None) -> None:
        """Store the answer for an image, or remove it if `label` is None, and write the file.

        Raises:
            UserError: the file cannot be written, or another program has changed it. Nothing is
                stored then.
        """
        previous = dict(self.answers)
        self.answers.pop(image, None)
        if label is not None:
            self.answers[image] = label
        try:
            self._lines[image] = self._line(image)
            self._write()
        except UserError:
            self.answers = previous
            self._lines[image] = self._line(image)
            raise

    def _write(self) -> None:
        current = self.path.read_bytes() if self.path.exists() else None
        if current != self._content:
            raise UserError(
                f"{self.path} was changed by another program: start twostage serve again to "
                "continue from the changed file"
            )
        content = self._fixed + b"".join(self._lines)
        write_bytes(self.path, content)
        self._content = content

    def _line(self, image: int) -> bytes:
        label = self.answers.get(image)
        name = self._classes[label] if label is not None and label != UNSURE else ""
        row = (self._keys[image], name, NOTE if label == UNSURE else "")
        return csv_bytes(self._header, [row]).partition(b"\n")[2]

    def _read(self) -> None:
        """Read the answers of an earlier session."""
        table = read_table(self.path)
        header = tuple(cell.strip() for cell in table.rows[0])
        if len(header) < 2 or header != self._header[: len(header)]:
            raise UserError(
                f"{self.path} has the columns {listed(header) or 'none'}, so twostage serve did "
                f"not write it for these images: give --labels-out a new file"
            )
        position = {key: image for image, key in enumerate(self._keys)}
        keys = [original(row[0].strip()) for row in table.rows[1:]]
        foreign = [key for key in keys if key not in position and key not in self._labelled]
        if foreign:  # the file is written anew, and they would be lost
            raise UserError(
                f"{len(foreign):,} rows of {self.path} name no image of the source, for instance "
                f"{shown(foreign[0])}: give --labels-out a new file"
            )
        number = {name: k for k, name in enumerate(self._classes)}
        for line, row in zip(table.lines[1:], table.rows[1:], strict=True):
            key, name, note = (original(cell.strip()) for cell in (*row, "")[:3])
            # Images of the source that had a label from the start are not part of the pool.
            if key not in position or (not name and note != NOTE):
                continue
            if name and name not in number:
                raise UserError(
                    f"line {line} of {self.path} has the label {shown(name)}: give one of "
                    f"{listed(self._classes)}, or add it with --classes"
                )
            self.answers[position[key]] = number[name] if name else UNSURE
