"""Answers about one image: class, probabilities, rejection, nearest training images."""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from twostage_jax.data.decode import Form, decode
from twostage_jax.runs.model import Model
from twostage_jax.serve.drawing import centred, is_digit_shape
from twostage_jax.serve.neighbours import Neighbours
from twostage_jax.serve.pictures import picture_url

PREVIEW = 512  # pixels of the longer side of the picture beside an answer


@dataclass(frozen=True, eq=False)
class Assessor:
    """Model, and the training images that explain its answers.

    Attributes:
        model: from `open_model`.
        neighbours: training images near an image in feature space.
        lock: held while the model computes; requests come from several threads.
    """

    model: Model
    neighbours: Neighbours
    lock: threading.Lock

    def assess(self, content: bytes, drawing: bool) -> dict[str, Any]:
        """Return everything the page shows about an image, as JSON values.

        Args:
            content: image file.
            drawing: True for a drawing, with dark ink on light paper.

        Raises:
            BrokenImage: a file that cannot be decoded.
        """
        # One image at a time: a large photograph takes 300 MB while it is decoded.
        with self.lock:
            seen = self._read(content, drawing)
            original = seen if drawing else decode(content, None)
            answer = self.model.assess(seen[None], decoded=True)
        probability = answer.probability[0]
        rejected = None if answer.rejected is None else bool(answer.rejected[0])
        candidates = None if answer.sets is None else np.flatnonzero(answer.sets[0]).tolist()
        same = not drawing and np.array_equal(seen, original)
        return {
            "class": int(probability.argmax()),
            "probabilities": [round(float(value), 6) for value in probability],
            "rejected": rejected,
            "score": None if answer.score is None else float(answer.score[0]),
            "set": candidates,
            "preview": None if drawing else picture_url(original, PREVIEW),
            # An image that already has the form of the model is shown once.
            "seen": None if same else picture_url(seen),
        }

    def nearest(self, content: bytes, drawing: bool) -> dict[str, Any]:
        """Return the nearest training images; waits until their features are computed.

        Raises:
            BrokenImage: a file that cannot be decoded.
        """
        self.neighbours.wait()
        with self.lock:
            return self.neighbours.nearest(self._read(content, drawing))

    def warm_up(self) -> None:
        """Compile the program of the model, so that the first answer does not wait for it."""
        with self.lock:
            self.model.assess(np.zeros((1, *self.model.image_shape), np.uint8))

    def _read(self, content: bytes, drawing: bool) -> np.ndarray:
        """Pixels uint8 `[H, W, C]` that the model gets."""
        shape = self.model.image_shape
        if drawing and is_digit_shape(shape):
            pixels = decode(content, None)
            # A drawing may arrive in colour, for instance with transparency.
            grey = pixels.mean(-1, keepdims=True).astype(np.uint8)
            return centred(grey, shape, self.neighbours.dark_ink)
        return decode(content, Form(*shape, self.model.fit))
