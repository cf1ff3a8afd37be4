"""Decoding of image files: one form whatever the format, and one reason for each broken file."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage_jax.data.decode import BrokenImage, Form, decode, size_of

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], -1)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    assert (decode(encoded(GREY, kind), Form(6, 8, 1))[..., 0] == GREY).all()
    if kind != "GIF":  # which has a palette
        assert (decode(encoded(COLOUR, kind), Form(6, 8, 3)) == COLOUR).all()
        assert (decode(encoded(COLOUR, kind), None) == COLOUR).all()


def test_webp_without_loss_keeps_every_pixel() -> None:
    assert (decode(encoded(COLOUR, "WEBP", lossless=True), None) == COLOUR).all()


def test_the_content_counts_and_not_the_ending(tmp_path: Path) -> None:
    file = tmp_path / "picture.jpg"
    file.write_bytes(encoded(GREY))
    assert decode(file, None).shape == (6, 8, 1)
    assert size_of(file) == (6, 8, True)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:8, :8] = 255  # a white corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = decode(encoded(Image.fromarray(pixels).convert("RGB"), kind, exif=exif), None)
    # Corner of row 0 and column 0 of the file, by the definition of EXIF.
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0)}
    corner |= {5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert upright.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
    assert upright[corner[orientation]].min() > 200
    assert sum(upright[i, j].min() > 200 for i in (0, -1) for j in (0, -1)) == 1


def test_corrupted_exif_does_not_break_a_picture() -> None:
    content = encoded(COLOUR, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(8))
    assert decode(content, None).shape == (6, 8, 3)


def test_transparency_is_put_on_white() -> None:
    alpha = np.full((6, 8), 255, np.uint8)
    alpha[0] = 0
    rgba = np.concatenate([COLOUR, alpha[..., None]], -1)
    for content in (encoded(rgba), encoded(np.stack([GREY, alpha], -1)), encoded(rgba, "TIFF")):
        decoded = decode(content, Form(6, 8, 3))
        assert (decoded[0] == 255).all() and (decoded[1] < 255).any()


def test_a_palette_with_transparency_is_put_on_white() -> None:
    image = Image.new("P", (8, 6), 0)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((0, 0), 1)
    for kind in ("PNG", "GIF"):
        decoded = decode(encoded(image, kind, transparency=0), None)
        assert (decoded[1] == 255).all() and decoded[0, 0].tolist() == [200, 0, 0]


def test_16_bits_become_8() -> None:
    wide = (GREY.astype(np.uint16) * 257) + 100
    for kind in ("PNG", "TIFF"):
        assert (decode(encoded(wide, kind), None)[..., 0] == GREY).all()


def test_one_bit_becomes_black_and_white() -> None:
    decoded = decode(encoded(Image.fromarray(GREY > 100)), None)
    assert decoded.shape == (6, 8, 1) and set(np.unique(decoded)) == {0, 255}


def test_cmyk_becomes_colour() -> None:
    cmyk = Image.new("CMYK", (8, 6), (0, 255, 255, 0))
    for kind in ("JPEG", "TIFF"):
        red, green, blue = decode(encoded(cmyk, kind), None)[0, 0]
        assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((0, 0, 0), (255, 255, 255))]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decode(content, Form(6, 8, 1)).max() == 0


def test_channels_are_converted() -> None:
    grey = decode(encoded(COLOUR), Form(6, 8, 1))
    expected = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - expected).max() <= 1
    assert (decode(encoded(GREY), Form(6, 8, 3)) == GREY[..., None]).all()


def test_resizing_is_antialiased() -> None:
    # Lines of one pixel become an even grey; without antialiasing they would be black or white.
    lines = np.zeros((64, 64), np.uint8)
    lines[:, ::2] = 255
    decoded = decode(encoded(lines), Form(8, 8, 1))
    assert np.abs(decoded[1:-1, 1:-1].astype(int) - 127).max() < 8


def test_a_large_jpeg_is_reduced_while_it_is_decoded() -> None:
    ramp = np.linspace(0, 255, 640).astype(np.uint8)[None].repeat(480, 0)
    decoded = decode(encoded(ramp, "JPEG"), Form(24, 32, 1))
    means = ramp.reshape(24, 20, 32, 20).mean((1, 3))
    assert np.abs(decoded[..., 0] - means).max() < 4


def test_pad_keeps_the_image_and_crop_fills_the_form() -> None:
    wide = np.full((4, 8), 50, np.uint8)
    wide[:, :2] = 200
    padded = decode(encoded(wide), Form(8, 8, 1))[..., 0]
    assert (padded[2:6] == wide).all()
    assert (padded[:2] == 50).all() and (padded[6:] == 50).all()  # the median of the border
    cropped = decode(encoded(wide), Form(4, 4, 1, "crop"))[..., 0]
    assert (cropped == 50).all()  # the middle


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 7)])
def test_any_size_takes_the_form(size: tuple[int, int], fit: str) -> None:
    decoded = decode(encoded(np.full(size, 9, np.uint8)), Form(8, 6, 3, fit))
    assert decoded.shape == (8, 6, 3) and (decoded == 9).all()


def test_pixels_are_counted_before_they_are_decoded() -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9)))
    with pytest.raises(BrokenImage, match="20,000.10,000 pixels, 200 megapixels.* limit is 100"):
        decode(bomb, Form(8, 8, 1))
    # The limit can be raised; then the file is what it is.
    with pytest.raises(BrokenImage, match="corrupted"):
        decode(bomb, Form(8, 8, 1), limit=10**9)
    assert decode(encoded(GREY), None, limit=48).shape == (6, 8, 1)
    with pytest.raises(BrokenImage, match="limit"):
        decode(encoded(GREY), None, limit=47)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"])
def test_a_truncated_file_is_broken(kind: str) -> None:
    random = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    content = encoded(random, kind)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(BrokenImage):
            decode(content[: int(len(content) * share)], Form(8, 8, 3))


def test_what_is_no_image_is_broken_with_the_reason(tmp_path: Path) -> None:
    reasons = {}
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image at all")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("empty", "text", "folder", "pipe", "missing"):
        with pytest.raises(BrokenImage) as caught:
            decode(tmp_path / f"{name}.png", None)
        reasons[name] = str(caught.value)
    assert "0 bytes" in reasons["empty"] and "not a JPEG" in reasons["text"]
    assert "directory" in reasons["folder"] and "pipe" in reasons["pipe"]
    assert "No such file" in reasons["missing"]


def test_floating_point_and_32_bits_are_refused() -> None:
    with pytest.raises(BrokenImage, match="floating-point"):
        decode(encoded(GREY.astype(np.float32), "TIFF"), None)
    with pytest.raises(BrokenImage, match="32 bits"):
        decode(encoded(GREY.astype(np.int32) * 100_000, "TIFF"), None)
