"""Presets: named default values for everything that is not given.

`blog` is the recipe of the blog's program: widths 784-256-128 with a mirrored decoder, a head
128-64-10, Adam at 0.001, batches of 32, five epochs per stage, PyTorch's initial values. It is the
default for 28×28 images.

`quick` is for small data sets, on which five epochs are only a few hundred steps: 20 epochs per
stage, LeCun-normal initial values.

The values themselves stand beside the fields in `schema.py`.
"""

from collections.abc import Sequence

from twostage_jax.config.fields import declarations
from twostage_jax.config.schema import GROUPS, Config

BLOG_SHAPE = (28, 28)


def preset_for(image_shape: Sequence[int]) -> str:
    """Name of the default preset for images `[H, W, C]`."""
    return "blog" if tuple(image_shape[:2]) == BLOG_SHAPE else "quick"


def preset_values(preset: str) -> dict[str, object]:
    """Default values of a preset, by field; the groups `pretrain` and `head` are nested.

    >>> preset_values("blog")["pretrain"]["epochs"]
    5
    """
    values = _defaults(Config, preset)
    for name, kind in GROUPS.items():
        values[name] = _defaults(kind, preset)
    return values


def _defaults(kind: type, preset: str) -> dict[str, object]:
    defaults = {
        name: declaration.default_of(preset) for name, declaration in declarations(kind).items()
    }
    # The data supply the others, or they stay open.
    return {name: value for name, value in defaults.items() if value is not None}
