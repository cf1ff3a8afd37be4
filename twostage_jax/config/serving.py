"""`twostage serve` and its flags; the strings under the fields are their help."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from twostage_jax.config.fields import SWITCH, flag, number
from twostage_jax.config.flags import Loading
from twostage_jax.config.reading import ReadingConfig, reading_of
from twostage_jax.data.spec import SPECS, check_reading, check_spec
from twostage_jax.errors import UserError, shown

KINDS = {form.partition(":")[0] for form in SPECS}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PORT = 8000  # if it is free
PACKAGES = ("starlette", "uvicorn")  # of the extra `serve`
check_port = number("a port from 1 to 65535", 1, 65536, (int,))


@dataclass(frozen=True, repr=False, kw_only=True)
class Serve(Loading, ReadingConfig):
    """Show a local page to try a model and to label images (extra: serve)."""

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|MODEL")]
    """Folder of a run, or a file from `twostage export`"""
    host: Annotated[str, flag("NAME", LOOPBACK[0])] = LOOPBACK[0]
    """Address of the page, on this machine only: 127.0.0.1, localhost or ::1"""
    port: Annotated[int | None, flag("INT", f"{PORT}, or a free one")] = None
    """Port of the page"""
    no_browser: Annotated[bool, SWITCH] = False
    """Only print the address of the page, and do not open a browser"""
    label: Annotated[str | None, flag("SPEC", "none")] = None
    """Source or folder of images to label by keyboard, one by one; needs --labels-out"""
    labels_out: Annotated[Path | None, flag("FILE.csv", "none")] = None
    """File for the labels, written after each answer; an existing file is continued"""
    classes: Annotated[str | None, flag("NAME,...", "those of the model")] = None
    """Classes to choose from when labelling, separated by commas"""
    data_dir: Annotated[Path | None, flag("DIR", "the run's")] = None
    """Folder in which TensorFlow Datasets keeps its data"""


def check_serve(command: Serve) -> None:
    """Check the flags of `twostage serve`; nothing is read.

    Raises:
        UserError: the extra `serve` is not installed, an address that other machines can reach, a
            port out of range, flags for labelling without `--label`, or `--label` without
            a usable `--labels-out`.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"twostage serve needs packages that are missing ({', '.join(missing)}): pip install "
            "'twostage-jax[serve]'"
        )
    if command.host not in LOOPBACK:
        raise UserError(
            f"--host is {shown(command.host)}, but only this machine may open the page: give "
            f"{', '.join(LOOPBACK[:-1])} or {LOOPBACK[-1]}; from elsewhere, use ssh -L"
        )
    if command.port is not None:
        check_port("--port", command.port)
    if command.label and not command.labels_out:
        raise UserError("--label needs a file for the labels: add --labels-out FILE.csv")
    reading = reading_of(command)
    settings = [name for name, value in reading._asdict().items() if value not in (None, False, ())]
    for name in ("labels_out", "classes", *settings):
        # The cache is used for the training images, too.
        if name != "cache_dir" and not command.label and getattr(command, name):
            flag_name = name.replace("_", "-")
            raise UserError(f"--{flag_name} is for labelling: add --label SPEC, or leave it out")
    if command.label:
        spec = label_spec(command.label)
        check_spec(spec, flag="--label")
        _check_labels_out(command.labels_out)
        check_reading(reading, spec)


def _check_labels_out(out: Path | None) -> None:
    """Raise `UserError` for a file that the first label could not be written to."""
    if out is None:
        return
    out = out.expanduser()
    if out.is_dir():
        raise UserError(f"--labels-out {out} is a folder: give a file")
    if not out.parent.is_dir():
        raise UserError(f"--labels-out {out}: the folder {out.parent} does not exist: create it")


def label_spec(text: str) -> str:
    """SPEC of the images to label: a path alone is a folder of images, or a csv file.

    >>> [label_spec(text) for text in ("photos", "labels.csv", "npz:a.npz", "digits")]
    ['folder:photos', 'csv:labels.csv', 'npz:a.npz', 'digits']
    """
    # A folder called `digits` is given as `folder:digits`.
    if text.partition(":")[0] in KINDS:
        return text
    return f"csv:{text}" if text.lower().endswith(".csv") else f"folder:{text}"
