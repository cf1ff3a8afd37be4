"""Pixels as pictures for the browser."""

import base64
import io

import numpy as np
from PIL import Image

SIDE = 1024  # pixels of the longer side; a screen shows no more


def encode_picture(pixels: np.ndarray, side: int = SIDE) -> tuple[bytes, str]:
    """Encode pixels uint8 `[H, W, C]` for the browser, reduced to `side` if they are larger.

    Returns:
        The file, and its type: PNG for small pictures, whose pixels can then be seen as they are,
        and JPEG for photographs.
    """
    grey = pixels.shape[-1] == 1
    image = Image.fromarray(pixels[..., 0] if grey else pixels)
    image.thumbnail((side, side), reducing_gap=3.0)
    small = max(image.size) <= 256
    file = io.BytesIO()
    if small:
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=90)
    return file.getvalue(), "image/png" if small else "image/jpeg"


def picture_url(pixels: np.ndarray, side: int = SIDE) -> str:
    """Return a picture as a `data:` address."""
    content, kind = encode_picture(pixels, side)
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
