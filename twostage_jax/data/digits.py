"""The bundled data set `digits`; `digits.md` in this folder has its origin and licence."""

from pathlib import Path

import numpy as np

from twostage_jax.data.npz import read_arrays
from twostage_jax.data.source import Source


def read() -> Source:
    """Read 1,797 scans of handwritten digits, 8×8; values 0 to 16 are scaled to 0 to 255."""
    # The file keeps the original values, as `digits.md` states for its licence.
    arrays = read_arrays(Path(__file__).with_name("digits.npz"))
    image = np.round(arrays["image"] * (255 / 16)).astype(np.uint8)
    return Source("digits", {"image": image[..., None], "label": arrays["label"].astype(np.int32)})
