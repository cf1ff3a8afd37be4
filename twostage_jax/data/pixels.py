"""Conversion of images to uint8 `[N, H, W, C]` in 0 to 255.

Axes and scale are used only where they are certain; everything else is refused with the remedy.
The scale is found over all splits together, because one split alone may be dark.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from twostage_jax.errors import UserError

SLICE = 4096  # images converted at a time
CHANNELS = (1, 2, 3, 4)
SMALL = 16  # whole numbers up to here are never on the scale 0 to 255
DARK = 127  # images on the scale 0 to 255 rarely stay below this everywhere
ROUNDING = 1e-3  # floats may exceed their range by this, because of half precision
GIVE = "give integers in 0 to 255 or floats in 0 to 1"
KINDS = {"b": "bool", "i": "integer", "u": "integer", "f": "float"}


class Array(NamedTuple):
    """An array, and its file and name for messages."""

    values: np.ndarray
    where: str


class Scale(NamedTuple):
    """Range of values that becomes 0 to 255."""

    low: int
    high: int

    def __str__(self) -> str:
        """Return the range in words."""
        words = f"{self.low} to {self.high}"
        return words if self == BYTES else f"{words}, scaled to 0 to 255"


BYTES = Scale(0, 255)


def parse_scale(words: str) -> Scale | None:
    """Return the scale that `str(scale)` describes; None for other words."""
    match = re.match(r"(-?\d+) to (\d+)\b", words)
    scale = Scale(int(match[1]), int(match[2])) if match else None
    return scale if scale and scale.low < scale.high else None


def say(notes: list[str], note: str) -> None:
    """Append a note unless another split has already added it."""
    if note not in notes:
        notes.append(note)


def as_images(
    arrays: Mapping[str, Array], notes: list[str], trained: Scale | None = None
) -> tuple[dict[str, np.ndarray], Scale]:
    """Convert the images of all splits, and describe the conversion in `notes`.

    Args:
        arrays: by split, `[N, H, W]`, `[N, H, W, C]`, `[N, C, H, W]` or flat rows `[N, H*W]` of
            integers, floats or bools.
        notes: sentences so far.
        trained: scale of the images that a run was trained on, for images that it is to classify.

    Returns:
        uint8 `[N, H, W, C]` by split, and the range of the values.

    Raises:
        UserError: an unknown or uncertain shape or range.
    """
    placed = {name: Array(_with_axes(x, notes), x.where) for name, x in arrays.items()}
    scale = _find_scale(list(placed.values()), notes, trained)
    if trained not in (None, scale):
        say(notes, f"the images are {scale}; those that the run was trained on are {trained}")
    return {name: _convert(array.values, scale) for name, array in placed.items()}, scale


def _with_axes(array: Array, notes: list[str]) -> np.ndarray:
    """Return a view with the axes `[N, H, W, C]`."""
    values, where = array
    shape = values.shape
    if values.ndim not in (2, 3, 4) or 0 in shape[1:]:
        raise UserError(f"{where} has shape {shape}: give [N, H, W] or [N, H, W, C]")
    if values.ndim == 2:
        side = math.isqrt(shape[1])
        if side < 2 or side * side != shape[1]:
            raise UserError(
                f"{where} has shape {shape}, and rows of {shape[1]} values can have several "
                "heights, widths and channels: reshape it to [N, H, W] or [N, H, W, C]"
            )
        say(notes, f"rows of {shape[1]} values are read as images of {side}×{side}")
        return values.reshape(-1, side, side, 1)
    if values.ndim == 3:
        return values[..., None]
    first, height, last = shape[1:]
    # A last axis of size one always holds the channels.
    if last == 1 or (last in CHANNELS and first not in CHANNELS):
        return values
    if first in CHANNELS and last not in CHANNELS:
        say(notes, f"images are stored channel first, {list(shape[1:])}: axes are reordered")
        return np.moveaxis(values, 1, -1)
    if first == height != last:
        say(notes, f"images have {last} channels")
        return values
    raise UserError(
        f"{where} has shape {shape}, which can be [N, H, W, C] or [N, C, H, W]: give [N, H, W, C] "
        "with at most 4 channels and more than 4 pixels in height and width"
    )


def _find_scale(arrays: Sequence[Array], notes: list[str], trained: Scale | None) -> Scale:
    """Return the range of values that becomes 0 to 255."""
    arrays = [array for array in arrays if array.values.size]
    if not arrays:
        return BYTES
    kinds = {KINDS[array.values.dtype.kind]: array for array in arrays}
    if len(kinds) > 1:
        words = " and ".join(f"{x.where} has {x.values.dtype}" for x in kinds.values())
        raise UserError(f"{words}: give the images of all splits in one type")
    lows = [array.values.min().item() for array in arrays]
    highs = [array.values.max().item() for array in arrays]
    high = max(highs)
    for array, part_low, part_high in zip(arrays, lows, highs, strict=True):
        if not (math.isfinite(part_low) and math.isfinite(part_high)):
            raise _out_of_range(array, part_low, part_high)
        is_other = 0 < part_high <= SMALL and high > DARK and array.values.dtype.kind != "f"
        if is_other or 0 < part_high * (SMALL - 1) < high:
            raise UserError(
                f"the largest value of {array.where} is {part_high} and that of "
                f"{arrays[highs.index(high)].where} is {high}: give all splits on one scale"
            )
    if trained is not None:
        scale = _scale_of_run(arrays, min(lows), high, trained, notes)
        if scale is not None:
            return scale
    if "bool" in kinds:
        return _small(Scale(0, 1), "values", notes)
    worst = arrays[lows.index(min(lows)) if min(lows) < 0 else highs.index(high)]
    if "float" in kinds:
        scale = _scale_of_floats(arrays, min(lows), high, notes)
    else:
        is_bytes = all(array.values.dtype == np.uint8 for array in arrays)
        scale = _scale_of_integers(worst, min(lows), high, is_bytes, notes)
    if scale is None:
        raise _out_of_range(worst, worst.values.min(), worst.values.max())
    return scale


def _scale_of_run(
    arrays: Sequence[Array], low: float, high: float, trained: Scale, notes: list[str]
) -> Scale | None:
    """Return the scale of a run's own images if it fits these images and another could be meant."""
    where, kind = arrays[0].where, arrays[0].values.dtype.kind
    fits = trained.low <= low and high <= trained.high
    if kind == "f" and trained.low < 0:
        is_within = trained.low - ROUNDING <= low < 0 and high <= trained.high + ROUNDING
        return _of_run(trained, low, high, notes) if is_within else None
    if low < 0 or not fits or kind == "b" or not all(map(_is_whole, arrays)):
        return None
    if 1 < trained.high <= SMALL and high:
        if high * (SMALL - 1) < trained.high:
            raise UserError(
                f"the largest value of {where} is {high:g}, and the run was trained on images of "
                f"{trained.low} to {trained.high}: give images in that scale, or in 0 to 255"
            )
        return trained if high == trained.high else _of_run(trained, low, high, notes)
    # The type does not matter: the run has said what the values are of.
    return _of_run(trained, low, high, notes) if trained == BYTES and SMALL < high <= DARK else None


def _of_run(trained: Scale, low: float, high: float, notes: list[str]) -> Scale:
    say(
        notes,
        f"values from {low:.4g} to {high:.4g} are read in the scale of the run's own images, "
        f"{trained}",
    )
    return trained


def _scale_of_integers(
    worst: Array, low: float, high: float, is_bytes: bool, notes: list[str]
) -> Scale | None:
    if low < 0 or high > BYTES.high:
        return None
    if high == 0:
        say(notes, "all values are 0: the images are black")
    elif high <= SMALL:
        return _small(Scale(0, int(high)), "whole numbers", notes)
    elif high <= DARK and is_bytes:
        say(
            notes,
            f"the largest value is {high}, so the images are dark: they are read as 0 to 255; if "
            "they have another scale, multiply them first",
        )
    elif high <= DARK:
        raise UserError(
            f"{worst.where} has {worst.values.dtype} values up to {high:g}, whose scale is not "
            "certain: save them as uint8 if their scale is 0 to 255, otherwise scale them to it"
        )
    return BYTES


def _scale_of_floats(
    arrays: Sequence[Array], low: float, high: float, notes: list[str]
) -> Scale | None:
    if -ROUNDING <= low and high <= 1 + ROUNDING:
        if low < 0 or high > 1:
            say(notes, f"values from {low:.8g} to {high:.8g} are clipped to 0 to 1")
        if 0 < high < 0.5:
            say(
                notes,
                f"the largest value is {high:.3g}, so the images are dark: they are read as 0 to "
                "1; if they have another scale, multiply them first",
            )
        return Scale(0, 1)
    if abs(low + 1) <= ROUNDING and abs(high - 1) <= ROUNDING:
        return _small(Scale(-1, 1), "floats", notes)
    if low >= 0 and all(map(_is_whole, arrays)):
        brightest = max(arrays, key=lambda array: array.values.max())
        return _scale_of_integers(brightest, low, high, False, notes)
    if low >= 0 and DARK < high <= BYTES.high:
        say(notes, f"floats from {low:.4g} to {high:.4g} are rounded to integers in 0 to 255")
        return BYTES
    return None


def _small(scale: Scale, kind: str, notes: list[str]) -> Scale:
    say(notes, f"{kind} from {scale.low} to {scale.high} are scaled: {scale.high} becomes 255")
    return scale


def _is_whole(array: Array) -> bool:
    values = array.values
    pieces = (values[start : start + SLICE] for start in range(0, len(values), SLICE))
    return all(bool((piece == np.floor(piece)).all()) for piece in pieces)


def _out_of_range(array: Array, low: float, high: float) -> UserError:
    return UserError(f"{array.where} has {array.values.dtype} values from {low} to {high}: {GIVE}")


def _convert(image: np.ndarray, scale: Scale) -> np.ndarray:
    if scale == BYTES and image.dtype.kind in "iu":
        return np.ascontiguousarray(image, np.uint8)
    factor = BYTES.high / (scale.high - scale.low)
    converted = np.empty(image.shape, np.uint8)
    # Slice by slice, because a second copy in floats may not fit into memory.
    for start in range(0, len(image), SLICE):
        piece = image[start : start + SLICE]
        piece = piece * factor if scale.low == 0 else (piece - scale.low) * factor
        converted[start : start + SLICE] = np.clip(np.round(piece), 0, BYTES.high)
    return converted
