"""The bundled data set `digits`; `digits.md` in this folder has its origin and licence."""

from pathlib import Path

import numpy as np

from twostage_jax.data.dataset import Source
from twostage_jax.data.npz import read_arrays

FILE = Path(__file__).with_name("digits.npz")


def read() -> Source:
    """Read 1,797 scans of handwritten digits, 8×8; values 0 to 16 are scaled to 0 to 255."""
    arrays = read_arrays(FILE)
    scaled = np.round(arrays["image"].astype(np.float64) * 255 / 16)
    train = {
        "image": scaled.astype(np.uint8)[..., None],
        "label": arrays["label"].astype(np.int32),
    }
    return Source("digits", train)
