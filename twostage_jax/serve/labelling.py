"""Labels by keyboard: one image after the other, and a csv file that is always up to date."""

import string
import threading
from collections.abc import Sequence
from typing import Any

from twostage_jax.errors import UserError, shown
from twostage_jax.serve.label_file import UNSURE, LabelFile
from twostage_jax.serve.pool import Pool

AHEAD = 4  # pictures that the page loads in advance
ACTIONS = ("label", "unsure", "skip", "undo")
KEYS = "1234567890" + string.ascii_lowercase


class WrongImage(Exception):
    """An answer about an image that is not the current one, for instance from a second window."""


class Labelling:
    """Answers so far, the images that are left, and the way back.

    Args:
        pool: images to label.
        classes: names of the classes to choose from.
        file: file for the answers, which has those of earlier sessions.
    """

    def __init__(self, pool: Pool, classes: Sequence[str], file: LabelFile) -> None:
        self._pool = pool
        self._classes = tuple(classes)
        self._file = file
        self._queue = [image for image in pool.order if image not in file.answers]
        self._skipped: set[int] = set()  # images at the end of the queue that come a second time
        self._history: list[tuple[str, int]] = []  # action and image
        # Requests come from several threads.
        self._lock = threading.RLock()

    @property
    def keys(self) -> Sequence[str]:
        """First column of the csv file for each image."""
        return self._pool.keys

    def state(self) -> dict[str, Any]:
        """Return everything that the page shows, as JSON values."""
        with self._lock:
            answers = self._file.answers
            unsure = sum(label == UNSURE for label in answers.values())
            upcoming = [
                {"index": int(image), "name": self._pool.names[image]}
                for image in self._queue[: AHEAD + 1]
            ]
            return {
                "classes": list(self._classes),
                "keys": keys_for(self._classes),
                "file": str(self._file.path),
                "total": len(self._queue) + len(answers),
                "labelled": len(answers) - unsure,
                "unsure": unsure,
                "left": len(self._queue),
                "skipped": len(self._skipped),
                "undo": bool(self._history),
                "image": upcoming[0] if upcoming else None,
                "next": upcoming[1:],
            }

    def answer(self, change: object) -> dict[str, Any]:
        """Record an answer, write the file, and return the new state.

        Args:
            change: JSON object with `action`, one of `ACTIONS`; `image`, the image that the person
                sees, None if all are done; and for `label` the number of the class as `label`.

        Raises:
            UserError: a malformed change, or a file that cannot be written; nothing is changed.
            WrongImage: an answer about another image than the current one.
        """
        action, image, label = self._checked(change)
        with self._lock:
            current = self._queue[0] if self._queue else None
            if image != current:
                raise WrongImage("this image was already answered, perhaps in another window")
            if action == "undo":
                self._undo()
            elif current is not None:
                if action == "skip":
                    self._skipped.add(current)
                    self._queue.append(current)
                else:
                    self._file.record(current, UNSURE if action == "unsure" else label)
                    self._skipped.discard(current)
                del self._queue[0]
                self._history.append((action, current))
            return self.state()

    def picture(self, image: int) -> tuple[bytes, str] | None:
        """Image as a file and its type; None if there is no such image."""
        return self._pool.picture(image) if 0 <= image < len(self._pool.names) else None

    def _checked(self, change: object) -> tuple[str, object, int]:
        """Return action, image and label of a change."""
        values = change if isinstance(change, dict) else {}
        action = values.get("action")
        label = values.get("label")
        if action not in ACTIONS:
            raise UserError(f"action is {shown(action)}: give one of {', '.join(ACTIONS)}")
        if action != "label":
            return action, values.get("image"), UNSURE
        count = len(self._classes)
        if type(label) is not int or not 0 <= label < count:
            raise UserError(f"label is {shown(label)}: give a class from 0 to {count - 1}")
        return action, values.get("image"), label

    def _undo(self) -> None:
        if not self._history:
            return
        action, image = self._history[-1]
        if action == "skip":
            # It went to the end, and everything after it is undone already.
            self._queue.pop()
            self._skipped.discard(image)
        else:
            self._file.record(image, None)
        self._history.pop()
        self._queue.insert(0, image)


def keys_for(classes: Sequence[str]) -> list[str]:
    """Key of each class; no keys if there are more than 36 classes, whose names are typed instead.

    Names of one letter or digit are their own keys. Otherwise the keys are 1 to 9, 0, and then the
    letters.

    >>> keys_for(("0", "1", "2")), keys_for(("cat", "dog"))
    (['0', '1', '2'], ['1', '2'])
    """
    if all(len(name) == 1 and name.isalnum() for name in classes):
        return list(classes)
    return list(KEYS[: len(classes)]) if len(classes) <= len(KEYS) else []
