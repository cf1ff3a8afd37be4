"""Tables and lines about data, plans and results.

Records are read by attribute, with the names of `result.json`; no other room is imported.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from twostage_jax.show.terminal import Terminal

# A dataclass of `scores` or `runs`; each docstring names the one that it reads.
Record: TypeAlias = Any

SCORES = ("accuracy", "nll", "ece", "brier")


class PlanRow(NamedTuple):
    """Placement of the members of a stage: chunks train one after another, each on `devices`."""

    stage: str
    members: int
    chunks: int
    devices: int
    bytes_per_member: int
    bytes_shared: int


def show_data(
    name: str,
    sizes: Mapping[str, int],
    image_shape: Sequence[int],
    classes: int,
    terminal: Terminal,
) -> None:
    """Print the kind of the data and the size of each split."""
    counts = ", ".join(f"{size:,} {split}" for split, size in sizes.items())
    terminal.line(f"{name}: {_shape(image_shape)} images, {_count(classes, 'class', 'es')}")
    # A line of its own: with unlabelled images the sizes alone fill most of 80 columns.
    terminal.line(f"examples: {counts}")


def show_plan(rows: Iterable[PlanRow], encoding: str | None, terminal: Terminal) -> None:
    """Print where the members train and when the encoder is applied (None: not shown)."""
    for row in rows:
        chunks = _count(row.chunks, "chunk")
        devices = _count(row.devices, "device")
        terminal.line(
            f"{row.stage}: {_count(row.members, 'member')} in {chunks} on {devices}; "
            f"{row.bytes_per_member / 1e6:.2f} MB per member, "
            f"{row.bytes_shared / 1e6:.1f} MB shared"
        )
    if encoding:
        terminal.line(f"encoder: {encoding}")


def show_groups(
    stage: str, groups: Iterable[tuple[str, str, int, int]], terminal: Terminal
) -> None:
    """Print the parameter groups of a stage: name, state, parameters, bytes."""
    terminal.line()
    columns = ("group", "state", "parameters", "bytes")
    terminal.table(f"{stage}: parameter groups", columns, groups)


def show_result(result: Record, folder: Path, terminal: Terminal) -> None:
    """Print the result of the run in `folder`, from `runs.ResultRecord`."""
    terminal.line()
    show_scores("results", {"validation": result.validation, "test": result.test}, terminal)
    show_members(result.summary, len(result.ensemble.rows), "test", terminal)
    for name in result.ensemble.diverged:
        terminal.line(f"diverged  {name}: not in the ensemble")
    if result.sweep is not None:
        show_sweep(result.sweep, terminal)
    show_uncertainty(result.uncertainty, "test", terminal)
    pretrain = result.pretrain
    loss = "" if pretrain.loss is None else f", loss {pretrain.loss:.4f}"
    terminal.line(f"stage 1   {pretrain.objective}, {_count(pretrain.epochs, 'epoch')}{loss}")
    terminal.line(f"encoder   frozen in stage 2, unchanged: {result.frozen.after}")
    terminal.line(times_read(result.test_reads))
    seconds = result.seconds
    phases = [f"{name} {s:.1f}" for name, s in seconds.items() if s and name != "total"]
    terminal.line(f"seconds   {seconds['total']:.1f} in total ({', '.join(phases)})")
    terminal.line(f"run       {folder}")


def times_read(count: int) -> str:
    """Sentence about how often the test split of a run was read."""
    if count == 1:
        return "test split of the run: read once"
    return f"test split of the run: read {count} times, so it is no longer a fresh test"


def show_scores(title: str, splits: Mapping[str, Record], terminal: Terminal) -> None:
    """Print a row of scores for each split, from `scores.Scores`."""
    names: list[str] = list(SCORES)
    # Only a run with a decoder has this score.
    if any(scores.reconstruction is not None for scores in splits.values()):
        names.append("reconstruction")
    rows = [
        (split, *(_decimal(getattr(scores, name)) for name in names), scores.count)
        for split, scores in splits.items()
    ]
    terminal.table(title, ("split", *names, "count"), rows)


def show_members(summary: Record, count: int, split: str, terminal: Terminal) -> None:
    """Print the spread of the members and the gain of the ensemble, from `scores.Summary`."""
    # The table of a single member would only repeat its scores.
    if count < 2:
        return
    fields = ("mean", "std", "low", "high", "ensemble", "gain")
    spreads = {name: getattr(summary, name) for name in SCORES}
    rows = [
        (name, *(_decimal(getattr(x, field)) for field in fields)) for name, x in spreads.items()
    ]
    columns = ("score", "mean", "std", "95 % from", "to", "ensemble", "gain")
    terminal.table(f"{count} members on {split}", columns, rows)
    if summary.fewer_errors is not None:
        terminal.line(f"ensemble  {summary.fewer_errors:.1%} fewer errors than the mean member")


def show_sweep(sweep: Record, terminal: Terminal) -> None:
    """Print the validation scores of each point and mark the chosen one; `scores.SweepRecord`."""
    rows = []
    for index, point in enumerate(sweep.points):
        values = (f"{value:g}" for value in point.values.values())
        mark = "chosen" if index == sweep.chosen else ""
        rows.append((*values, point.members, *_point_scores(point), mark))
    # A column as narrow as its longest word, so that three fields fit into 80 columns.
    fields = (name.replace(".", ".\n").replace("-", "-\n") for name in sweep.fields)
    columns = (*fields, "members", "accuracy", "std", "nll", "")
    terminal.table("sweep on validation", columns, rows)


def _point_scores(point: Record) -> tuple[str, str, str]:
    """Mean accuracy, its standard deviation and mean NLL of a sweep's point."""
    # All members have diverged, or there are no validation examples.
    if not point.validation or not point.members:
        return "-", "-", "-"
    accuracy = point.validation["accuracy"]
    std = float(np.std(accuracy, ddof=1)) if point.members > 1 else None
    nll = float(np.mean(point.validation["nll"]))
    return _decimal(float(np.mean(accuracy))), _decimal(std), _decimal(nll)


def show_uncertainty(figures: Record, split: str, terminal: Terminal) -> None:
    """Print calibration, entropy and prediction sets, from `scores.Uncertainty`."""
    rows = []
    if figures.temperature is not None:
        rows.append(("temperature, fitted on validation", f"{figures.temperature:.3f}"))
        rows.append(("nll at this temperature", _decimal(figures.calibrated.nll)))
        rows.append(("ece at this temperature", _decimal(figures.calibrated.ece)))
    rows.append(("predictive entropy (nats)", _decimal(figures.predictive_entropy)))
    if figures.mutual_information is not None:
        rows.append(("mutual information (nats)", _decimal(figures.mutual_information)))
    # A good classifier has areas below 0.001, so four decimals are too few.
    rows.append(("area under the risk-coverage curve", f"{figures.aurc:.5f}"))
    sets = figures.conformal
    if sets is not None:
        low, high = sets.interval
        # `g`, because 0.999 is 99.9 % and not 100 %.
        asked = f"coverage of {100 * sets.asked:g} % prediction sets"
        rows.append((asked, _decimal(sets.measured)))
        rows.append(("95 % interval for that coverage", f"{low:.4f} to {high:.4f}"))
        rows.append(("mean number of classes in a set", f"{sets.mean_size:.3f}"))
    terminal.table(f"uncertainty on {split}", ("figure", ""), rows)


def show_detection(table: Mapping[str, Record], source: str, terminal: Terminal) -> None:
    """Print how well each outlier score detects images of `source`, from `scores.Detection`."""
    rows = [
        (name.replace("_", " "), _decimal(detection.auroc), _decimal(detection.fpr95))
        for name, detection in table.items()
    ]
    columns = ("score", "AUROC", "FPR at 95 %")
    terminal.table(f"out-of-distribution detection: {source}", columns, rows)


def show_classes(scores: Record, classes: Sequence[str], terminal: Terminal) -> None:
    """Print the accuracy of each class and its most frequent error, from `scores.Scores`."""
    rows = []
    for index, name in enumerate(classes):
        errors = np.array(scores.confusion[index])
        count = int(errors.sum())
        errors[index] = 0  # the diagonal counts correct predictions
        predicted = int(errors.argmax())
        confused = f"{classes[predicted]} ({errors[predicted]})" if errors.any() else "-"
        rows.append((name, _decimal(scores.per_class_accuracy[index]), count, confused))
    columns = ("class", "accuracy", "count", "most frequent error")
    terminal.table("accuracy by class", columns, rows)


def show_dataset(
    name: str,
    image_shape: Sequence[int],
    classes: Sequence[str],
    counts: Mapping[str, Sequence[int]],
    pixels: Mapping[str, tuple[int, int, float]],
    duplicates: Mapping[str, int],
    fingerprint: str,
    terminal: Terminal,
    unlabelled: int = 0,
    scale: str = "0 to 255",
    notes: Sequence[str] = (),
) -> None:
    """Print the content of a source, for `twostage data`.

    Args:
        name: of the source.
        image_shape: `(H, W, C)`.
        classes: names of the K classes.
        counts: number of examples of each class, `[K]`, for each split.
        pixels: smallest, largest and mean value of each split that has images.
        duplicates: number of equal images for each pair of splits.
        fingerprint: of the data set.
        terminal: where to print.
        unlabelled: number of images without a label.
        scale: range of the values in the source, in words.
        notes: sentences on how the source was read.
    """
    classes_text = _count(len(classes), "class", "es")
    terminal.line(f"{name}: {_shape(image_shape)} uint8 images, {classes_text}")
    rows = [(label, *numbers) for label, *numbers in zip(classes, *counts.values(), strict=True)]
    rows.append(("all", *map(sum, counts.values())))
    terminal.table("examples", ("class", *counts), rows)
    if unlabelled:
        terminal.line(f"unlabelled: {unlabelled:,} images")
    terminal.line(f"values in the source: {scale}")
    for note in notes:
        terminal.line(f"note: {note}")
    for split, (low, high, mean) in pixels.items():
        terminal.line(f"{split}: pixel values {low} to {high}, mean {mean:.2f}")
    terminal.line("identical images in two splits:")
    for pair, count in duplicates.items():
        terminal.line(f"  {pair}: {count}")
    terminal.line(f"fingerprint {fingerprint}")


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _count(number: int, noun: str, ending: str = "s") -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{ending}"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
