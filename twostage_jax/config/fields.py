"""The declaration of a field: metavar, check, default by preset and sweepability in one place.

A field is written once, in `schema.py` or `groups.py`, as `Annotated[type, *declare(…)]`. Its flag,
its help, its check, its place in the presets and in the table of sweepable scalars are derived from
that. A check takes the flag and the value, and raises `UserError` or returns.
"""

import functools
import math
import re
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import tyro

from twostage_jax.errors import UserError, did_you_mean, shown

# Fields have the type of their resolved value. Before that, None means "not given".
UNSET: Any = None

Check: TypeAlias = Callable[[str, object], object]

OTHER_PRESETS = "others"  # key of a default for all presets without one of their own
MESH_AXES = ("member", "data")
MESH_SIZE = re.compile("[1-9][0-9]{0,8}")
PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
MAX_LAYERS = 100  # a file from a stranger must not ask for a program of any size
LARGEST = 3e38  # all computation is in float32
SMALLEST = math.nextafter(0, 1)  # as a lower bound, it excludes 0 only
MAX_INT = 2**31  # jax counts in 32 bits


def number(
    allowed: str, least: float, below: float, kinds: Collection[type] = (int, float)
) -> Check:
    """Make a check for a number in [least, below) of the given types."""

    def check(flag: str, value: object) -> None:
        # `type` and not `isinstance`: a bool is an int in Python, but `--seed true` is a mistake.
        # NaN is rejected, because all comparisons with it are false.
        if type(value) not in kinds or not least <= value < below:  # pyright: ignore
            raise UserError(f"{flag} is {shown(value)}: give {allowed}")

    check.__doc__ = f"Accept {allowed}."
    return check


check_above_zero = number("a number above 0, for instance 0.001", SMALLEST, LARGEST)
check_beta = number("a number between 0 and 1, for instance 0.999", SMALLEST, 1)
check_from_zero = number("a number of at least 0", 0, LARGEST)
check_share = number("a number of at least 0 and less than 1", 0, 1)
check_finite = number("a finite number", -LARGEST, LARGEST)
check_coverage = number("a number between 0 and 1, such as 0.95", SMALLEST, 1)


def integer(least: int) -> Check:
    """Make a check for an integer of at least `least`."""
    allowed = f"a whole number of at least {least}, below {MAX_INT}"
    return number(allowed, least, MAX_INT, (int,))


def instance(kind: type, allowed: str) -> Check:
    """Make a check for values of a type."""

    def check(flag: str, value: object) -> None:
        if not isinstance(value, kind):
            raise UserError(f"{flag} is {shown(value)}: give {allowed}")

    check.__doc__ = f"Accept {allowed}."
    return check


check_text = instance(str, "text")
_check_path = instance(Path, "a path")


def check_path(flag: str, value: object) -> None:
    """Accept a path whose home folder exists; a folder called `~` is never meant."""
    _check_path(flag, value)
    if str(value).startswith("~"):
        raise UserError(
            f"{flag} is {shown(str(value))}: there is no such home folder; give the full path"
        )


check_switch = instance(bool, "true or false")


def choice(kind: str, names: Collection[str], imports: bool = False) -> Check:
    """Make a check for one of `names`; with `imports`, `package.module:name` is accepted too."""

    def check(flag: str, value: object) -> None:
        # Whether the code exists is known only after its import, and that may need jax.
        imported = imports and isinstance(value, str) and ":" in value
        if not imported and value not in tuple(names):
            also = ", or package.module:name" if imports else ""
            hint = did_you_mean(str(value), names)
            raise UserError(f"unknown {kind} {shown(value)}: {hint}{also}")

    check.__doc__ = f"Accept {', '.join(names)}{', or package.module:name' * imports}."
    return check


def choices(names: Collection[str]) -> Check:
    """Make a check for a tuple of some of `names`."""

    def check(flag: str, value: object) -> None:
        if not isinstance(value, tuple):
            raise UserError(f"{flag} is {shown(value)}: give a list of {' and '.join(names)}")
        for name in value:
            choice(flag, names)(flag, name)

    check.__doc__ = f"Accept a list of {' and '.join(names)}."
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
            integer(1)(flag, width)

    check.__doc__ = f"Accept a list of at least {least} layer sizes."
    return check


def check_numbers(flag: str, value: object) -> None:
    """Accept pairs (parameter, number) with every parameter once."""
    for name, content in _pairs(flag, value, "NAME=VALUE, for instance temperature=0.2"):
        if not PARAMETER.fullmatch(name):
            raise UserError(f"{flag} {shown(name)} is not a parameter's name: give NAME=VALUE")
        check_finite(f"{flag} {name}", content)


def check_sweep(flag: str, value: object) -> None:
    """Accept pairs (field, distinct numbers) with every field once.

    `rules` checks the fields.
    """
    form = "NAME=V1,V2, for instance head.learning-rate=1e-4,1e-3"
    for name, numbers in _pairs(flag, value, form):
        if not isinstance(numbers, tuple) or not numbers:
            raise UserError(f"{flag} {shown(name)} is {shown(numbers)}: give a list of numbers")
        for content in numbers:
            check_finite(f"a value of {flag} {shown(name)}", content)
        # Two equal points would be one trial that is trained and reported twice.
        if len(set(numbers)) < len(numbers):
            raise UserError(f"{flag} {shown(name)} has a value twice: give each value once")


def _pairs(flag: str, value: object, form: str) -> list[tuple[str, object]]:
    pairs: dict[str, object] = {}
    for item in value if isinstance(value, tuple) else (value,):
        if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], str):
            raise UserError(f"{flag} {shown(item)} is incomplete: write {form}")
        name, content = item
        # A dict would keep the last value silently.
        if name in pairs:
            raise UserError(f"{flag} {shown(name)} is given twice: give it once")
        pairs[name] = content
    return list(pairs.items())


def parse_mesh(flag: str, text: object) -> dict[str, int]:
    """Axes and sizes of a mesh such as `member=4,data=2`; empty for None.

    Raises:
        UserError: Another form, an axis that is unknown or given twice, or a size below 1.
    """
    axes: dict[str, int] = {}
    for part in [] if text is None else str(text).split(","):
        name, _, size = part.strip().partition("=")
        if name not in MESH_AXES or name in axes or not MESH_SIZE.fullmatch(size):
            raise UserError(
                f"{flag} is {shown(text)}: give devices along {' and '.join(MESH_AXES)}, for "
                "instance member=4,data=2"
            )
        axes[name] = int(size)
    return axes


def as_tuple(value: object) -> object:
    """Convert a list, as JSON has it, into a tuple: configs are hashable."""
    return tuple(value) if isinstance(value, list) else value


def as_shares(value: object) -> object:
    """Convert a list of shares into the text with commas."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return value


def as_path(value: object) -> object:
    """Convert a string into a path, with `~` as the home folder."""
    if not isinstance(value, str | Path):
        return value
    path = Path(value)
    try:
        return path.expanduser()
    except RuntimeError:  # no such user, or nobody's home: `check_path` reports it
        return path


def as_home_text(value: object) -> object:
    """Expand `~` in a path that is kept as text."""
    return str(as_path(value)) if isinstance(value, str) and value.startswith("~") else value


def as_numbers(value: object) -> object:
    """Convert `NAME=VALUE` texts, a mapping or pairs into `((parameter, number), …)`."""
    return _as_pairs(value, "-", "_", _as_number)


def as_sweep(value: object) -> object:
    """Convert `NAME=V1,V2` texts, a mapping or pairs into `((field, (number, …)), …)`."""
    return _as_pairs(value, "_", "-", _as_values)


def _as_pairs(value: object, old: str, new: str, convert: Callable[[object], object]) -> object:
    if isinstance(value, str):
        value = (value,)
    if isinstance(value, Mapping):
        value = tuple(value.items())
    if not isinstance(value, list | tuple):
        return value
    pairs = []
    for item in value:
        if isinstance(item, str) and "=" in item:
            item = item.split("=", 1)
        if isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str):
            name, content = item
            # Names of parameters have `_`, names of fields `-`; users may write either, or a flag.
            item = (name.strip().removeprefix("--").replace(old, new), convert(content))
        pairs.append(item)
    # tyro gives an empty tuple for a repeatable flag that is absent.
    return tuple(pairs) or None


def _as_values(value: object) -> object:
    if isinstance(value, str):
        value = value.split(",")
    items = value if isinstance(value, list | tuple) else (value,)
    return tuple(map(_as_number, items))


def _as_number(value: object) -> object:
    if not isinstance(value, str | int) or isinstance(value, bool):
        return value
    try:
        # 1 and 1.0 are one value, for the checks of a resumed run too.
        return float(value)
    except (ValueError, OverflowError):
        return value


@dataclass(frozen=True, eq=False)  # hashed by identity: tyro hashes annotations
class Declaration:
    """Declaration of one field.

    Attributes:
        check: Check of a value that is given.
        default: Default value, or one by preset, with `others` for those that are not named; None
            if the field can stay open.
        sweepable: True if the field is a scalar that `--sweep` can vary.
        trained: True if the field only applies to a head that is trained step by step.
        normal: Converts the forms that JSON, Python and the command line use into one form. It
            leaves a malformed value as it is, for `check` to report.
        hint: Default value in words.
    """

    check: Check
    default: object = None
    sweepable: bool = False
    trained: bool = False
    normal: Callable[[object], object] = as_tuple
    hint: str = ""


def declare(metavar: str, check: Check, hint: str = "", **options: Any) -> tuple[object, ...]:
    """Annotations of a field: its `Declaration`, and its flag for tyro.

    Args:
        metavar: Placeholder for the value in the help text.
        check: Check of a value.
        hint: Default in the help text; derived from `default` if empty.
        options: Other attributes of the `Declaration`.
    """
    hint = hint or _words(options.get("default"))
    return (Declaration(check, hint=hint, **options), flag(metavar, hint))


def declare_repeatable(
    metavar: str, check: Check, normal: Callable[[object], object]
) -> tuple[object, ...]:
    """Annotations of a field whose flag takes one text and may be repeated."""
    hint = "(repeatable)"
    argument = tyro.conf.arg(metavar=metavar, help_behavior_hint=hint, constructor=tuple[str, ...])
    return (Declaration(check, normal=normal), argument, tyro.conf.UseAppendAction)


def flag(metavar: str, default: str) -> object:
    """Placeholder and default of a flag, for tyro's help text."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


# A flag without a value.
SWITCH = tyro.conf.arg(help_behavior_hint="(default: off)")


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items())
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else f"{value}"


@functools.cache
def declarations(kind: type) -> dict[str, Declaration]:
    """Declarations of the fields of a dataclass, by name."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {
        name: annotation
        for name, hint in hints.items()
        for annotation in getattr(hint, "__metadata__", ())
        if isinstance(annotation, Declaration)
    }


def dotted(name: str, group: str = "") -> str:
    """Name of a field as `--sweep` takes it: `head.learning-rate`."""
    path = f"{group}.{name}" if group else name
    return path.replace("_", "-")


def present(config: object) -> dict[str, Any]:
    """Fields of a configuration that have a value, in their order."""
    return {name: value for name, value in vars(config).items() if value is not None}
