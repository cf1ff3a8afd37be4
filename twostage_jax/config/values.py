"""Checks of single values. Each takes the flag and the value, and raises `UserError` or returns."""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeAlias

from twostage_jax.errors import UserError, did_you_mean, shown

Check: TypeAlias = Callable[[str, object], None]

MESH_AXES = ("member", "data")
MESH_SIZE = re.compile("[1-9][0-9]{0,8}")
PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
MAX_LAYERS = 100  # a file from a stranger must not ask for a program of any size
LARGEST = 3e38  # all computation is in float32
LONGEST_NAME = 255  # bytes of a file name on common file systems


def check_text(flag: str, value: object) -> None:
    """Accept a string."""
    if not isinstance(value, str):
        raise UserError(f"{flag} is {shown(value)}: give text")


def check_path(flag: str, value: object) -> None:
    """Accept a path."""
    if not isinstance(value, Path):
        raise UserError(f"{flag} is {shown(value)}: give a path")


def check_switch(flag: str, value: object) -> None:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise UserError(f"{flag} is {shown(value)}: give true or false")


def check_whole(flag: str, value: object, least: int) -> None:
    """Accept an integer of at least `least` that fits into 32 bits."""
    # A bool is an int in Python, but `--seed true` is a mistake.
    if type(value) is not int or not least <= value < 2**31:
        raise UserError(
            f"{flag} is {shown(value)}: give a whole number of at least {least}, below {2**31}"
        )


def check_above_zero(flag: str, value: object) -> None:
    """Accept a finite number above 0."""
    if not _is_number(value, 0, LARGEST) or value == 0:
        raise UserError(f"{flag} is {shown(value)}: give a number above 0, for instance 0.001")


def check_from_zero(flag: str, value: object) -> None:
    """Accept a finite number of at least 0."""
    if not _is_number(value, 0, LARGEST):
        raise UserError(f"{flag} is {shown(value)}: give a number of at least 0")


def check_share(flag: str, value: object) -> None:
    """Accept a number in [0, 1)."""
    if not _is_number(value, 0, 1):
        raise UserError(f"{flag} is {shown(value)}: give a number of at least 0 and less than 1")


def check_finite(flag: str, value: object) -> None:
    """Accept a number that float32 can hold."""
    if not _is_number(value, -LARGEST, LARGEST):
        raise UserError(f"{flag} is {shown(value)}: give a finite number")


def check_coverage(flag: str, value: object) -> None:
    """Accept a number in (0, 1)."""
    if not _is_number(value, 0, 1) or value == 0:
        raise UserError(f"{flag} is {shown(value)}: give a number between 0 and 1, such as 0.95")


def _is_number(value: object, least: float, below: float) -> bool:
    # Comparisons with NaN are false, so NaN is rejected.
    return type(value) in (int, float) and least <= value < below  # pyright: ignore


def integer(least: int) -> Check:
    """Make a check for integers of at least `least`."""

    def check(flag: str, value: object) -> None:
        check_whole(flag, value, least)

    return check


def choice(kind: str, names: Collection[str], imports: bool = False) -> Check:
    """Make a check for one of `names`; with `imports`, `package.module:name` is accepted too."""

    def check(flag: str, value: object) -> None:
        text = value if isinstance(value, str) else ""
        if text in names or (imports and ":" in text):
            return
        also = ", or package.module:name" if imports else ""
        raise UserError(f"unknown {kind} {shown(value)}: {did_you_mean(str(value), names)}{also}")

    return check


def choices(names: Collection[str]) -> Check:
    """Make a check for a tuple of some of `names`."""

    def check(flag: str, value: object) -> None:
        if not isinstance(value, tuple):
            raise UserError(f"{flag} is {shown(value)}: give a list of {' and '.join(names)}")
        for name in value:
            choice(flag, names)(flag, name)

    return check


def layer_sizes(least: int) -> Check:
    """Make a check for a tuple of at least `least` layer sizes."""

    def check(flag: str, value: object) -> None:
        if not isinstance(value, tuple) or len(value) < least:
            raise UserError(
                f"{flag} is {shown(value)}: give the sizes of the layers, for instance 256 128"
            )
        if len(value) > MAX_LAYERS:
            raise UserError(f"{flag} has {len(value):,} layers: give at most {MAX_LAYERS}")
        for width in value:
            check_whole(flag, width, 1)

    return check


def check_numbers(flag: str, value: object) -> None:
    """Accept pairs (parameter, number) with every parameter once."""
    for name, number in _pairs(flag, value, "NAME=VALUE, for instance temperature=0.2"):
        if not PARAMETER.fullmatch(name):
            raise UserError(f"{flag} {shown(name)} is not a parameter's name: give NAME=VALUE")
        check_finite(f"{flag} {name}", number)


def check_sweep(flag: str, value: object) -> None:
    """Accept pairs (field, distinct numbers) with every field once; see `rules` for the fields."""
    for name, numbers in _pairs(
        flag, value, "NAME=V1,V2, for instance head.learning-rate=1e-4,1e-3"
    ):
        if not isinstance(numbers, tuple) or not numbers:
            raise UserError(f"{flag} {shown(name)} is {shown(numbers)}: give a list of numbers")
        for number in numbers:
            check_finite(f"a value of {flag} {shown(name)}", number)
        if len(set(numbers)) < len(numbers):
            raise UserError(f"{flag} {shown(name)} has a value twice: give each value once")


def _pairs(flag: str, value: object, form: str) -> list[tuple[str, object]]:
    items = value if isinstance(value, tuple) else (value,)
    pairs: dict[str, object] = {}
    for item in items:
        if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], str):
            raise UserError(f"{flag} {shown(item)} is incomplete: write {form}")
        name, content = item
        # A dict keeps the last one silently.
        if name in pairs:
            raise UserError(f"{flag} {shown(name)} is given twice: give it once")
        pairs[name] = content
    return list(pairs.items())


def check_mesh(flag: str, value: object) -> None:
    """Accept the text of a mesh."""
    parse_mesh(value, flag)


def parse_mesh(text: object, flag: str = "--mesh") -> dict[str, int]:
    """Axes and sizes of a mesh such as `member=4,data=2`; empty for None.

    Raises:
        UserError: Another form, an axis that is unknown or given twice, or a size below 1.
    """
    axes: dict[str, int] = {}
    # None: all devices along the member axis, which the caller decides.
    parts = [] if text is None else str(text).split(",")
    for part in parts:
        name, _, size = part.strip().partition("=")
        if name not in MESH_AXES or name in axes or not MESH_SIZE.fullmatch(size):
            raise UserError(
                f"{flag} is {shown(text)}: give devices along {' and '.join(MESH_AXES)}, for "
                "instance member=4,data=2"
            )
        axes[name] = int(size)
    return axes


def check_out(folder: Path) -> None:
    """Check that Orbax can write checkpoints into a folder of this name.

    Orbax reads some characters as a pattern, and a part such as `gs:` as a bucket.

    Raises:
        UserError: A name with such characters, of more than 255 bytes, or not in UTF-8.
    """
    full = str(folder.absolute())
    try:
        parts = [part.encode() for part in folder.absolute().parts]
    except UnicodeEncodeError as error:
        raise UserError(f"the folder {folder} has bytes that are not UTF-8: rename it") from error
    special = sorted(set(full) & set("[]*?\\\0"))
    if special or b"gs:" in parts:
        raise UserError(
            f"cannot write checkpoints to {full}, because of {' '.join(special) or 'gs:'} in it: "
            "give another --out"
        )
    longest = max(map(len, parts))
    if longest > LONGEST_NAME:
        raise UserError(
            f"{folder} has a name of {longest} bytes, the limit is {LONGEST_NAME}: give a shorter "
            "--out"
        )
