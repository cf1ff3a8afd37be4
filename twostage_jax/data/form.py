"""Size and channels of the images of a source, chosen from the images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from twostage_jax.data.cache import Cache, Files
from twostage_jax.data.decode import (
    MEGAPIXEL,
    PIXEL_LIMIT,
    BrokenImage,
    Form,
    decode,
    has_pages,
    size_of,
)
from twostage_jax.data.spec import FITS, Reading, parse_size

SAMPLE = 200  # images that are looked at, evenly spaced in the list
LARGEST = 64  # pixels of a side, unless the user asks for more
SMALLEST = 8
MULTIPLE = 4
THUMBNAIL = Form(32, 32, 3)
COLOURED = 24  # difference of the channels of a pixel of a coloured image
COLOURED_SHARE = 0.01  # a single photograph among scans makes no colour data set


def pixel_limit(reading: Reading) -> int:
    """Return the largest number of pixels of an image."""
    if reading.pixel_limit is None:
        return PIXEL_LIMIT
    return round(reading.pixel_limit * MEGAPIXEL)


def choose_form(files: Files, reading: Reading, cache: Cache, notes: list[str]) -> Form:
    """Return the form of all images: as given, or chosen from a sample of them, and note it."""
    fit = reading.image_fit or FITS[0]
    if reading.image_size is not None and reading.channels is not None:
        height, width = parse_size("--image-size", reading.image_size)
        return Form(height, width, reading.channels, fit)
    limit = pixel_limit(reading)

    def choose() -> tuple[dict[str, object], bool]:
        return _look_at(files.files, limit)

    seen = cache.read_form(files, limit, choose)
    count = int(str(seen["count"]))
    sizes = [(int(height), int(width)) for height, width in seen["sizes"]]  # pyright: ignore
    coloured = int(str(seen["coloured"]))
    paged = int(str(seen.get("paged", 0)))
    if paged:
        notes.append(
            f"{paged:,} of {count:,} images looked at have several frames or pages: only the first "
            "of each is read"
        )
    channels = reading.channels
    if channels is None:
        channels = 3 if coloured > COLOURED_SHARE * count else 1
        reason = f"{coloured:,} of {count:,} inspected images are coloured"
        if channels == 3:
            notes.append(f"images are read in colour, because {reason}: --channels 1 reads grey")
        else:
            notes.append(f"images are read as grey, because {reason}: --channels 3 reads colour")
    if reading.image_size is not None:
        height, width = parse_size("--image-size", reading.image_size)
        return Form(height, width, channels, fit)
    height, width = _usual_size(sizes)
    sizes_now = f"{_words(sizes[0])} to {_words(sizes[-1])}" if len(sizes) > 1 else _words(sizes[0])
    if sizes == [(height, width)]:
        notes.append(f"images are {sizes_now}, and are not resized: --image-size resizes them")
    else:
        how = "padded" if fit == FITS[0] else "cropped"
        notes.append(
            f"images are {sizes_now}, and are resized to {_words((height, width))}, {how}: "
            "--image-size and --image-fit override this"
        )
    return Form(height, width, channels, fit)


def _words(size: tuple[int, int]) -> str:
    """Text of height and width."""
    return f"{size[0]}×{size[1]}"


def _look_at(files: Sequence[str], limit: int) -> tuple[dict[str, object], bool]:
    """Count coloured images and list sizes in a sample of the files; broken ones are left out.

    Also returns False if an error can be gone at the next attempt.
    """
    rows = np.unique(np.linspace(0, len(files) - 1, min(SAMPLE, len(files))).astype(int))
    sizes: list[tuple[int, int]] = []
    coloured = 0
    paged = 0
    is_lasting = True
    for row in rows.tolist():
        file = Path(str(files[row]))
        try:
            height, width, is_grey = size_of(file, limit)
            coloured += not is_grey and _is_coloured(decode(file, THUMBNAIL, limit))
            paged += has_pages(file, limit)
        except BrokenImage as error:
            is_lasting &= not error.transient
            continue
        sizes.append((height, width))
    if not sizes:  # all are broken; they are reported when they are decoded
        sizes = [(SMALLEST, SMALLEST)]
    values = {"sizes": _summary(sizes), "coloured": coloured, "count": len(sizes), "paged": paged}
    return values, is_lasting


def _is_coloured(pixels: np.ndarray) -> bool:
    return bool((pixels.max(-1) - pixels.min(-1) > COLOURED).any())


def _summary(sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the one size, or the smallest, the median and the largest."""
    if len(set(sizes)) == 1:
        return sizes[:1]
    ordered = sorted(sizes, key=lambda size: (max(size), size))
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def _usual_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """Return height and width for images of these sizes.

    Small images of one size keep it; all others become squares of at most 64 pixels.
    """
    if len(sizes) == 1 and SMALLEST <= min(sizes[0]) and max(sizes[0]) <= LARGEST:
        return sizes[0]
    side = max(sizes[len(sizes) // 2])
    side = -(-side // MULTIPLE) * MULTIPLE
    side = min(max(side, SMALLEST), LARGEST)
    return side, side
