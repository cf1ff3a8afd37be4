"""`twostage evaluate`: a finished run, on a split of its own data or of another source."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostage_jax.config.fields import check_coverage
from twostage_jax.data.dataset import Dataset
from twostage_jax.data.examples import ALL, Examples
from twostage_jax.data.spec import READING, Reading
from twostage_jax.data.split import Split
from twostage_jax.errors import UserError
from twostage_jax.runs.handover import chosen_probability
from twostage_jax.runs.open import Run
from twostage_jax.runs.overlap import Overlap, find_overlap, with_scores
from twostage_jax.runs.rejection import RejectedShares, measure_shares
from twostage_jax.runs.result import ResultRecord
from twostage_jax.runs.resume import notice_switches
from twostage_jax.runs.sources import Sources, load_sources
from twostage_jax.scores.conformal import check_enough
from twostage_jax.scores.detection import Detection, Outputs, detect_outliers, mean_probability
from twostage_jax.scores.figures import (
    COVERAGE,
    Assessment,
    arrays_file,
    assess,
    prediction_file,
    probabilities,
)
from twostage_jax.scores.groups import GroupSummary, summarise_groups
from twostage_jax.show.duplicates import show_overlap
from twostage_jax.show.groups import show_groups
from twostage_jax.show.rejection import show_rejection
from twostage_jax.show.result import show_evaluation, show_new_images, times_read
from twostage_jax.show.tables import counted
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
        groups: errors by group; None if the images have no groups.
        rejection: shares that the run's threshold rejects; None if it has none.
        overlap: images of another source that the run has seen; None for the run's own data, or if
            they cannot be read.
    """

    assessment: Assessment
    detection: dict[str, Detection] | None
    groups: GroupSummary | None = None
    rejection: RejectedShares | None = None
    overlap: Overlap | None = None


class _Part(NamedTuple):
    """Labelled examples that are scored.

    Attributes:
        source: name of their source.
        name: name of their split; `test` for a source without splits.
        split: images and labels.
        rows: row of each example in the source, int32 `[N]`.
        is_own: True if they are a split of the run's own data.
        groups: names of the groups, indexed by `group` of the split; empty without groups.
        outsiders: images of the run's other class in this split, or None.
    """

    source: str
    name: str
    split: Split
    rows: np.ndarray
    is_own: bool
    groups: tuple[str, ...] = ()
    outsiders: np.ndarray | None = None


def evaluate(
    run: Run,
    terminal: Terminal,
    *,
    split: str | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    ood: str | None = None,
    coverage: float | None = None,
    save_predictions: bool = False,
    reading: Reading = READING,
) -> Evaluation:
    """Evaluate a run and print the figures, as `twostage evaluate` does.

    Args:
        run: from `open_run`.
        terminal: where to print.
        split: `train`, `validation` or `test`; by default `test` of the run's own data.
        data: another source instead of the run's own data. All its examples are scored against the
            classes of the run; if it has several splits, `split` or else its test split.
        data_dir: folder in which TensorFlow Datasets keeps its data.
        ood: out-of-distribution source.
        coverage: target coverage of the prediction sets, in (0, 1); by default 0.95, if validation
            is large enough.
        save_predictions: True to write `predictions-SPLIT.npz`, and `predictions-ood.npz` with the
            scores of both sources.
        reading: settings of reading another source.

    Raises:
        UserError: an empty split, data of another shape or with other classes, or a coverage that
            is not possible.
    """
    if coverage is not None:
        check_coverage("--coverage", coverage)
    run.check_head()  # before data are read
    needed = ood is not None or coverage is not None
    with terminal.reading("reading data") as progress:
        sources = load_sources(run, terminal, split, data, ood, data_dir, needed, reading, progress)
    fitted_here = sources.examples is None and split == "validation"
    if fitted_here and coverage is not None:
        raise UserError(
            "prediction sets are fitted on validation: leave out --coverage or --split validation"
        )
    notice_switches(run.folder, run.manifest, terminal)
    run, part = _part(run, sources, split or "test", terminal)
    images = part.split["image"]
    label = part.split["label"]
    detection = None
    scores: dict[str, np.ndarray] = {}
    with terminal.status("evaluating"):
        logits = run.predictor.logits(images)
        probability = probabilities(logits)
        validation = None if fitted_here else _validation(run, sources.run_data, coverage)
        assessment = assess(probability, label, validation, coverage or COVERAGE)
        if sources.outliers is not None:
            assert sources.run_data is not None, "load_sources needs them for --ood"
            train = sources.run_data.train
            inside = Outputs(probability, logits, run.predictor.features(images))
            features = run.predictor.features(train["image"])
            outside = _outputs(run, sources.outliers)
            detection, scores = detect_outliers(inside, outside, features, train["label"])
        rejection = measure_shares(run, logits, part.split, sources.outliers, part.outsiders)
    groups = _group_summary(part, probability)
    if save_predictions:
        _save_predictions(run, part, probability, scores, terminal)
    overlap = None
    if sources.examples is not None and sources.run_data is not None:
        overlap = find_overlap(sources.run_data, images)
        overlap = with_scores(overlap, mean_probability(probability), label)
    evaluation = Evaluation(assessment, detection, groups, rejection, overlap)
    _show(run, part, sources.examples, ood, evaluation, terminal)
    return evaluation


def _group_summary(part: _Part, probability: np.ndarray) -> GroupSummary | None:
    """Return the errors by group; None if the images have no groups."""
    if not part.groups:
        return None
    correct = mean_probability(probability).argmax(-1) == part.split["label"]
    return summarise_groups(correct, part.split["group"], part.groups)


def _save_predictions(
    run: Run,
    part: _Part,
    probability: np.ndarray,
    scores: dict[str, np.ndarray],
    terminal: Terminal,
) -> None:
    """Write the predictions, and the outlier scores if there are any, into the run's folder."""
    name = part.name if part.is_own else f"{as_file_name(part.source)}-{part.name}"
    visible = chosen_probability(probability, run.config.members)
    content = prediction_file(visible, part.split["label"], part.rows)
    files = {f"predictions-{name}.npz": content}
    if scores:
        files["predictions-ood.npz"] = arrays_file(scores)
    with locked(run.folder, terminal.notice):
        write_files(run.folder, files)


def _part(run: Run, sources: Sources, split: str, terminal: Terminal) -> tuple[Run, _Part]:
    """Return the examples to score; a read of the run's test split is counted first.

    Raises:
        UserError: an empty split.
    """
    examples = sources.examples
    if examples is not None:
        # The same images are the same test split, whatever the source is called.
        if examples.test_fingerprint == run.manifest.data.parts.get("test"):
            run = count_test_read(run, terminal)
        content = {"image": examples.image, "label": examples.label}
        if examples.group is not None:
            content["group"] = examples.group
        # A source without splits is used as one test split.
        name = "test" if examples.part == ALL else examples.part
        return run, _Part(
            examples.name,
            name,
            content,
            examples.rows,
            False,
            examples.groups,
            sources.outsiders,
        )
    dataset = sources.run_data
    assert dataset is not None, "without other examples there are the run's own data"
    training, lockbox = dataset.lock()
    count = lockbox.count if split == "test" else len(training.splits[split]["label"])
    if not count:
        raise UserError(f"the {split} split of {dataset.name} is empty: choose another --split")
    if split == "test":
        # Counted before it is read, so a crash in between cannot hide a read.
        run = count_test_read(run, terminal)
    content = lockbox.unlock() if split == "test" else training.splits[split]
    rows = dataset.rows[split]
    outsiders = dataset.outsiders.get(split)
    return run, _Part(dataset.name, split, content, rows, True, dataset.groups, outsiders)


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
    return dataclasses.replace(run, manifest=manifest, finished=record)


def _validation(
    run: Run, run_data: Dataset | None, coverage: float | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return probabilities and labels of the run's own validation split; None if it is empty."""
    if run_data is None:
        return None
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
    part: _Part,
    examples: Examples | None,
    ood: str | None,
    evaluation: Evaluation,
    terminal: Terminal,
) -> None:
    for note in examples.notes if examples else ():
        terminal.line(f"{part.source}: {note}", hang=2)
    scores = evaluation.assessment.scores
    if examples is not None and examples.part == ALL:
        terminal.line(f"{part.source}: all {counted(scores.count, 'example')} are scored")
    detection = None
    if ood and evaluation.detection is not None:
        detection = (ood, evaluation.detection)
    title = f"{run.folder} on {part.source}"
    classes = run.manifest.classes
    if evaluation.groups is not None:
        show_groups(evaluation.groups, part.name, terminal)
    if evaluation.rejection is not None:
        names = (part.name, ood, run.config.other_class)
        show_rejection(run.record.rejection, evaluation.rejection, names, terminal)
    overlap = evaluation.overlap
    if overlap is not None:
        show_overlap(overlap.counts, scores.count, terminal)
    show_evaluation(title, part.name, evaluation.assessment, classes, detection, terminal)
    if overlap is not None and overlap.without is not None:
        show_new_images(overlap.without, terminal)
    if part.is_own and part.name == "test":
        terminal.line(times_read(run.record.test_reads), hang=2)
