"""`twostage predict` and `twostage export`; the strings under the fields are their help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from twostage_jax.config.fields import flag, number
from twostage_jax.config.flags import Loading

# Formats of an exported model, and the default names of their files.
FORMATS = {
    "twostage": "model.twostage",
    "onnx": "model.onnx",
    "safetensors": "model.safetensors",
    "torch": "model-torch.safetensors",
}
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


@dataclass(frozen=True, kw_only=True)
class Export(Loading):
    """Write a run as one file for deployment; see docs/deploy.md."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run"""
    format: Literal["twostage", "onnx", "safetensors", "torch"] = "twostage"
    """Format: twostage (for predict and serve), onnx (extra: onnx), safetensors (weights alone), or
    torch (weights and a model.py beside them)"""
    out: Annotated[Path | None, flag("FILE", "model.* in the run's folder")] = None
    """File to write"""
