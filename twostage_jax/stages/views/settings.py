"""Strength of every transformation of an augmentation, and the families by name."""

import dataclasses
import math
from dataclasses import dataclass

from twostage_jax.errors import UserError

# Largest value of each field; the smallest is 0, which turns the transformation off.
LIMITS = {
    "shift": 0.5,
    "rotation": 180.0,
    "scale": 1.0,
    "aspect": 1.0,
    "shear": 1.0,
    "elastic": 0.25,
    "crop": 0.99,
    "flip": 1.0,
    "stroke": 1.0,
    "blur": 1.0,
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
    "hue": 180.0,
    "grey": 1.0,
    "noise": 1.0,
    "swap": 1.0,
    "erase": 1.0,
    "erase_size": 1.0,
}
# Probabilities and the size of squares, which `scaled` does not change.
UNSCALED = ("flip", "grey", "erase", "erase_size")


@dataclass(frozen=True, kw_only=True)
class Views:
    """Settings of an augmentation; a transformation with strength 0 is off and costs nothing.

    Every image of a batch draws its own values, from uniform distributions unless a line says
    otherwise. Lengths are shares of the image's side, so the settings do not depend on the size of
    the images. Erased pixels, and pixels from outside of the image, have the value of the
    background (see `background`).

    Attributes:
        shift: largest shift in either direction, as a share of the side.
        rotation: largest angle, degrees.
        scale: the size changes by a factor from e^-scale to e^scale.
        aspect: height and width change by inverse factors from e^-aspect to e^aspect.
        shear: largest tangent of the angle of a horizontal shear.
        elastic: standard deviation of the displacement of each control point, as a share of the
            side (normal).
        grid: the elastic field has `grid × grid` control points, between which cubic B-splines
            interpolate.
        crop: largest share of the area that a random crop removes, before it is resized to the
            whole image; its aspect ratio is 3/4 to 4/3.
        flip: probability of a mirror image, left to right.
        stroke: largest blend with a blurred image, followed by a gain (thicker strokes) or a
            threshold (thinner strokes), each with probability 1/2.
        blur: largest blend with the image blurred over 3×3 pixels.
        brightness: brightness changes by a factor from 1 - brightness to 1 + brightness.
        contrast: the same for the distance from the mean grey value of the image.
        saturation: the same for the distance from the grey value of the pixel. Grey images do not
            change.
        hue: largest rotation of the colours around the grey axis, degrees. Grey images do not
            change.
        grey: probability that a colour image loses its colours.
        noise: standard deviation of Gaussian noise, on the scale of the images, [-1, 1].
        swap: largest share of pixels that are replaced by those of the next image in the batch;
            each image draws a share between half of this value and this value.
        erase: probability that a square is erased.
        erase_size: largest side of that square, as a share of the shorter side; the smallest is
            0.4 times as large.

    Raises:
        UserError: a value that is not a number in its range.

    >>> import twostage_jax as ts
    >>> ts.Views(shift=0.1, rotation=15).rotation
    15
    """

    shift: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    aspect: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    grid: int = 6
    crop: float = 0.0
    flip: float = 0.0
    stroke: float = 0.0
    blur: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    noise: float = 0.0
    swap: float = 0.0
    erase: float = 0.0
    erase_size: float = 0.32

    def __post_init__(self) -> None:
        """Check the range of every field."""
        for name, limit in LIMITS.items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and 0 <= value <= limit):
                raise UserError(f"Views({name}={value}): give a number from 0 to {limit:g}")
        if type(self.grid) is not int or self.grid < 4:
            raise UserError(f"Views(grid={self.grid}): give a whole number of at least 4")

    @property
    def moves(self) -> bool:
        """True if the pixels change their places."""
        linear = self.shift or self.rotation or self.scale or self.aspect or self.shear
        return bool(linear or self.elastic or self.crop or self.flip)

    def scaled(self, strength: float) -> "Views":
        """Return these settings with all strengths multiplied by a factor.

        Probabilities and the size of erased squares do not change. A strength above its limit
        becomes the limit.

        >>> import twostage_jax as ts
        >>> ts.Views(rotation=20, flip=0.5).scaled(0.5)
        Views(rotation=10.0, flip=0.5)
        """
        values = {
            name: min(strength * getattr(self, name), limit)
            for name, limit in LIMITS.items()
            if name not in UNSCALED
        }
        return dataclasses.replace(self, **values)

    def check_size(self, image_shape: tuple[int, ...]) -> None:
        """Raise `UserError` if these settings do not fit images `(H, W, C)`."""
        height, width, *_ = image_shape
        side = min(height, width)
        size = f"{height}×{width} pixels"
        if self.elastic and self.grid > side:
            if side < 4:
                raise UserError(
                    f"an elastic field needs 4×4 pixels, and images have {size}: give elastic=0"
                )
            raise UserError(
                f"an elastic field of {self.grid}×{self.grid} points does not fit images of "
                f"{size}: give Views(grid={side})"
            )
        if self.erase and self.erase_size * side < 1:
            raise UserError(
                f"erased squares of {self.erase_size:g} of the side are smaller than a pixel in "
                f"images of {size}: give erase_size of at least {1 / side:.2g}, or erase=0"
            )

    def __repr__(self) -> str:
        """Show only the values that differ from the default."""
        fields = dataclasses.fields(self)
        values = {field.name: getattr(self, field.name) for field in fields}
        parts = [f"{x.name}={values[x.name]!r}" for x in fields if values[x.name] != x.default]
        return f"Views({', '.join(parts)})"


# Digits and letters: no mirror image, because a mirrored 2 is not a 2. In pixels of a 28×28 image:
# shift 2.5, elastic 1.8, squares of 3.6 to 9.
HANDWRITING = Views(
    shift=2.5 / 28,
    rotation=20,
    scale=0.2,
    aspect=0.15,
    shear=0.25,
    elastic=1.8 / 28,
    stroke=0.8,
    erase=0.3,
    erase_size=9 / 28,
)
# Things photographed from one side, grey or on a plain ground, such as clothes or products.
OBJECTS = Views(
    crop=0.6,
    flip=0.5,
    rotation=8,
    scale=0.1,
    aspect=0.1,
    shift=0.05,
    brightness=0.4,
    contrast=0.4,
    blur=0.5,
    erase=0.3,
    erase_size=0.4,
)
# Scenes and things in colour, as in Chen et al., 2020.
PHOTOGRAPHS = Views(
    crop=0.8,
    flip=0.5,
    blur=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=36,
    grey=0.2,
    erase=0.2,
    erase_size=0.3,
)
