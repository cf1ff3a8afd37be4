"""The bundled data set `digits`; `digits.md` in this folder has its origin and licence."""

from pathlib import Path

from twostage_jax.data import npz
from twostage_jax.data.source import Source


def read() -> Source:
    """Read 1,797 scans of handwritten digits, 8×8; values 0 to 16 are scaled to 0 to 255."""
    # The file keeps the original values, as `digits.md` states for its licence.
    return npz.read(Path(__file__).with_name("digits.npz"))._replace(notes=())
