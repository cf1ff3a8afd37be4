"""Grammar of `--data SPEC`, checked before anything heavy is imported or read."""

import os
import re
from pathlib import Path

from twostage_jax.errors import UserError, did_you_mean, shown

# NAME, NAME/CONFIG or NAME:1.2.3. A namespace in front of a name would make TFDS fetch code.
TFDS_NAME = re.compile(r"[A-Za-z]\w*(/\w[\w+.-]*)?(:(\d+|\*)(\.(\d+|\*)){2})?", re.ASCII)
SPECS = ("digits", "mnist", "tfds:NAME", "idx:DIR", "npz:FILE")


def takes_data_dir(spec: str) -> bool:
    """Return True for sources of TensorFlow Datasets, which have a folder for all their data."""
    return spec.partition(":")[0] in ("mnist", "tfds")


def expanded(path: str | Path) -> Path:
    """Return a path with `~` replaced by the home folder, which no shell does after a colon."""
    return Path(os.path.expanduser(path))


def absolute(spec: str) -> str:
    """Return `spec` with an absolute path, so that it works from every working directory."""
    kind, _, rest = spec.partition(":")
    return f"{kind}:{expanded(rest).absolute()}" if kind in ("idx", "npz") and rest else spec


def check_spec(spec: object, with_data_dir: bool = False) -> None:
    """Check the form of a SPEC; nothing is read.

    Args:
        spec: a value for `--data`, from the command line, a config file or Python.
        with_data_dir: True if `--data-dir` was given too.

    Raises:
        UserError: `spec` has no valid form, or it does not take a `--data-dir`.
    """
    text = str(spec)
    kind, _, rest = text.partition(":")
    forms = {form.partition(":")[0]: form for form in SPECS}
    if kind not in forms:
        raise UserError(f"unknown source {shown(spec)}: {did_you_mean(kind, SPECS)}")
    # `digits:` and `mnist:3` are mistakes too: these names stand alone.
    is_complete = rest != "" if ":" in forms[kind] else text == kind
    if not is_complete:
        raise UserError(f"--data {text!r} is incomplete: write {forms[kind]}")
    if kind == "tfds" and not TFDS_NAME.fullmatch(rest):
        raise UserError(
            f"tfds:{rest} is not a valid name of a data set: write tfds:NAME, tfds:NAME/CONFIG or "
            "tfds:NAME:1.2.3, with letters, digits and _"
        )
    if with_data_dir and not takes_data_dir(text):
        raise UserError(
            f"--data-dir goes with mnist and tfds:NAME, not with {text!r}: leave it out"
        )
