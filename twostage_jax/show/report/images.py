"""Pictures embedded in the page."""

import base64
import io

import numpy as np
from PIL import Image

from twostage_jax.show.mosaics import as_rgb

LARGEST = 112  # pixels of the longer side that a page needs
SHARP = 64  # up to this side, pixels are kept as they are


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Image uint8 `[H, W, C]` with a longer side of at most 112 pixels.

    >>> import numpy as np
    >>> thumbnail(np.zeros((448, 224, 3), np.uint8)).shape
    (112, 56, 3)
    """
    height, width = image.shape[:2]
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(as_rgb(image)).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(picture)


def data_address(image: np.ndarray) -> str:
    """Address `data:image/…` of an image uint8 `[H, W, C]`, for `<img src>`."""
    file = io.BytesIO()
    kind = "png"
    if image.shape[-1] == 1:
        picture = Image.fromarray(image[..., 0])
    else:
        picture = Image.fromarray(as_rgb(image))
    if max(image.shape[:2]) > SHARP:
        # A photograph is five times smaller as JPEG.
        kind = "jpeg"
        picture.save(file, "jpeg", quality=88)
    else:
        picture.save(file, "png")
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
