"""The bundled data set; origin and licence are in `digits.md` beside this file."""

from pathlib import Path

import numpy as np

from twostage_jax.data.dataset import Source
from twostage_jax.data.npz import PLAIN, read_arrays

FILE = Path(__file__).with_name("digits.npz")


def read() -> Source:
    """1,797 scans of handwritten digits, 8×8; the values 0..16 are scaled to 0..255."""
    arrays = read_arrays(FILE)
    image, label = (arrays[name] for name in PLAIN)
    image = np.round(image.astype(np.float64) * 255 / 16).astype(np.uint8)[..., None]
    train = {"image": image, "label": label.astype(np.int32)}
    return Source("digits", train)
