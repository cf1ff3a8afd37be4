"""`twostage study suspects`: training labels, the most likely wrong ones first."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.config.studies import NOISE_KINDS, SuspectStudy
from twostage_jax.data.dataset import Dataset
from twostage_jax.data.labels import flip_labels
from twostage_jax.data.marks import csv_bytes
from twostage_jax.errors import UserError
from twostage_jax.runs.study.agreement import FOLDS, NEIGHBOURS, Suspects, find_suspects
from twostage_jax.runs.study.context import Context, Values
from twostage_jax.scores.ranking import Precision, precision_recall
from twostage_jax.show.figure import short_name
from twostage_jax.show.mosaics import draw_sheet
from twostage_jax.stages.stage import new_key
from twostage_jax.store.atomic import write_bytes

TABLE = "suspects.csv"
SHEET = "suspects.png"
SHOWN = 40  # number of images on the contact sheet
COLUMNS = 8
PAIRS = 8  # number of rows of the table of confused classes
# Lengths of the ranking for precision and recall, as shares of the number of changed labels.
_SHARES = (0.25, 0.5, 1.0, 1.5, 2.0)


def check_suspects(study: SuspectStudy, dataset: Dataset) -> None:
    """Check the options of a study against its data.

    Raises:
        UserError: too few examples, or options that contradict each other.
    """
    count = len(dataset.train["label"])
    neighbours = NEIGHBOURS if study.neighbours is None else study.neighbours
    if not neighbours < count:
        raise UserError(
            f"--neighbours {neighbours} does not fit {count} training examples: give a number from "
            f"1 to {count - 1}"
        )
    if count < FOLDS:
        raise UserError(
            f"{count} training examples are too few for {FOLDS} folds: give at least {FOLDS}"
        )
    if study.inject_kind is not None and not study.inject:
        raise UserError("--inject-kind needs a share of labels to change: add --inject P")


def study_suspects(context: Context[SuspectStudy]) -> Values:
    """Compute, print and write a study of suspects; return the results for `study.json`."""
    study = context.study
    dataset = context.source.dataset
    label = dataset.train["label"]
    classes = context.source.classes
    key = new_key(study.seed or 0)
    ranked = label
    if study.inject:
        kind = study.inject_kind or NOISE_KINDS[0]
        ranked = change_labels(label, study.inject, kind, len(classes), jax.random.fold_in(key, 1))
    features = context.source.features("train")[: len(label)]
    with context.terminal.status("comparing labels"):
        suspects = find_suspects(
            features,
            ranked,
            len(classes),
            jax.random.fold_in(key, 0),
            NEIGHBOURS if study.neighbours is None else study.neighbours,
        )
    rows = dataset.rows["train"]
    changed = ranked != label
    path = dataset.train.get("path")
    table = suspects_csv(suspects, ranked, rows, classes, label if study.inject else None, path)
    write_bytes(context.folder / TABLE, table)
    sheet = draw_suspects(suspects, dataset.train["image"], ranked, classes)
    write_bytes(context.folder / SHEET, sheet)
    results = _results(suspects, changed)
    _show(context, results, classes)
    return results


def change_labels(
    label: np.ndarray, share: float, kind: str, classes: int, key: jax.Array
) -> np.ndarray:
    """Change exactly `round(share · N)` labels, int32 `[N]`.

    Args:
        label: int32 `[N]`.
        share: in [0, 1].
        kind: `symmetric` for any other class, all equally likely; `asymmetric` for the next class.
            The first class follows the last.
        classes: number of classes K.
        key: key of the choice; with one key, both kinds change the same labels.
    """
    flipped = np.asarray(flip_labels(key, jnp.asarray(label), share, classes))
    if kind == "symmetric":
        return flipped
    return np.where(flipped != label, (label + 1) % classes, label).astype(np.int32)


def suspects_csv(
    suspects: Suspects,
    ranked: np.ndarray,
    rows: np.ndarray,
    classes: Sequence[str],
    label: np.ndarray | None = None,
    path: np.ndarray | None = None,
) -> bytes:
    """Content of `suspects.csv`: all labels, the most suspicious first.

    Args:
        suspects: from `find_suspects`.
        ranked: labels that were ranked, int `[N]`.
        rows: row of each example in the source, `[N]`.
        classes: names of the K classes.
        label: labels before some were changed, or None.
        path: path of each example, text `[N]`, or None. The file then has a column `label`, too,
            to be corrected and read as `csv:FILE`.
    """
    columns = [] if path is None else ["path", "label"]
    columns += ["rank", "index", "given", "suggested", "score"]
    columns += ["head_given", "head_suggested", "neighbours_given", "neighbours_suggested"]
    columns += [] if label is None else ["source"]
    lines = []
    for rank, row in enumerate(suspects.order.tolist(), start=1):
        pair = (int(ranked[row]), int(suspects.suggested[row]))
        shares = (
            f"{part[row, k]:.4f}" for part in (suspects.head, suspects.neighbours) for k in pair
        )
        line = [] if path is None else [str(path[row]), classes[pair[0]]]
        line += [rank, int(rows[row]), classes[pair[0]], classes[pair[1]]]
        line += [f"{suspects.score[row]:.4f}", *shares]
        lines.append(line if label is None else [*line, classes[int(label[row])]])
    return csv_bytes(columns, lines)


def draw_suspects(
    suspects: Suspects, images: np.ndarray, ranked: np.ndarray, classes: Sequence[str]
) -> bytes:
    """Contact sheet of the most suspicious labels, a PNG file."""
    shown = suspects.order[:SHOWN]
    captions = [
        [
            f"given {short_name(classes[int(ranked[row])], 8)}",
            f"likely {short_name(classes[int(suspects.suggested[row])], 8)}",
        ]
        for row in shown.tolist()
    ]
    title = f"The {len(shown)} most suspicious of {len(ranked):,} labels"
    return draw_sheet(images[shown], captions, title, COLUMNS)


def _results(suspects: Suspects, changed: np.ndarray) -> Values:
    estimate = suspects.estimate
    results: Values = {
        "labels": len(changed),
        "wrong": {"count": estimate.count, "low": estimate.low, "high": estimate.high},
        "joint": estimate.joint.round(2).tolist(),
        "above_zero": int((suspects.score > 0).sum()),
    }
    total = int(changed.sum())
    if total:
        counts = sorted({min(max(round(total * x), 1), len(changed)) for x in _SHARES})
        figures = precision_recall(suspects.order, changed, counts)
        results["injected"] = total
        results["precision_recall"] = [figure._asdict() for figure in figures]
        results["at_true_number"] = precision_recall(suspects.order, changed, [total])[0].precision
    return results


def _show(context: Context[SuspectStudy], results: Values, classes: Sequence[str]) -> None:
    terminal = context.terminal
    wrong = results["wrong"]
    total = results["labels"]
    estimate = (
        f"about {wrong['count']:,} of {total:,} training labels are wrong "
        f"({wrong['count'] / total:.1%}; 95 % interval {wrong['low']:,} to {wrong['high']:,}): "
        f"check them in the order of {TABLE}"
    )
    if not wrong["high"]:
        estimate = (
            f"none of {total:,} training labels is probably wrong. {TABLE} lists them in the order "
            "in which a person should check them"
        )
    terminal.line(estimate, bold=True)
    if "injected" in results:
        number = results["injected"]
        terminal.line(
            f"{number:,} labels were changed on purpose: {results['at_true_number']:.1%} of the "
            f"first {number:,} suspects are changed labels"
        )
        figures = [Precision(**figure) for figure in results["precision_recall"]]
        lines = [(f"{n:,}", f"{p:.2%}", f"{r:.2%}") for n, p, r in figures]
        columns = ("first suspects", "precision", "recall")
        terminal.table("Changed labels among the suspects", columns, lines)
    elif pairs := _pairs(np.array(results["joint"]), classes):
        columns = ("given label", "likely label", "number")
        terminal.table("Most frequent wrong labels (estimated)", columns, pairs)
    terminal.line(f"images: {context.folder / SHEET}", hang=2)


def _pairs(joint: np.ndarray, classes: Sequence[str]) -> list[tuple[str, str, str]]:
    """Rows of the table: the pairs of given and likely class with the largest counts."""
    joint = joint - np.diag(np.diag(joint))
    cells = np.argsort(-joint, axis=None, kind="stable")[:PAIRS]
    pairs = zip(*np.unravel_index(cells, joint.shape), strict=True)
    return [
        (short_name(classes[i], 24), short_name(classes[j], 24), f"{joint[i, j]:,.0f}")
        for i, j in pairs
        if joint[i, j] >= 0.5
    ]
