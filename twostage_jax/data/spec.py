"""Grammar of `--data SPEC`, and settings of reading, checked before anything is read."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from twostage_jax.errors import UserError, did_you_mean, shown

# NAME, NAME/CONFIG or NAME:1.2.3. A namespace in front of a name would make TFDS fetch code.
TFDS_NAME = re.compile(r"[A-Za-z]\w*(/\w[\w+.-]*)?(:(\d+|\*)(\.(\d+|\*)){2})?", re.ASCII)
SPECS = ("digits", "mnist", "tfds:NAME", "idx:DIR", "npz:FILE", "folder:DIR", "csv:FILE")
OFF = "off"  # value of a setting that is found by default
FITS = ("pad", "crop")
CHANNELS = (1, 3)
MEGAPIXELS = 10_000  # a larger image would not fit into memory
SIZE_LIMIT = 4096  # pixels in a direction
FILE_KINDS = ("folder", "csv")  # sources with one file for each image
Progress = Callable[[int, int], None]  # called with the number of images decoded and of all
SIZE = re.compile(r"([1-9][0-9]{0,4})(?:[x×]([1-9][0-9]{0,4}))?")


class Reading(NamedTuple):
    """Settings of how a source is read; each is a flag of the same name.

    Attributes:
        unlabeled: SPEC of more images for stage 1, or None.
        unlabeled_label: labels that mean "no label".
        path_column: column of a csv with the paths, by name or number from 1; None to find it.
        label_column: the same for the labels; names with commas for a column for each class.
        image_dir: folder that the paths of a csv are relative to; None for the folder of the csv.
        group_column: column of a csv with the group of each image, or None.
        split_column: column of a csv with the split of each image; `"off"` for none, None to find
            it.
        group_by: regular expression whose match in a path is the group of the image, or None.
        image_size: `"64"` or `"48x64"` (height and width); None to choose it from the images.
        channels: 1 for grey, 3 for colour; None to choose it from the images.
        image_fit: `"pad"` or `"crop"`; None for pad.
        glob: pattern of the files of a folder that are images; None for the usual endings.
        skip_broken: True to leave out files that cannot be decoded.
        strict: True to refuse rows of a csv without a file, and files without a row.
        merge_labels: True to read labels that differ only by case, spaces or zeros as one.
        cache_dir: folder for decoded images, or `"off"`; None for the user's cache folder.
        pixel_limit: largest image in megapixels; None for 100.
    """

    unlabeled: str | None = None
    unlabeled_label: tuple[str, ...] | None = None
    path_column: str | None = None
    label_column: str | None = None
    image_dir: Path | str | None = None
    group_column: str | None = None
    split_column: str | None = None
    group_by: str | None = None
    image_size: str | int | None = None
    channels: int | None = None
    image_fit: str | None = None
    glob: str | None = None
    skip_broken: bool | None = None
    strict: bool | None = None
    merge_labels: bool | None = None
    cache_dir: str | Path | None = None
    pixel_limit: float | None = None


READING = Reading()
FORM_FIELDS = ("image_size", "channels", "image_fit")  # they decide what a network gets
CSV_FIELDS = (
    "path_column",
    "label_column",
    "image_dir",
    "group_column",
    "split_column",
    "strict",
)
ANY_FIELDS = ("unlabeled",)  # fields that go with every source


def make_reading(options: dict[str, object]) -> Reading:
    """Return settings of reading from options by name.

    Raises:
        UserError: an unknown name.
    """
    for name in options:
        if name not in Reading._fields:
            raise UserError(f"load has no option {name!r}: {did_you_mean(name, Reading._fields)}")
    return Reading(**options)  # pyright: ignore[reportArgumentType]


def kind_of(spec: str) -> str:
    """Return the part of a SPEC before the colon."""
    return spec.partition(":")[0]


def fitting(reading: Reading, spec: str) -> Reading:
    """Return the settings that go with a source; the others are None."""
    return reading._replace(**dict.fromkeys(_not_fitting(reading, spec)))


def check_reading(reading: Reading, spec: str) -> None:
    """Check that a source takes all settings that are given.

    Raises:
        UserError: a malformed value, a setting that does not go with the source, or an incomplete
            `unlabeled`.
    """
    if reading.unlabeled is not None:
        check_spec(reading.unlabeled, flag="--unlabeled")
    for name, check in VALUE_CHECKS.items():
        if getattr(reading, name) is not None:
            check(f"--{name.replace('_', '-')}", getattr(reading, name))
    for name in _not_fitting(reading, spec):
        needed = "folder:DIR and csv:FILE"
        if name in CSV_FIELDS:
            needed = "csv:FILE"
        elif name == "glob":
            needed = "folder:DIR"
        flag = f"--{name.replace('_', '-')}"
        raise UserError(f"{flag} goes with {needed}, not with {spec!r}: leave it out")


def check_pattern(flag: str, value: object) -> None:
    """Accept a regular expression, such as 'patient_[0-9]+'."""
    try:
        re.compile(str(value))
        valid = isinstance(value, str) and value != ""
    except (re.error, RecursionError, OverflowError):
        valid = False
    if not valid:
        raise UserError(
            f"{flag} is {shown(value)}: give a regular expression for a part of the path, such as "
            "'patient_[0-9]+'"
        )


def check_channels(flag: str, value: object) -> None:
    """Accept 1 (grey) or 3 (colour)."""
    if type(value) is not int or value not in CHANNELS:
        raise UserError(f"{flag} is {shown(value)}: give 1 for grey or 3 for colour")


def check_fit(flag: str, value: object) -> None:
    """Accept pad or crop."""
    if value not in FITS:
        raise UserError(f"{flag} is {shown(value)}: give pad or crop")


def check_size(flag: str, value: object) -> None:
    """Accept a number of pixels, or height x width such as 48x64."""
    parse_size(flag, value)


def check_megapixels(flag: str, value: object) -> None:
    """Accept a number of megapixels above 0."""
    if type(value) not in (int, float) or not 0 < value <= MEGAPIXELS:  # pyright: ignore
        raise UserError(f"{flag} is {shown(value)}: give a number of megapixels above 0")


VALUE_CHECKS: dict[str, Callable[[str, object], None]] = {
    "group_by": check_pattern,
    "image_size": check_size,
    "channels": check_channels,
    "image_fit": check_fit,
    "pixel_limit": check_megapixels,
}


def _not_fitting(reading: Reading, spec: str) -> list[str]:
    kinds = {kind_of(text) for text in (spec, reading.unlabeled) if text}
    names = []
    for name, value in reading._asdict().items():
        if value in (None, False, ()) or name in ANY_FIELDS:
            continue
        needed = set(FILE_KINDS)
        if name in CSV_FIELDS:
            needed = {"csv"}
        elif name == "glob":
            needed = {"folder"}
        if not needed & kinds:
            names.append(name)
    return names


def parse_size(flag: str, value: object) -> tuple[int, int]:
    """Return height and width of `64` or `48x64`.

    Raises:
        UserError: another form, or more than 4,096 in a direction.
    """
    match = SIZE.fullmatch(str(value))
    if match is None or isinstance(value, bool):
        raise UserError(f"{flag} is {shown(value)}: give a number of pixels, such as 64 or 48x64")
    height = int(match.group(1))
    width = int(match.group(2) or height)
    if max(height, width) > SIZE_LIMIT:
        raise UserError(
            f"{flag} is {shown(value)}: give at most {SIZE_LIMIT:,} pixels in each direction"
        )
    return height, width


def takes_data_dir(spec: str) -> bool:
    """Return True for sources of TensorFlow Datasets, which have a folder for all their data."""
    return spec.partition(":")[0] in ("mnist", "tfds")


def expanded(path: str | Path) -> Path:
    """Return a path with `~` replaced by the home folder, which no shell does after a colon."""
    return Path(os.path.expanduser(path))


def absolute(spec: str) -> str:
    """Return `spec` with an absolute path, so that it works from every working directory."""
    kind, _, rest = spec.partition(":")
    has_path = kind in ("idx", "npz", *FILE_KINDS) and rest
    return f"{kind}:{expanded(rest).absolute()}" if has_path else spec


def _form_of_path(text: str) -> str:
    """Return the form of a path that was given without one; empty if it names no source."""
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        return f"write folder:{text} for a folder of images"
    ending = os.path.splitext(text)[1].lower()
    is_source = ending in (".csv", ".npz") and os.path.isfile(path)
    return f"write {ending[1:]}:{text}" if is_source else ""


def check_spec(spec: object, with_data_dir: bool = False, flag: str = "--data") -> None:
    """Check the form of a SPEC; nothing is read.

    Args:
        spec: a value for `--data`, from the command line, a config file or Python.
        with_data_dir: True if `--data-dir` was given too.
        flag: name of the flag, for messages.

    Raises:
        UserError: `spec` has no valid form, or it does not take a `--data-dir`.
    """
    text = str(spec)
    kind, _, rest = text.partition(":")
    forms = {form.partition(":")[0]: form for form in SPECS}
    if kind not in forms:
        hint = _form_of_path(text) or did_you_mean(kind, SPECS)
        raise UserError(f"unknown source {shown(spec)}: {hint}")
    # `digits:` and `mnist:3` are mistakes too: these names stand alone.
    is_complete = rest != "" if ":" in forms[kind] else text == kind
    if not is_complete:
        raise UserError(f"{flag} {text!r} is incomplete: write {forms[kind]}")
    if kind == "tfds" and not TFDS_NAME.fullmatch(rest):
        raise UserError(
            f"tfds:{rest} is not a valid name of a data set: write tfds:NAME, tfds:NAME/CONFIG or "
            "tfds:NAME:1.2.3, with letters, digits and _"
        )
    if with_data_dir and not takes_data_dir(text):
        raise UserError(
            f"--data-dir goes with mnist and tfds:NAME, not with {text!r}: leave it out"
        )
