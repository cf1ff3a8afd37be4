"""Training images that a model finds similar to an image."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from twostage_jax.data.split import Split
from twostage_jax.serve.pictures import encode_picture

SHOWN = 8
NO_IMAGES = "A model file has no training images, so the nearest ones are not shown."


Features = Callable[[np.ndarray], np.ndarray]


class Neighbours:
    """Nearest training images of a run. Their features are computed in the background.

    Similarity is the cosine of centred features.

    Args:
        features: returns features `[E, N, D]` of images uint8 `[N, H, W, C]`. If there are several
            encoders, the first one counts.
        quick: the same, compiled for few images.
        train: train split of the run's data; None if it cannot be read.
        reason: sentence for the page if there are no training images.
    """

    def __init__(
        self,
        features: Features,
        quick: Features,
        train: Split | None,
        reason: str = NO_IMAGES,
    ) -> None:
        self._ready = threading.Event()
        self._reason = reason
        self._encode_all = features
        self._encode_one = quick
        self._train = train
        self._mean = np.zeros(0, np.float32)
        self._units = np.zeros((0, 0), np.float32)

    @property
    def dark_ink(self) -> bool:
        """True if training images have a light background. False without images, as for MNIST."""
        return self._train is not None and has_light_background(self._train["image"])

    def prepare(self) -> None:
        """Compute the features of the training images in a thread of their own."""
        threading.Thread(target=self._prepare, daemon=True).start()

    def _prepare(self) -> None:
        try:
            if self._train is not None:
                features = self._encode_all(self._train["image"])[0]
                self._mean = features.mean(0)
                self._units = self._unit(features)
        except Exception as error:  # a thread's error would be lost, and its requests would wait
            self._train = None
            self._reason = f"The nearest training images are not shown: {error}"
            raise
        finally:
            self._ready.set()

    def wait(self) -> None:
        """Wait until the features of the training images are computed."""
        self._ready.wait()

    def nearest(self, image: np.ndarray) -> dict[str, Any]:
        """Return the training images nearest to `image` uint8 `[H, W, C]`, as JSON values."""
        if self._train is None:
            return {"reason": self._reason, "images": []}
        similarity = self._units @ self._unit(self._encode_one(image[None])[0])[0]
        best = np.argsort(-similarity, kind="stable")[:SHOWN]
        images = [
            {
                "index": int(row),
                "class": int(self._train["label"][row]),
                "similarity": round(float(similarity[row]), 4),
            }
            for row in best
        ]
        return {"reason": "", "images": images}

    def picture(self, index: int) -> tuple[bytes, str] | None:
        """Training image as a file and its type; None if there is no such image."""
        if self._train is None or not 0 <= index < len(self._train["image"]):
            return None
        return encode_picture(self._train["image"][index])

    def _unit(self, features: np.ndarray) -> np.ndarray:
        # Features that are all positive, as after a ReLU, have cosines near 1 if not centred.
        centred = features - self._mean
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-30)


def has_light_background(images: np.ndarray) -> bool:
    """Return True if the border of most images uint8 `[N, H, W, C]` is light.

    >>> has_light_background(np.full((3, 4, 4, 1), 255, np.uint8))
    True
    """
    some = images[:: max(1, len(images) // 256)]
    border = np.concatenate([some[:, 0], some[:, -1], some[:, :, 0], some[:, :, -1]], axis=1)
    return bool(np.median(border) > 127)
