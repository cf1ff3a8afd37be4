"""Records of epochs, and the functions that receive them: `on_epoch` and TensorBoard's."""

import contextlib
import importlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twostage_jax.engine.loop import Progress
from twostage_jax.errors import UserError
from twostage_jax.show.mosaics import draw_predictions
from twostage_jax.store.atomic import remove
from twostage_jax.store.epochs import VALIDATION_PREFIX, EpochRecord
from twostage_jax.store.layout import METRICS

# Receives the record of an epoch as `metrics.jsonl` holds it; True ends the stage.
OnEpoch = Callable[[dict[str, Any]], object]


def make_record(stage: str, progress: Progress) -> EpochRecord:
    """Return the record of a completed epoch; figures are means over the finite members."""
    assert progress.metrics is not None
    means, members = _summary(progress.metrics)
    validation, on_validation = _summary(progress.validation)
    if "loss" in validation:
        members |= {f"{VALIDATION_PREFIX}{name}": values for name, values in on_validation.items()}
    else:
        # Without a validation split, an encoder is watched on images of the training.
        means |= validation
        members |= on_validation
        validation = {}
    loss = means.pop("loss")
    seconds = round(progress.seconds, 3)
    return EpochRecord(stage, progress.epoch, loss, seconds, means, members, validation)


def _summary(
    metrics: Mapping[str, np.ndarray],
) -> tuple[dict[str, float | None], dict[str, list[float | None]]]:
    """Return means over the finite members, and the values of all members if there are several."""
    means: dict[str, float | None] = {}
    members = {}
    for name, values in metrics.items():
        finite = values[np.isfinite(values)]
        means[name] = float(finite.mean()) if finite.size else None
        # The figures of a single member are the means.
        if len(values) > 1:
            members[name] = [float(x) if math.isfinite(x) else None for x in values]
    return means, members


class TensorBoard:
    """Listener that writes scalars and pictures into `RUN/tensorboard`.

    The curves of training and of validation share a chart for each figure of each stage. The files
    are written anew from `metrics.jsonl` by every process, so that a resumed run has no point
    twice.

    Args:
        folder: folder of the run.

    Raises:
        UserError: if the extra `tensorboard` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._writer_class = load_writer()
        self._folder = folder
        self._writers: dict[str, Any] = {}
        self._pictured: set[int] = set()  # epochs of stage 2

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Add the figures of an epoch, which `metrics.jsonl` already has."""
        if self._writers:
            self._add(record)
        else:
            self._open()

    def add_predictions(self, arrays: Mapping[str, np.ndarray], classes: Sequence[str]) -> None:
        """Add pictures of validation images with their predictions, of epochs that have none yet.

        Args:
            arrays: from `preview.progress_arrays`.
            classes: names of the K classes.
        """
        if not self._writers:
            self._open()
        for row, epoch in enumerate(arrays["progress_epoch"].tolist()):
            if epoch in self._pictured:
                continue
            self._pictured.add(epoch)
            self._picture("head/predictions", draw_predictions(arrays, row, classes), epoch)

    def add_pictures(self) -> None:
        """Add all pictures in the run's folder."""
        if not self._writers:
            self._open()
        for path in sorted(self._folder.glob("*.png")):
            self._picture(path.stem, path.read_bytes(), None)

    def _picture(self, name: str, png: bytes, step: int | None) -> None:
        # Imported here, because most runs do not need it.
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        writer = self._writers["training"]
        writer.add_image(name, pixels, step, dataformats="HWC")
        writer.flush()

    def close(self) -> None:
        """Finish the files."""
        for writer in self._writers.values():
            writer.close()

    def _open(self) -> None:
        folder = self._folder / "tensorboard"
        remove(folder)
        for name in ("training", "validation"):
            self._writers[name] = self._writer_class(str(folder / name))
        path = self._folder / METRICS
        for line in path.read_text().splitlines() if path.is_file() else ():
            self._add(json.loads(line))

    def _add(self, record: Mapping[str, Any]) -> None:
        figures = {"training": record, "validation": record.get("validation", {})}
        for name, writer in self._writers.items():
            for figure, value in figures[name].items():
                # A figure that is not finite is None, and has no point.
                if isinstance(value, float):
                    writer.add_scalar(f"{record['stage']}/{figure}", value, record["epoch"])
            writer.flush()


def load_writer() -> Callable[[str], Any]:
    """Return the class that writes files for TensorBoard.

    Raises:
        UserError: if the extra `tensorboard` is not installed.
    """
    try:
        return importlib.import_module("tensorboardX").SummaryWriter
    except ImportError as error:
        raise UserError(
            f"--tensorboard needs a package that is missing ({error}): pip install "
            "'twostage-jax[tensorboard]'"
        ) from error


@contextlib.contextmanager
def open_board(folder: Path | None) -> Iterator[TensorBoard | None]:
    """Open the TensorBoard files of a run, and finish them at the end; None without a folder."""
    board = TensorBoard(folder) if folder else None
    try:
        yield board
    finally:
        if board:
            board.close()


def call_both(first: OnEpoch | None, second: OnEpoch | None) -> OnEpoch | None:
    """Return a listener that calls two of them, either of which may be missing.

    It returns the answer of the second one.
    """
    if first is None or second is None:
        return first or second

    def call(record: dict[str, Any]) -> object:
        first(record)
        return second(record)

    return call
