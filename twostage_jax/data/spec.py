"""Checks of single values, before anything is imported or read: what came, and what would do."""

import re
from pathlib import Path
from typing import Any

from twostage_jax.errors import UserError, did_you_mean, shown

# What TFDS calls a set: NAME, NAME/CONFIG, NAME:1.2.3. A namespace before it would fetch code.
TFDS_NAME = re.compile(r"[A-Za-z]\w*(/\w[\w+.-]*)?(:(\d+|\*)(\.(\d+|\*)){2})?", re.ASCII)
SPECS = ("digits", "mnist", "tfds:NAME", "idx:DIR", "npz:FILE")


def takes_data_dir(spec: Any) -> bool:
    """Whether a source is one of TensorFlow Datasets, which lie in a folder of their own."""
    return str(spec).partition(":")[0] in ("mnist", "tfds")


def absolute(spec: str | None) -> str | None:
    """A source with the path in it made absolute, so that it is found from everywhere."""
    kind, colon, rest = str(spec).partition(":")
    return f"{kind}{colon}{Path(rest).absolute()}" if kind in ("idx", "npz") and rest else spec


def check_spec(spec: Any, with_data_dir: bool = False) -> None:
    """Raise `UserError` where `spec` names no kind of source; nothing is read."""
    kind, colon, rest = str(spec).partition(":")
    names = {name.partition(":")[0]: name for name in SPECS}
    if kind not in names:
        raise UserError(f"unknown source {shown(spec)}: {did_you_mean(kind, SPECS)}")
    if bool(rest) != (":" in names[kind]) or (colon and not rest):
        raise UserError(f"--data {spec!r} is not whole: write {names[kind]}")
    if kind == "tfds" and not TFDS_NAME.fullmatch(rest):
        raise UserError(
            f"tfds:{rest} is no name of a set: write tfds:NAME, tfds:NAME/CONFIG or "
            "tfds:NAME:1.2.3, with letters, digits and _"
        )
    if with_data_dir and not takes_data_dir(spec):
        raise UserError(
            f"--data-dir goes with mnist and tfds:NAME, not with {spec!r}: leave it out"
        )
