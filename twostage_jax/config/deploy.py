"""`twostage predict` and `twostage export`; the strings under the fields are their help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from twostage_jax.config.fields import flag, number
from twostage_jax.config.flags import Loading

LIMIT = 100  # megapixels of one image
check_megapixels = number("a number above 0", 1e-6, 1e6)


@dataclass(frozen=True, kw_only=True)
class Predict(Loading):
    """Classify images and write a CSV; see docs/deploy.md for its columns."""

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|MODEL")]
    """Folder of a run, or a file from `twostage export`"""
    inputs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="INPUT...")]
    """Image files, folders, patterns, csv or npz files, or - for paths on standard input"""
    out: Annotated[Path | None, flag("FILE.csv", "standard output")] = None
    """File for the CSV"""
    max_megapixels: Annotated[float, flag("FLOAT", f"{LIMIT}")] = LIMIT
    """Largest image in megapixels; larger ones are not decoded"""
