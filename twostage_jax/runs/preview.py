"""Predictions for the same validation images after each epoch of stage 2, while a run trains.

Each epoch adds a line to `progress.jsonl`: the record of the epoch, and the predictions of the
first trial. The page `report.html` so far is written again if its last version is older than ten
seconds.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from twostage_jax.files import as_json, read_text
from twostage_jax.runs.clock import Alarm
from twostage_jax.runs.handover import chosen_groups
from twostage_jax.runs.material import Arrays, thumbnails
from twostage_jax.runs.pictures import sample_rows
from twostage_jax.runs.plan import Plan
from twostage_jax.runs.report import draw_report
from twostage_jax.runs.track import TensorBoard
from twostage_jax.runs.trials import first_numbers
from twostage_jax.stages.stage import Params, as_image
from twostage_jax.store.atomic import append_text, write_bytes
from twostage_jax.store.epochs import EpochRecord
from twostage_jax.store.layout import PROGRESS, REPORT
from twostage_jax.store.records import read_manifest

IMAGES = 12
BETWEEN_PAGES = 10.0  # seconds; drawing a page takes less than one
Line: TypeAlias = Mapping[str, Any]


class Preview:
    """Predictions of the first trial for twelve validation images, after each epoch of stage 2.

    Args:
        plan: the run.
        folder: folder of the run.
        features: features `[E, V, D]` of the validation images; None if the head takes images.
        before: records of stage 1.
        board: TensorBoard's files, which get the images with their predictions.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        features: np.ndarray | None,
        before: Sequence[EpochRecord],
        board: TensorBoard | None,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._before = before
        self._board = board
        self._rows = preview_rows(plan)
        images = plan.dataset.validation["image"][self._rows]
        if features is not None:
            images = features[plan.trials.heads[0].encoder, self._rows]
        self._predict = _make_predict(plan, images, features is not None)
        self._lines: list[Line] = []
        self._page = Alarm(BETWEEN_PAGES)

    def __call__(self, params: Params, records: Sequence[EpochRecord]) -> None:
        """Write the predictions after an epoch.

        Args:
            params: groups of stage 2 of all trials.
            records: records of stage 2 so far, at least one.
        """
        epoch = records[-1].epoch
        label = self._plan.dataset.validation["label"][self._rows]
        probability = self._predict(chosen_groups(params, self._plan.trials, 1))
        line = {
            **json.loads(records[-1].line),
            "index": self._plan.dataset.rows["validation"][self._rows].tolist(),
            "label": label.tolist(),
            "predicted": probability.argmax(-1).tolist(),
            "probability": [round(float(value), 6) for value in probability.max(-1)],
        }
        self._write(line, epoch)
        if self._board is not None:
            arrays = progress_arrays(self._plan, self._lines)
            self._board.add_predictions(arrays, self._plan.dataset.classes)
        if self._page.due:
            arrays = progress_arrays(self._plan, self._lines)
            manifest = read_manifest(self._folder)
            page = draw_report(self._folder, manifest, None, [*self._before, *records], arrays)
            write_bytes(self._folder / REPORT, page)
            self._page.restart()

    def _write(self, line: Line, epoch: int) -> None:
        """Add a line to `progress.jsonl`."""
        path = self._folder / PROGRESS
        if self._lines:
            self._lines.append(line)
            append_text(path, _text(line))
            return
        # The first epoch of this process: a killed one may have written it already.
        earlier = [old for old in read_progress(self._folder) if old["epoch"] < epoch]
        self._lines = [*earlier, line]
        write_bytes(path, "".join(map(_text, self._lines)).encode())


def make_preview(
    plan: Plan,
    folder: Path,
    features: np.ndarray | None,
    before: Sequence[EpochRecord],
    board: TensorBoard | None,
) -> Preview | None:
    """Return the listener of the epochs of stage 2; None without validation images."""
    if not len(plan.dataset.validation["label"]):
        return None
    return Preview(plan, folder, features, before, board)


def _make_predict(plan: Plan, inputs: np.ndarray, encoded: bool) -> Callable[[Params], np.ndarray]:
    """Return a function of the groups of one trial: probabilities `[n, K]` of its inputs."""
    networks = plan.networks
    numbers = first_numbers(plan.head_numbers)

    def probability(params: Params, inputs: jax.Array) -> jax.Array:
        if encoded:
            return jax.nn.softmax(networks.head(numbers).logits(params["head"], inputs))
        return jax.nn.softmax(networks.logits((numbers, params), as_image(inputs)))

    compiled = jax.jit(probability)

    def predict(params: Params) -> np.ndarray:
        return np.asarray(compiled(params, inputs))

    return predict


def preview_rows(plan: Plan) -> np.ndarray:
    """Return the rows of twelve validation images, of every class in turn."""
    return sample_rows(plan.dataset.validation["label"], IMAGES)


def read_progress(folder: Path) -> list[Line]:
    """Read `progress.jsonl`; lines after a corrupted one are left out, as those of a killed run."""
    path = folder / PROGRESS
    lines: list[Line] = []
    if not path.is_file():
        return lines
    # The predictions are no part of the result, so a corrupted file stops nothing.
    with contextlib.suppress(ValueError, RecursionError):
        for text in read_text(path, regular=True).splitlines():
            line = as_json(text)
            if not _is_line(line, len(lines) + 1):
                break
            lines.append(line)
    return lines


def _is_line(line: object, epoch: int) -> bool:
    if not isinstance(line, dict) or line.get("epoch") != epoch:
        return False
    kinds = {"label": int, "predicted": int, "probability": float}
    lists = [line.get(name) for name in kinds]
    if not all(isinstance(values, list) and len(values) == len(lists[0] or ()) for values in lists):
        return False
    return all(isinstance(x, kind) for name, kind in kinds.items() for x in line[name])


def progress_arrays(plan: Plan, lines: Sequence[Line]) -> Arrays:
    """Return the arrays of the page about the epochs of stage 2: `[n]` images, `[E, n]` figures."""
    rows = preview_rows(plan)
    classes = len(plan.dataset.classes)
    # The file may be corrupted.
    fitting = [len(x["predicted"]) == len(rows) for x in lines]
    fitting += [0 <= k < classes for line in lines for k in line["predicted"]]
    if not lines or not all(fitting):
        return {}
    split = plan.dataset.validation
    return {
        "progress_image": thumbnails(split["image"][rows]),
        "progress_label": split["label"][rows],
        "progress_epoch": np.array([line["epoch"] for line in lines]),
        "progress_predicted": np.array([line["predicted"] for line in lines]),
        "progress_probability": np.array([line["probability"] for line in lines]),
    }


def _text(line: Line) -> str:
    return json.dumps(line) + "\n"
