"""Drawings in the form of the data sets of digits."""

import numpy as np
from PIL import Image

# Side of the box that a digit fills, by the side of the image.
BOXES = {28: 20, 8: 8}
# Width of the pen on paper of 280 pixels. In MNIST, a stroke has 13 % of the height of its digit.
# In the digits it has 26 %, but the loops of a drawing would close.
PENS = {28: 28, 8: 40}
PEN = 20  # for images of other sizes
INK = 32  # darker than paper by this much; the edges of a stroke are softer


def is_digit_shape(shape: tuple[int, int, int]) -> bool:
    """Return True for grey images of 28×28 or 8×8, the forms of MNIST and of the digits."""
    return shape in ((28, 28, 1), (8, 8, 1))


def pen_width(shape: tuple[int, int, int]) -> int:
    """Width of the pen on paper of 280×280 pixels."""
    return PENS[shape[0]] if is_digit_shape(shape) else PEN


def describe(shape: tuple[int, int, int]) -> str:
    """Sentence about what happens to a drawing before a model gets it."""
    if shape == (28, 28, 1):
        return (
            "The drawing is scaled to fit 20×20 pixels, and its centre of mass is moved to the "
            "middle of 28×28 pixels, as in MNIST."
        )
    if shape == (8, 8, 1):
        return (
            "The drawing is scaled to fill the height or width of 8×8 pixels and moved to the "
            "middle, as in the bundled digits."
        )
    return "The drawing is used as a picture with black ink on white paper."


def centred(drawing: np.ndarray, shape: tuple[int, int, int], dark_ink: bool) -> np.ndarray:
    """Scale and centre a drawing as the images of MNIST (28×28) or of the digits (8×8) were made.

    The smallest rectangle with all ink is scaled to fit a square box, by averaging, so its
    proportions stay. MNIST: a box of 20×20, and the centre of mass of the ink is moved to the
    middle of 28×28 (LeCun et al., 1998). Digits: a box of 8×8, in the middle.

    Args:
        drawing: uint8 `[H, W, 1]`, dark ink on light paper.
        shape: shape of the result: `(28, 28, 1)` or `(8, 8, 1)`.
        dark_ink: True for dark ink on light paper as the result; MNIST has light ink on black.

    Returns:
        uint8 `[28, 28, 1]` or `[8, 8, 1]`; paper alone if there is no ink.
    """
    side = shape[0]
    ink = 255 - drawing[..., 0]
    rows = np.flatnonzero((ink > INK).any(1))
    columns = np.flatnonzero((ink > INK).any(0))
    result = np.zeros((side, side), np.uint8)
    if len(rows):
        digit = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        _place(result, _scaled(digit, BOXES[side]), by_mass=BOXES[side] < side)
    return (255 - result if dark_ink else result)[..., None]


def _scaled(digit: np.ndarray, box: int) -> np.ndarray:
    """Scale a digit so that its longer side is that of the box."""
    scale = box / max(digit.shape)
    height, width = (max(1, round(length * scale)) for length in digit.shape)
    return np.asarray(Image.fromarray(digit).resize((width, height), Image.Resampling.BOX))


def _place(result: np.ndarray, digit: np.ndarray, by_mass: bool) -> None:
    """Put a digit into the middle of an empty image."""
    corner = []
    for axis, (side, length) in enumerate(zip(result.shape, digit.shape, strict=True)):
        start = (side - length) / 2
        if by_mass:
            mass = digit.sum(1 - axis, dtype=np.float64)
            centre = (mass * np.arange(length)).sum() / mass.sum()
            start = (side - 1) / 2 - centre
        # The mass of a long flourish can be so far out that the digit would leave the image.
        corner.append(int(np.clip(round(start), 0, side - length)))
    top, left = corner
    result[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
