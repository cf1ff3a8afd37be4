"""The result of a run or of an evaluation: accuracy, data and settings.

Records are read by attribute, with the names of `result.json`; no other room is imported.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from twostage_jax.errors import shortened
from twostage_jax.show.duplicates import affected_text, show_affected
from twostage_jax.show.epochs import Record, describe_encoder
from twostage_jax.show.rejection import rejection_lines
from twostage_jax.show.tables import (
    counted,
    decimal,
    show_classes,
    show_detection,
    show_members,
    show_scores,
    show_sweep,
)
from twostage_jax.show.terminal import Terminal
from twostage_jax.show.uncertainty import show_uncertainty

SCARCE = 10  # a class with fewer examples has no reliable accuracy
NAMED = 5  # classes in one line
NAME_LIMIT = 30  # characters of a class name in a line
UNEVEN = 3  # largest accepted ratio of the largest class to the smallest
NO_PHASES = ("total", "earlier")  # keys of `seconds`
LABEL = 14  # columns of the word at the beginning of a line


def show_result(result: Record, folder: Path, classes: Sequence[str], terminal: Terminal) -> None:
    """Print the result of the run in `folder`, from `runs.ResultRecord`; accuracy comes first.

    All of it fits into half a screen, so that the accuracy is visible at the end.
    """
    if result.sweep is not None:
        terminal.line()
        show_sweep(result.sweep, terminal)
    if terminal.verbose:
        _show_details(result, classes, terminal)
    terminal.line()
    show_affected(result.duplicates, result.test.count, terminal)
    show_accuracy(result.test, "test", result.member_test["accuracy"], terminal)
    affected = affected_text(result.duplicates, result.test.count)
    if affected is not None:
        _field("duplicates", affected, terminal)
    show_chance(result.test, classes, terminal)
    show_class_balance(result.test, classes, terminal)
    for split in ("test", "validation"):
        show_scarce_classes(getattr(result, split), split, classes, terminal)
    for name in result.ensemble.diverged:
        _field("diverged", f"{name}; it is left out of the ensemble", terminal)
    _show_transductive(result, terminal)
    if result.validation.count:
        count = counted(result.validation.count, "image")
        _field("validation", f"accuracy {decimal(result.validation.accuracy)} ({count})", terminal)
    if result.rejection is not None:
        for number, text in enumerate(rejection_lines(result.rejection)):
            _field("" if number else "rejected", text, terminal)
    _show_training(result, terminal)
    if result.test_reads > 1:
        terminal.line(times_read(result.test_reads), hang=LABEL)
    _field("report", f"{folder}/report.html", terminal)
    # The last line, and the word that the next command needs.
    terminal.line(f"{'folder':<{LABEL}}{folder}", hang=LABEL, bold=True)


def _show_transductive(result: Record, terminal: Terminal) -> None:
    """Print the transductive accuracy, or the reason why there is none."""
    if result.transductive is not None:
        count = counted(result.transductive.count, "training image")
        text = f"accuracy {decimal(result.transductive.accuracy)} ({count}, seen without labels)"
        _field("unlabelled", text, terminal)
    elif result.transductive_note is not None:
        _field("unlabelled", f"no score: {result.transductive_note}", terminal)


def _show_training(result: Record, terminal: Terminal) -> None:
    data = result.data
    labels = f"{counted(data.labelled, 'labelled image')}, {data.unlabelled:,} unlabelled"
    if data.noise:
        labels += f"; {100 * data.noise:g} % of the labels flipped"
    _field("trained on", labels, terminal)
    pretrain = result.pretrain
    loss = "" if pretrain.loss is None else f", loss {pretrain.loss:.4f}"
    used = f"; used {counted(pretrain.labels, 'label')}" if pretrain.labels else ""
    length = counted(pretrain.epochs, "epoch")
    _field("stage 1", f"{pretrain.objective}, {length}{loss}{used}", terminal)
    show_encoder(pretrain, terminal)
    head = result.head
    length = counted(head.epochs, "epoch") if head.epochs else "solved in one call"
    encoder = "encoder unchanged (SHA-256)" if result.frozen.groups else "encoder trained"
    _field("stage 2", f"{head.protocol} head, {encoder}, {length}", terminal)
    if result.sweep is not None:
        values = result.sweep.points[result.sweep.chosen].values
        chosen = ", ".join(f"{name} {value:g}" for name, value in values.items())
        _field("sweep", f"{chosen}, chosen on validation", terminal)
    time = f"{result.seconds['total']:.1f} s"
    earlier = result.seconds.get("earlier")
    if earlier:
        time += f" since the run was resumed; the epochs before took {earlier:.1f} s"
    _field("time", time, terminal)


def show_encoder(pretrain: Record, terminal: Terminal) -> None:
    """Print the figures of the encoder from `store.PretrainRecord`, if it was watched."""
    if pretrain.rank is None:
        return
    text = f"{describe_encoder(vars(pretrain))} of {pretrain.features:,}"
    if pretrain.kept is not None:
        epochs = sorted(set(pretrain.kept))
        text += f"; kept epoch {', '.join(map(str, epochs))}, best by the probe"
    _field("encoder", text, terminal)
    if pretrain.collapsed is not None:
        _field("collapsed", pretrain.collapsed, terminal)


def _show_details(result: Record, classes: Sequence[str], terminal: Terminal) -> None:
    """Print all figures, for `--verbose`."""
    terminal.line()
    show_classes("test by class", result.test, classes, terminal)
    show_scores("results", {"validation": result.validation, "test": result.test}, terminal)
    show_members(result.summary, len(result.ensemble.rows), "test", terminal)
    show_uncertainty(result.test, result.uncertainty, "test", terminal)
    encoder = "not changed by stage 2" if result.frozen.groups else "trained by stage 2"
    _field("encoder", f"{encoder}, {result.frozen.after}", terminal)
    seconds = result.seconds.items()
    phases = (f"{name} {s:.1f}" for name, s in seconds if s and name not in NO_PHASES)
    _field("seconds", ", ".join(phases), terminal)


def show_evaluation(
    title: str,
    split: str,
    assessment: Record,
    classes: Sequence[str],
    detection: tuple[str, Mapping[str, Record]] | None,
    terminal: Terminal,
) -> None:
    """Print the figures of `twostage evaluate`; the accuracy comes last.

    Args:
        title: run and source.
        split: name of the split.
        assessment: `scores.Assessment`.
        classes: names of the K classes.
        detection: name of an out-of-distribution source, and `scores.Detection` by outlier score.
        terminal: where to print.
    """
    scores = assessment.scores
    members = len(assessment.members["accuracy"])
    show_classes(f"{split} by class", scores, classes, terminal)
    show_members(assessment.summary, members, split, terminal)
    show_uncertainty(scores, assessment.uncertainty, split, terminal)
    if detection is not None:
        show_detection(detection[1], detection[0], terminal)
    show_scores(title, {split: scores}, terminal)
    show_accuracy(scores, split, assessment.members["accuracy"], terminal)
    show_class_balance(scores, classes, terminal)
    show_scarce_classes(scores, split, classes, terminal)


def show_accuracy(
    scores: Record, split: str, members: Sequence[float | None], terminal: Terminal
) -> None:
    """Print the accuracy of `scores.Scores` with its interval, and that of the `members`."""
    interval = ""
    if scores.interval is not None:
        interval = ", 95 % interval {:.4f} to {:.4f}".format(*scores.interval)
    images = counted(scores.count, "image")
    text = f"{split} accuracy {decimal(scores.accuracy)}{interval} ({images})"
    terminal.line(text, hang=2, bold=True)
    finite = [value for value in members if value is not None]
    # A single member is its own ensemble.
    if len(members) > 1 and finite:
        mean = sum(finite) / len(finite)
        spread = f"{mean:.4f} ({min(finite):.4f} to {max(finite):.4f})"
        _field("ensemble", f"of {len(members):,} members with mean accuracy {spread}", terminal)


def show_new_images(scores: Record, terminal: Terminal) -> None:
    """Print the accuracy of `scores.Scores` on images that the run was not trained on."""
    images = counted(scores.count, "image")
    text = f"accuracy {decimal(scores.accuracy)} without training images ({images})"
    _field("new images", text, terminal)


def show_chance(scores: Record, classes: Sequence[str], terminal: Terminal) -> None:
    """Say so if the accuracy of `scores.Scores` may be that of the most frequent class alone."""
    if scores.confusion is None or scores.interval is None:
        return
    counts = np.sum(scores.confusion, axis=1)
    share = counts.max() / scores.count
    if scores.interval[0] <= share:
        name = _short(classes[int(counts.argmax())])
        text = f"predicting only {name} has accuracy {decimal(share)}, not measurably worse"
        _field("chance", text, terminal)


def show_class_balance(scores: Record, classes: Sequence[str], terminal: Terminal) -> None:
    """Print balanced accuracy and worst class of `scores.Scores`, if its classes are uneven."""
    if scores.worst_class is None or not is_uneven(scores.confusion):
        return
    worst = int(scores.worst_class)
    lowest = decimal(scores.per_class_accuracy[worst])
    text = f"accuracy {decimal(scores.balanced_accuracy)} (mean over classes); worst class "
    _field("balanced", f"{text}{_short(classes[worst])}, {lowest}", terminal)


def is_uneven(confusion: Sequence[Sequence[int]]) -> bool:
    """Return True if the largest class has more than three times the examples of the smallest."""
    counts = np.sum(confusion, axis=1)
    present = counts[counts > 0]
    return bool(present.max() > UNEVEN * present.min())


def show_scarce_classes(
    scores: Record, split: str, classes: Sequence[str], terminal: Terminal
) -> None:
    """Name the classes of `scores.Scores` with fewer than ten examples."""
    if scores.confusion is None:
        return
    counts = np.sum(scores.confusion, axis=1)
    scarce = np.flatnonzero(counts < SCARCE)
    if not len(scarce):
        return
    if len(scarce) == len(counts) and counts.all():
        names = f"every class has fewer than {SCARCE} {split} images"
    else:
        listed = [f"{_short(classes[int(k)])} has {counts[k] or 'none'}" for k in scarce[:NAMED]]
        more = f", and {len(scarce) - NAMED:,} more classes have few" if len(scarce) > NAMED else ""
        names = f"in {split}: {', '.join(listed)}{more}"
    _field("few examples", names, terminal)


def times_read(count: int) -> str:
    """Sentence about how often the test split of a run was read."""
    if count == 1:
        return "test split of the run: read once"
    return f"test split of the run: read {count} times, so it is no longer a fresh test"


def _field(label: str, text: str, terminal: Terminal) -> None:
    terminal.line(f"{label:<{LABEL}}{text}", hang=LABEL)


def _short(name: str) -> str:
    return shortened(name, NAME_LIMIT)
