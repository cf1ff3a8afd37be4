"""`twostage predict`: images of any source to a CSV of classes and probabilities."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from twostage_jax.config.deploy import Predict
from twostage_jax.config.reading import check_megapixels
from twostage_jax.data.decode import Form
from twostage_jax.data.spec import Reading
from twostage_jax.engine.device import find_device
from twostage_jax.errors import UserError
from twostage_jax.runs.deploy.inputs import Input, list_inputs, read_inputs
from twostage_jax.runs.model import Model, open_model
from twostage_jax.show.prediction_rows import header, rows
from twostage_jax.show.tables import counted
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import interrupt_as_exception
from twostage_jax.store.layout import PART


def predict_command(command: Predict, terminal: Terminal) -> None:
    """Execute a parsed command; see `predict`."""
    check_megapixels("--pixel-limit", command.pixel_limit)
    out = None if command.out is None else command.out.expanduser()
    if out is not None:
        _check_out(out, command.inputs)
    reading = Reading(
        glob=command.glob, path_column=command.path_column, image_dir=command.image_dir
    )
    # Before the model is opened: a long list takes memory that the model can use afterwards.
    inputs = list_inputs(command.inputs, reading, terminal.notice)
    find_device(command.device)
    model = open_model(command.model, command.trust_code)
    with interrupt_as_exception():  # an interrupted command leaves no part of a file
        predict(model, inputs, out, terminal, command.pixel_limit)


def predict(
    model: Model,
    inputs: Sequence[Input],
    out: Path | None,
    terminal: Terminal,
    pixel_limit: float | None = None,
) -> None:
    """Classify images and write one row for each, as `twostage predict` does.

    Args:
        model: from `open_model`.
        inputs: from `list_inputs`.
        out: file for the CSV; standard output by default.
        terminal: prints notices; on standard error, because the CSV is on standard output.
        pixel_limit: largest image in megapixels; None for the default.

    Raises:
        UserError: an archive that cannot be read, or a file that cannot be written; at the end, if
            images could not be read.
    """
    settings = model.settings
    form = Form(*model.image_shape, model.fit)
    if isinstance(sys.stdin, io.TextIOWrapper):
        # A file name can have bytes that are no text.
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    count = broken = 0
    with _table(out) as table:
        table.write(header(model.classes))
        batches = read_inputs(inputs, form, pixel_limit, settings.scale, sys.stdin, terminal.notice)
        for names, images, errors in batches:
            table.write(rows(names, errors, model.classes, *model.assess(images, decoded=True)))
            count += len(names)
            broken += len(errors)
    where = "" if out is None else f"; the CSV is {out}"
    terminal.line(f"{counted(count - broken, 'image')} classified{where}")
    if broken:
        raise UserError(
            f"{broken:,} of {count:,} images could not be read: their rows have the reason in the "
            "column error; repair or remove these files"
        )


def _check_out(out: Path, inputs: Sequence[str]) -> None:
    """Raise `UserError` for a file that could only be refused, or missed, at the end."""
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give a file")
    for text in inputs:
        if out.exists() and os.path.exists(text) and out.samefile(text):
            raise UserError(f"--out {out} is also an input and would be overwritten: give another")


@contextlib.contextmanager
def _table(out: Path | None) -> Iterator[TextIO]:
    """Open the CSV; a file is complete or does not exist."""
    # Bytes of a file name that are not UTF-8 are written as they are.
    encoding = ("utf-8", "surrogateescape", "")
    if out is None:
        stream = io.TextIOWrapper(sys.stdout.buffer, *encoding)
        try:
            yield stream
        finally:
            stream.detach()  # flushes it, and leaves standard output open
        return
    part = out.with_name(out.name + PART)
    try:
        with open(part, "w", -1, *encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(out)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(
                f"cannot write {out}: {error.strerror or error}; give a writable --out"
            ) from error
        raise
