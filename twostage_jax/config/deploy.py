"""`twostage predict` and `twostage export`; the strings under the fields are their help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from twostage_jax.config.fields import flag
from twostage_jax.config.flags import Loading
from twostage_jax.errors import UserError

# Formats of an exported model, and the default names of their files.
FORMATS = {
    "twostage": "model.twostage",
    "onnx": "model.onnx",
    "safetensors": "model.safetensors",
    "torch": "model-torch.safetensors",
}
LIMIT = 100  # megapixels of one image


@dataclass(frozen=True, kw_only=True)
class Predict(Loading):
    """Classify images and write a CSV; see docs/deploy.md for its columns."""

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|MODEL")]
    """Folder of a run, or a file from `twostage export`"""
    inputs: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="INPUT...", help_behavior_hint="(required)"),
    ]
    """Image files, folders, patterns, csv or npz files, or - for paths on standard input"""
    out: Annotated[Path | None, flag("FILE.csv", "standard output")] = None
    """File for the CSV"""
    pixel_limit: Annotated[float, flag("MEGAPIXELS", f"{LIMIT}")] = LIMIT
    """Largest image in megapixels that is decoded"""
    glob: Annotated[str | None, flag("PATTERN", "all images but masks")] = None
    """Pattern of the files of a folder to read, such as "*.png" """
    path_column: Annotated[str | None, flag("NAME", "found by its name")] = None
    """Column of a csv with the paths, by name or number from 1"""
    image_dir: Annotated[Path | None, flag("DIR", "the folder of the csv")] = None
    """Folder that the paths of a csv start from"""


@dataclass(frozen=True, kw_only=True)
class Export(Loading):
    """Write a run as one file for deployment; see docs/deploy.md."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run"""
    format: Literal["twostage", "onnx", "safetensors", "torch"] = "twostage"
    """Format: twostage (for predict and serve), onnx (extra: onnx), safetensors (weights alone) \
or torch (weights and a model.py beside them)"""
    out: Annotated[
        Path | None, flag("FILE", "in the run's folder, such as model.twostage or model.onnx")
    ] = None
    """File to write"""


def check_predict(command: Predict) -> None:
    """Check the arguments of `twostage predict`.

    Raises:
        UserError: no image to classify.
    """
    if not command.inputs:
        raise UserError(
            f"predict needs images: twostage predict {command.model} INPUT, where INPUT is a file, "
            "a folder, a pattern, a csv or npz file, or - for paths on standard input"
        )
