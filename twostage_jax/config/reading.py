"""Fields about how a source is read; `data.spec.Reading` holds their values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from twostage_jax.config.fields import (
    UNSET,
    as_home_text,
    as_path,
    check_path,
    check_switch,
    check_text,
    declare,
    declare_repeatable,
)
from twostage_jax.config.settings import Settings
from twostage_jax.data.spec import (
    FITS,
    FORM_FIELDS,
    Reading,
    absolute,
    check_channels,
    check_fit,
    check_megapixels,
    check_pattern,
    check_size,
)
from twostage_jax.errors import UserError, shown


def as_texts(value: object) -> object:
    """Convert a text or a list into a tuple; nothing given is None."""
    items = (value,) if isinstance(value, str) else value
    return tuple(items) or None if isinstance(items, list | tuple) else items


def as_switch(value: object) -> object:
    """Convert False into None: a switch that is off was not given."""
    return None if value is False else value


def as_size(value: object) -> object:
    """Convert a number of pixels into text."""
    return str(value) if type(value) is int else value


def as_spec(value: object) -> object:
    """Make the path in a SPEC absolute."""
    return absolute(value) if isinstance(value, str) else value


def as_folder(value: object) -> object:
    """Return an absolute path, so that a resumed run finds it from any working directory."""
    path = as_path(value)
    # A home folder that does not exist is reported by the check.
    is_home = isinstance(path, Path) and str(path).startswith("~")
    return path.absolute() if isinstance(path, Path) and not is_home else path


def check_texts(flag: str, value: object) -> None:
    """Accept a list of texts."""
    items = value if isinstance(value, tuple) else (value,)
    for item in items:
        if not isinstance(item, str) or not item.strip():
            raise UserError(f"{flag} is {shown(item)}: give the text of a label")


@dataclass(frozen=True, repr=False)
class FilesConfig(Settings):
    """Fields of every command that reads a source."""

    unlabeled_label: Annotated[
        tuple[str, ...], *declare_repeatable("NAME", check_texts, as_texts)
    ] = ()
    """Label that means "no label", for instance "Not sure\""""
    path_column: Annotated[str, *declare("NAME", check_text, "found by content")] = UNSET
    """Column of a csv with the paths of the images, by name or number"""
    label_column: Annotated[str, *declare("NAME", check_text, "found by name")] = UNSET
    """Column of a csv with the labels, by name or number; NAME,NAME for a column for each class"""
    image_dir: Annotated[
        Path | None, *declare("DIR", check_path, "the folder of the csv", normal=as_folder)
    ] = None
    """Folder that the paths of a csv start from"""
    group_column: Annotated[str, *declare("NAME", check_text, "none")] = UNSET
    """Column of a csv with the group of each image (patient, person, camera); no split that is \
made divides a group"""
    split_column: Annotated[str, *declare("NAME", check_text, "found by name and content")] = UNSET
    """Column of a csv with the split of each image: train, validation, test or unlabeled; off \
ignores it"""
    group_by: Annotated[str, *declare("PATTERN", check_pattern, "none")] = UNSET
    """Regular expression for the part of a path that is the group of an image"""
    glob: Annotated[str, *declare("PATTERN", check_text, "all images but masks")] = UNSET
    """Pattern of the files of a folder to read, such as "*.png"; with a / it is compared with \
the path below the folder"""
    skip_broken: Annotated[bool, *declare("", check_switch, "off", normal=as_switch)] = False
    """Leave out files that cannot be decoded, and list them in broken.csv of the run"""
    strict: Annotated[bool, *declare("", check_switch, "off", normal=as_switch)] = False
    """Refuse a csv that has rows without a file, or files without a row"""
    merge_labels: Annotated[bool, *declare("", check_switch, "off", normal=as_switch)] = False
    """Read labels that differ only by case, spaces or zeros as one class"""
    cache_dir: Annotated[
        str, *declare("DIR", check_text, "images in the user's cache folder", normal=as_home_text)
    ] = UNSET
    """Folder for decoded images, so that the next start is faster; off disables it"""
    pixel_limit: Annotated[float, *declare("MEGAPIXELS", check_megapixels, "100")] = UNSET
    """Largest image in megapixels that is decoded"""


@dataclass(frozen=True, repr=False)
class ReadingConfig(FilesConfig):
    """Fields of every command that decides about the images that a network gets."""

    unlabeled: Annotated[str, *declare("SPEC", check_text, "none", normal=as_spec)] = UNSET
    """Source of more images for stage 1; its labels and its test split are not used"""
    image_size: Annotated[
        str, *declare("N", check_size, "chosen from the images, at most 64", normal=as_size)
    ] = UNSET
    """Height and width of the images after reading, such as 64, or 48x64"""
    channels: Annotated[int, *declare("N", check_channels, "chosen from the images")] = UNSET
    """Channels of the images after reading: 1 (grey) or 3 (colour)"""
    image_fit: Annotated[str, *declare("NAME", check_fit, FITS[0])] = UNSET
    """Method to fit images into the size: pad (keep the whole image, fill the rest) or crop (keep \
the middle)"""


READING_FIELDS = Reading._fields


def reading_of(config: FilesConfig) -> Reading:
    """Return the settings of reading of a configuration or command."""
    return Reading(**{name: getattr(config, name, None) for name in READING_FIELDS})


def with_form(reading: Reading, shape: tuple[int, int, int], fit: str) -> Reading:
    """Return settings that give images of a shape `[H, W, C]`, unless they say otherwise."""
    height, width, channels = shape
    form: Mapping[str, object] = dict(
        zip(FORM_FIELDS, (f"{height}x{width}", channels, fit), strict=True)
    )
    chosen = {name: value for name in FORM_FIELDS if (value := getattr(reading, name)) is not None}
    return reading._replace(**{**form, **chosen})
