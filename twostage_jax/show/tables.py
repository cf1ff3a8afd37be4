"""Tables of scores, members, sweeps, classes and data.

Records are read by attribute, with the names of `result.json`; no other room is imported.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from twostage_jax.show.epochs import Record
from twostage_jax.show.terminal import Terminal

SCORES = ("accuracy", "nll", "ece", "brier")
WORDS = {
    "accuracy": "accuracy",
    "nll": "negative log-likelihood",
    "ece": "expected calibration error",
    "brier": "Brier score",
}
ROWS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy (mean recall of the classes)",
    "macro_f1": "macro F1 (mean F1 of the classes)",
    "nll": "negative log-likelihood",
    "ece": "expected calibration error",
    "brier": "Brier score",
    "reconstruction": "squared error of the decoder",
}


def show_scores(title: str, splits: Mapping[str, Record], terminal: Terminal) -> None:
    """Print a column of scores for each split, from `scores.Scores`."""
    rows = []
    for name, words in ROWS.items():
        values = [getattr(scores, name) for scores in splits.values()]
        # Only a run with a decoder reconstructs, and only a split with labels has accuracies.
        if any(value is not None for value in values):
            rows.append((words, *map(decimal, values)))
    rows.append(("images", *(scores.count for scores in splits.values())))
    terminal.table(title, ("", *splits), rows)


def show_members(summary: Record, count: int, split: str, terminal: Terminal) -> None:
    """Print the spread of the members and the gain of the ensemble, from `scores.Summary`."""
    # The table of a single member would only repeat its scores.
    if count < 2:
        return
    fields = ("mean", "std", "low", "high", "ensemble", "gain")
    spreads = {name: getattr(summary, name) for name in SCORES}
    rows = [
        (WORDS[name], *(decimal(getattr(x, field)) for field in fields))
        for name, x in spreads.items()
    ]
    columns = ("score", "mean", "std", "95 % from", "to", "ensemble", "gain")
    terminal.table(f"{count} members on {split}", columns, rows)
    if summary.fewer_errors is not None:
        terminal.line(f"ensemble  {summary.fewer_errors:.1%} fewer errors than the mean member")


def show_sweep(sweep: Record, terminal: Terminal) -> None:
    """Print the validation accuracy of each point and mark the chosen one; `scores.SweepRecord`."""
    rows = []
    for index, point in enumerate(sweep.points):
        values = (f"{value:g}" for value in point.values.values())
        mark = "chosen" if index == sweep.chosen else ""
        rows.append((*values, point.members, *_point_scores(point), mark))
    # A column as narrow as its longest word, so that three fields fit into 80 columns.
    fields = (name.replace(".", ".\n").replace("-", "-\n") for name in sweep.fields)
    columns = (*fields, "members", "accuracy", "std", "")
    terminal.table("sweep on validation", columns, rows)


def _point_scores(point: Record) -> tuple[str, str]:
    """Mean accuracy of a sweep's point and its standard deviation."""
    # All members have diverged, or there are no validation examples.
    if not point.validation or not point.members:
        return "-", "-"
    accuracy = point.validation["accuracy"]
    std = float(np.std(accuracy, ddof=1)) if point.members > 1 else None
    return decimal(float(np.mean(accuracy))), decimal(std)


def show_detection(table: Mapping[str, Record], source: str, terminal: Terminal) -> None:
    """Print how well each outlier score detects images of `source`, from `scores.Detection`."""
    rows = [
        (name.replace("_", " "), decimal(detection.auroc), decimal(detection.fpr95))
        for name, detection in table.items()
    ]
    columns = ("score", "AUROC", "FPR at 95 %")
    terminal.table(f"out-of-distribution detection: {source}", columns, rows)


def show_classes(title: str, scores: Record, classes: Sequence[str], terminal: Terminal) -> None:
    """Print recall, F1 and the most frequent error of each class, from `scores.Scores`.

    The recall of a class is the accuracy on its examples.
    """
    rows = []
    for index, name in enumerate(classes):
        errors = np.array(scores.confusion[index])
        count = int(errors.sum())
        errors[index] = 0  # the diagonal counts correct predictions
        predicted = int(errors.argmax())
        confused = f"{classes[predicted]} ({errors[predicted]})" if errors.any() else "-"
        row = scores.per_class[index] if scores.per_class else None  # None in older results
        bounds = ("-", "-") if row is None or row.interval is None else map(decimal, row.interval)
        f1 = decimal(row.f1 if row else None)
        recall = decimal(scores.per_class_accuracy[index])
        rows.append((name, recall, *bounds, f1, count, confused))
    columns = ("class", "recall", "95 % from", "to", "F1", "count", "most frequent error")
    terminal.table(title, columns, rows)


def show_dataset(
    name: str,
    image_shape: Sequence[int],
    classes: Sequence[str],
    counts: Mapping[str, Sequence[int]],
    pixels: Mapping[str, tuple[int, int, float]],
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
        fingerprint: of the data set.
        terminal: where to print.
        unlabelled: number of images without a label.
        scale: range of the values in the source, in words.
        notes: sentences on how the source was read.
    """
    classes_text = counted(len(classes), "class", "es") if classes else "no labels"
    terminal.line(f"{name}: {size(image_shape)} uint8 images, {classes_text}")
    rows = [(label, *numbers) for label, *numbers in zip(classes, *counts.values(), strict=True)]
    rows.append(("all", *map(sum, counts.values())))
    if classes:
        terminal.table("examples", ("class", *counts), rows)
    if unlabelled:
        terminal.line(f"unlabelled: {unlabelled:,} images")
    terminal.line(f"values in the source: {scale}")
    for note in notes:
        terminal.line(f"note: {note}", hang=2)
    for split, (low, high, mean) in pixels.items():
        terminal.line(f"{split}: pixel values {low} to {high}, mean {mean:.2f}")
    terminal.line(f"fingerprint {fingerprint}")


def decimal(value: float | None) -> str:
    """Text of a score: four decimals, or a dash for None."""
    return "-" if value is None else f"{value:.4f}"


def counted(number: int, noun: str, ending: str = "s") -> str:
    """Text such as `1 class` and `1,295 images`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{ending}"


def size(shape: Sequence[int]) -> str:
    """Text such as `28x28x1`."""
    return "x".join(map(str, shape))
