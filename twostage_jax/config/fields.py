"""Checks of single values, before anything is imported or read: what came, and what would do."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from twostage_jax.errors import UserError, did_you_mean, shown

MESH_AXES = ("member", "data")
SIZE = re.compile("[1-9][0-9]{0,8}")
MOST_LAYERS = 100
# Each training is a row of every table of a run, and has a key and a state on the host.
MOST_ROWS = 1_000_000
LARGEST = 3e38  # float32, in which all is computed


def check_out(folder: Path) -> None:
    """Raise `UserError` where Orbax could not write a run's checkpoints.

    It takes some characters for a pattern, and a name such as `gs:` for a bucket.
    """
    try:
        parts = [part.encode() for part in folder.absolute().parts]
    except UnicodeEncodeError as error:
        raise UserError(f"the folder {folder} has bytes that are not UTF-8: rename it") from error
    odd = sorted(set(str(folder.absolute())) & set("[]*?\\\0"))
    if odd or b"gs:" in parts:
        raise UserError(
            f"no checkpoint can be written to {folder.absolute()}, because of "
            f"{' '.join(odd) or 'gs:'} in it: give an --out without"
        )
    if max(map(len, parts)) > 255:
        raise UserError(
            f"{folder} has a name of {max(map(len, parts))} bytes, the most is 255: give a shorter "
            "--out"
        )


def check_rows(members: int | None, points: int) -> None:
    """Raise `UserError` where members at all points of a sweep are more than a run can keep."""
    if (members or 1) * points > MOST_ROWS:
        raise UserError(
            f"--members {members or 1} at {points:,} points of the sweep are "
            f"{(members or 1) * points:,} trainings: at most {MOST_ROWS:,} are one run; take fewer"
        )


def check_text(flag: str, value: Any) -> None:
    """Raise `UserError` where a value that is given is no text."""
    if value is not None and not isinstance(value, str):
        raise UserError(f"{flag} is {shown(value)}: give text")


def check_whole(flag: str, value: Any, least: int) -> None:
    """Raise `UserError` where a value that is given is no whole number of at least `least`."""
    if value is not None and (type(value) is not int or not least <= value < 2**31):
        raise UserError(
            f"{flag} is {shown(value)}: give a whole number of at least {least}, below {2**31}"
        )


def check_above_zero(flag: str, value: Any) -> None:
    """Raise `UserError` where a value that is given is no finite number above 0."""
    if value is not None and (type(value) not in (int, float) or not 0 < value < LARGEST):
        raise UserError(f"{flag} is {shown(value)}: give a number above 0, for instance 0.001")


def check_from_zero(flag: str, value: Any, below: float = LARGEST) -> None:
    """Raise `UserError` where a value that is given is not at least 0 and under `below`."""
    if value is not None and (type(value) not in (int, float) or not 0 <= value < below):
        most = "" if below == LARGEST else f" and less than {below:g}"
        raise UserError(f"{flag} is {shown(value)}: give a number of at least 0{most}")


def check_widths(flag: str, value: Any, at_least: int) -> None:
    """Raise `UserError` where a value that is given is no tuple of sizes of layers."""
    if value is None:
        return
    if not isinstance(value, tuple) or len(value) < at_least:
        raise UserError(
            f"{flag} is {shown(value)}: give the sizes of the layers, for instance 256 128"
        )
    if len(value) > MOST_LAYERS:
        raise UserError(f"{flag} has {len(value):,} layers: give at most {MOST_LAYERS}")
    for width in value:
        check_whole(flag, width, 1)


def check_choice(kind: str, value: Any, names: Collection[str], imports: bool = False) -> None:
    """Raise `UserError` where a value that is given is none of `names`, nor code to import."""
    if value is None or (isinstance(value, str) and value in names):
        return
    if imports and isinstance(value, str) and ":" in value:
        return
    also = ", or package.module:name" if imports else ""
    raise UserError(f"unknown {kind} {shown(value)}: {did_you_mean(str(value), names)}{also}")


def check_mesh(text: Any) -> dict[str, int]:
    """The axes of a mesh from `member=4,data=2`; none where `text` is None.

    Raises:
        UserError: another form, an axis that is unknown or given twice, a size below 1.
    """
    axes: dict[str, int] = {}
    for part in [] if text is None else str(text).split(","):
        name, _, size = part.strip().partition("=")
        if name not in MESH_AXES or name in axes or not SIZE.fullmatch(size):
            raise UserError(
                f"--mesh is {shown(text)}: give devices along {' and '.join(MESH_AXES)}, for "
                "instance member=4,data=2"
            )
        axes[name] = int(size)
    return axes


def check_coverage(value: Any) -> None:
    """Raise `UserError` for a coverage outside (0, 1)."""
    if value is not None and not 0 < value < 1:
        raise UserError(
            f"--coverage is {shown(value)}: give a number between 0 and 1, for instance 0.95"
        )
