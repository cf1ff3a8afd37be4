"""Decode an image file of any common format to uint8 pixels of one form."""

import contextlib
import errno
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from twostage_jax.errors import UserError
from twostage_jax.files import open_regular

# In the order in which they are tried; JPEG covers the MPO files of cameras, too.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
MEGAPIXEL = 1_000_000
PIXEL_LIMIT = 100 * MEGAPIXEL
HEADER = 16  # bytes from which Pillow recognises a format
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
WIDE_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # grey with more than 8 bits
WHITE = 255


class Form(NamedTuple):
    """Size and channels of decoded images.

    Attributes:
        height: rows.
        width: columns.
        channels: 1 for grey, 3 for colour.
        fit: `"pad"` keeps the whole image and fills the rest with the median colour of its border;
            `"crop"` keeps the middle of the image and fills the form.
    """

    height: int
    width: int
    channels: int
    fit: str = "pad"


# Errors of the system that stay as long as the file and its folder stay as they are.
LASTING = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENXIO,
)


class BrokenImage(UserError):
    """A file that cannot be decoded; the text is the reason alone.

    `transient` is True if the next attempt can succeed with the same file: a failing disk, too
    little memory, too many open files.
    """

    def __init__(self, reason: str, transient: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient


def decode(
    file: Path | bytes,
    form: Form | None,
    limit: int = PIXEL_LIMIT,
    report: Callable[[int, int, bool], None] | None = None,
) -> np.ndarray:
    """Decode an image to uint8 `[H, W, C]`.

    The orientation of EXIF is applied, transparency is put on white, more than 8 bits are reduced
    to 8, and of several frames or pages the first is taken. Resizing is antialiased.

    Args:
        file: a path, or the content of a file; its format is recognised by content.
        form: wanted form; None for the image's own size, with 1 channel if it is grey, else 3.
        limit: largest number of pixels, checked before any pixel is decoded.
        report: called with height, width and "is grey" of the file, as `size_of` returns them.

    Raises:
        BrokenImage: a file that is missing, empty, no image, corrupted or too large.
    """
    with _as_broken():
        with io.BytesIO(file) if isinstance(file, bytes) else open_regular(file) as stream:
            return _decode(stream, form, limit, report)


def size_of(file: Path, limit: int = PIXEL_LIMIT) -> tuple[int, int, bool]:
    """Read height, width and "is grey" from the header of a file, before rotation by EXIF.

    Raises:
        BrokenImage: as `decode`, as far as the header shows it.
    """
    with _as_broken(), open_regular(file) as stream:
        image = _open(stream, limit)
        return image.height, image.width, image.mode in GREY_MODES


def has_pages(file: Path, limit: int = PIXEL_LIMIT) -> bool:
    """Return True if a file has several frames or pages.

    Raises:
        BrokenImage: as `size_of`.
    """
    with _as_broken(), open_regular(file) as stream:
        image = _open(stream, limit)
        # The second image of a camera's JPEG is a preview or a map of brightness.
        return image.format != "MPO" and getattr(image, "is_animated", False)


@contextlib.contextmanager
def _as_broken() -> Iterator[None]:
    """Convert all errors of reading an image into `BrokenImage`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about corrupted metadata, which is not used
            yield
    except BrokenImage:
        raise
    except OSError as error:
        # Pillow raises OSError, too, without a number of the system.
        transient = error.errno is not None and error.errno not in LASTING
        raise BrokenImage(error.strerror or f"it is corrupted: {error}", transient) from error
    except UserError as error:  # a folder, pipe or device
        raise BrokenImage(f"it is not a regular file: {error}") from error
    except MemoryError as error:
        raise BrokenImage("it needs more memory than this machine has", True) from error
    except Exception as error:  # Pillow lets the errors of its parsers through
        reason = str(error) or type(error).__name__
        raise BrokenImage(f"it is corrupted: {reason}") from error


def _decode(
    stream: BinaryIO,
    form: Form | None,
    limit: int,
    report: Callable[[int, int, bool], None] | None,
) -> np.ndarray:
    image = _open(stream, limit)
    if report is not None:
        report(image.height, image.width, image.mode in GREY_MODES)
    if form is not None and image.format == "JPEG":
        # Decodes a large photograph at a half, a quarter or an eighth of its size, several times
        # faster. Twice the form is enough for antialiasing, whatever the orientation.
        side = 2 * max(form.height, form.width)
        image.draft(None, (side, side))
    image = _upright(image)
    grey = image.mode in GREY_MODES if form is None else form.channels == 1
    image = _eight_bits(image, "L" if grey else "RGB")
    pixels = np.asarray(image if form is None else _resized(image, form))
    if form is not None:
        pixels = _padded(pixels, form)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], 1 if grey else 3))


def _open(stream: BinaryIO, limit: int) -> Image.Image:
    """Read the header of an image, and check its size."""
    prefix = stream.read(HEADER)
    stream.seek(0)
    if not prefix:
        raise BrokenImage("it is empty (0 bytes)")
    # Not `Image.open`: it refuses large images by a limit of its own, which is global.
    Image.init()
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        verdict = True if accepts is None else accepts(prefix)
        if verdict is True or (verdict and not isinstance(verdict, str)):
            image = factory(stream, "")
            break
    else:
        raise BrokenImage(f"it is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image")
    pixels = image.width * image.height
    if pixels > limit:
        raise BrokenImage(
            f"it has {image.width:,}×{image.height:,} pixels, {pixels / MEGAPIXEL:,.0f} "
            f"megapixels, and the limit is {limit / MEGAPIXEL:,g}"
        )
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Apply the orientation that the camera has recorded."""
    info = image.info
    if not {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"} & info.keys():
        return image
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # corrupted metadata of an intact picture: it has no orientation
        return image
    # Everything else would copy the image.
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """Convert to `L` or `RGB`, with transparency on white."""
    if image.mode in WIDE_MODES:
        image = _narrowed(image)
    elif image.mode == "F":
        raise BrokenImage("it has floating-point pixels: save it with 8 or 16 bits")
    is_transparent = "transparency" in image.info or image.mode in (
        "LA",
        "La",
        "PA",
        "RGBA",
        "RGBa",
    )
    if is_transparent:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (WHITE, WHITE, WHITE, WHITE))
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


def _narrowed(image: Image.Image) -> Image.Image:
    """Reduce 16 bits to 8."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BrokenImage("it has pixels of 32 bits: save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _resized(image: Image.Image, form: Form) -> Image.Image:
    """Resize so that the image is inside the form (`pad`) or covers it (`crop`)."""
    width, height = image.size
    if (height, width) == (form.height, form.width):
        return image
    # `reducing_gap`: a large image is first averaged in blocks, which is faster and as good.
    if form.fit == "crop":
        scale = max(form.width / width, form.height / height)
        across = form.width / scale
        down = form.height / scale
        left = (width - across) / 2
        top = (height - down) / 2
        box = (left, top, min(width, left + across), min(height, top + down))
        size = (form.width, form.height)
        return image.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=3.0)
    scale = min(form.width / width, form.height / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _padded(pixels: np.ndarray, form: Form) -> np.ndarray:
    """Put an image into the middle of the form."""
    height, width = pixels.shape[:2]
    if (height, width) == (form.height, form.width):
        return pixels
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    full = np.empty((form.height, form.width, *pixels.shape[2:]), np.uint8)
    # A colour of the image's own makes no edge that a network could learn.
    full[:] = np.median(border, axis=0).astype(np.uint8)
    top = (form.height - height) // 2
    left = (form.width - width) // 2
    full[top : top + height, left : left + width] = pixels
    return full
