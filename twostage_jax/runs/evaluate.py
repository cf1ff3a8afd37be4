"""`twostage evaluate`: a finished run, on a split of its own data or of another source."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostage_jax.config.fields import check_coverage
from twostage_jax.data.dataset import Dataset
from twostage_jax.data.spec import absolute, takes_data_dir
from twostage_jax.data.split import Split
from twostage_jax.errors import UserError
from twostage_jax.runs.handover import chosen_probability
from twostage_jax.runs.open import Run, is_own_data, load_dataset, load_outliers
from twostage_jax.runs.result import ResultRecord
from twostage_jax.scores.conformal import check_enough
from twostage_jax.scores.detection import Detection, Outputs, detect_outliers
from twostage_jax.scores.figures import (
    COVERAGE,
    Assessment,
    arrays_file,
    assess,
    prediction_file,
    probabilities,
)
from twostage_jax.show.result import show_evaluation, times_read
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.checksums import write_files
from twostage_jax.store.decoding import encode
from twostage_jax.store.layout import MANIFEST, RESULT, as_file_name
from twostage_jax.store.lock import locked
from twostage_jax.store.records import json_bytes, manifest_bytes, read_manifest, read_result


class Evaluation(NamedTuple):
    """Figures of `twostage evaluate`.

    Attributes:
        assessment: scores, members and uncertainty on the split.
        detection: out-of-distribution detection by each score; None without another source.
    """

    assessment: Assessment
    detection: dict[str, Detection] | None


class _Sources(NamedTuple):
    """The data to evaluate, the run's own data, and images of another source or None."""

    dataset: Dataset
    run_data: Dataset
    outliers: np.ndarray | None


def evaluate(
    run: Run,
    terminal: Terminal,
    *,
    split: str = "test",
    data: str | None = None,
    data_dir: Path | None = None,
    ood: str | None = None,
    coverage: float | None = None,
    save_predictions: bool = False,
) -> Evaluation:
    """Evaluate a run and print the figures, as `twostage evaluate` does.

    Args:
        run: from `open_run`.
        terminal: where to print.
        split: `train`, `validation` or `test`.
        data: another source instead of the run's own data.
        data_dir: folder in which TensorFlow Datasets keeps its data.
        ood: out-of-distribution source.
        coverage: target coverage of the prediction sets, in (0, 1); by default 0.95, if validation
            is large enough.
        save_predictions: True to write `predictions-SPLIT.npz`, and `predictions-ood.npz` with the
            scores of both sources.

    Raises:
        UserError: an empty split, data of another shape, or a coverage that is not possible.
    """
    if coverage is not None:
        check_coverage("--coverage", coverage)
    with terminal.status("reading data"):
        sources = _load(run, data, ood, data_dir)
    dataset, run_data, outliers = sources
    fitted_here = dataset is run_data and split == "validation"
    if fitted_here and coverage is not None:
        raise UserError(
            "prediction sets are fitted on validation: leave out --coverage or --split validation"
        )
    run, part = _split(run, dataset, split, terminal)
    detection = None
    scores: dict[str, np.ndarray] = {}
    with terminal.status("evaluating"):
        logits = run.predictor.logits(part["image"])
        probability = probabilities(logits)
        validation = None if fitted_here else _validation(run, run_data, coverage)
        assessment = assess(probability, part["label"], validation, coverage or COVERAGE)
        if outliers is not None:
            inside = Outputs(probability, logits, run.predictor.features(part["image"]))
            features = run.predictor.features(run_data.train["image"])
            outside = _outputs(run, outliers)
            detection, scores = detect_outliers(inside, outside, features, run_data.train["label"])
    if save_predictions:
        name = split if is_own_data(run, dataset) else f"{as_file_name(dataset.name)}-{split}"
        visible = chosen_probability(probability, run.config.members)
        content = prediction_file(visible, part["label"], dataset.rows[split])
        files = {f"predictions-{name}.npz": content}
        if scores:
            files["predictions-ood.npz"] = arrays_file(scores)
        with locked(run.folder, terminal.notice):
            write_files(run.folder, files)
    evaluation = Evaluation(assessment, detection)
    _show(run, dataset, split, ood, evaluation, terminal)
    return evaluation


def _load(run: Run, data: str | None, ood: str | None, data_dir: Path | None) -> _Sources:
    """Load everything that is evaluated."""
    own_spec = run.config.data
    if ood is not None and absolute(ood) == own_spec:
        raise UserError(f"{ood} is the run's own data: give another source to --ood")
    specs = [spec for spec in (data or own_spec, ood) if spec is not None]
    if data_dir and not any(map(takes_data_dir, specs)):
        raise UserError(
            "--data-dir goes with mnist and tfds:NAME, but neither is read: leave it out"
        )
    # With --ood the folder belongs to the source that is in one.
    own_dir = None if ood and not takes_data_dir(own_spec) else data_dir
    dataset = load_dataset(run, data, own_dir)
    run_data = dataset if is_own_data(run, dataset) else load_dataset(run)
    outliers = None
    if ood is not None:
        folder = data_dir or run.config.data_dir
        outliers = load_outliers(run, ood, folder if takes_data_dir(ood) else None)
    return _Sources(dataset, run_data, outliers)


def _split(run: Run, dataset: Dataset, split: str, terminal: Terminal) -> tuple[Run, Split]:
    """Return a split; before the test split of the run is read, that is counted.

    Raises:
        UserError: an empty split.
    """
    training, lockbox = dataset.lock()
    count = lockbox.count if split == "test" else len(training.splits[split]["label"])
    if not count:
        raise UserError(f"the {split} split of {dataset.name} is empty: choose another --split")
    if split != "test":
        return run, training.splits[split]
    # The same images are the same test, under any name.
    if dataset.parts["test"] == run.manifest.data.parts.get("test"):
        run = count_test_read(run, terminal)
    # Counted before it is read: a crash in between counts too much rather than too little.
    return run, lockbox.unlock()


def count_test_read(run: Run, terminal: Terminal) -> Run:
    """Record in manifest and result that the test split is read again; returns the run with it.

    Raises:
        UserError: if that cannot be written.
    """
    with locked(run.folder, terminal.notice):
        manifest = read_manifest(run.folder)
        reads = manifest.test_reads + 1
        manifest = dataclasses.replace(manifest, test_reads=reads)
        record = read_result(run.folder, ResultRecord)
        record = dataclasses.replace(record, test_reads=reads)
        files = {MANIFEST: manifest_bytes(manifest), RESULT: json_bytes(encode(record))}
        write_files(run.folder, files)
    return run._replace(manifest=manifest, record=record)


def _validation(
    run: Run, run_data: Dataset, coverage: float | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return probabilities and labels of the run's own validation split; None if it is empty."""
    label = run_data.validation["label"]
    if coverage is not None:
        check_enough(len(label), coverage)
    if not len(label):
        return None
    return probabilities(run.predictor.logits(run_data.validation["image"])), label


def _outputs(run: Run, images: np.ndarray) -> Outputs:
    logits = run.predictor.logits(images)
    return Outputs(probabilities(logits), logits, run.predictor.features(images))


def _show(
    run: Run,
    dataset: Dataset,
    split: str,
    ood: str | None,
    evaluation: Evaluation,
    terminal: Terminal,
) -> None:
    detection = None
    if ood and evaluation.detection is not None:
        detection = (ood, evaluation.detection)
    title = f"{run.folder} on {dataset.name}"
    classes = run.manifest.classes
    show_evaluation(title, split, evaluation.assessment, classes, detection, terminal)
    if split == "test":
        terminal.line(times_read(run.record.test_reads), hang=2)
