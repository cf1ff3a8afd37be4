"""`twostage study next`: the unlabelled images that are most useful to label next."""

from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.config.studies import NEXT_COUNTS, REPEATS, NextStudy
from twostage_jax.config.studies import STRATEGIES as NAMES
from twostage_jax.data.dataset import TrainingData
from twostage_jax.data.marks import csv_bytes, read_labels
from twostage_jax.errors import UserError
from twostage_jax.runs.study.cells import Cells
from twostage_jax.runs.study.context import Context, Values
from twostage_jax.runs.study.selection import (
    NEEDS_LABELS,
    Choice,
    Pool,
    check_budget,
    choose_from,
)
from twostage_jax.runs.study.strategies import compare_strategies, label_probability, make_graph
from twostage_jax.scores.curves import mean_interval
from twostage_jax.show.mosaics import draw_sheet
from twostage_jax.stages.stage import new_key
from twostage_jax.store.atomic import write_bytes

TABLE = "next.csv"
SHEET = "next.png"
COMPARISON = "strategies.csv"
SHOWN = 40  # number of images on the contact sheet
COLUMNS = 8


class Candidates(NamedTuple):
    """Training images of a source that can be labelled.

    Attributes:
        index: column `index` of the csv files, int `[C]`: the position among the unlabelled images
            of the source, or the row of its train split if it has no unlabelled images.
        first: position of the first candidate among the training images.
        labelled: positions of the images that have a label, int `[L]`.
        label: their labels int `[L]`.
        ignored: True if the labels of the train split are not used.
        path: path of each candidate, text `[C]`; None for a source without files.
    """

    index: np.ndarray
    first: int
    labelled: np.ndarray
    label: np.ndarray
    ignored: bool
    path: np.ndarray | None = None

    @property
    def unlabelled(self) -> int:
        """Number of images without a label."""
        return self.first + len(self.index) - len(self.labelled)


def find_candidates(study: NextStudy, dataset: TrainingData) -> Candidates:
    """Return the images that can be labelled, and the labels so far.

    If the source has unlabelled images, they are the candidates, and the labels of the train split
    count. Otherwise the train split is treated as if it had no labels.

    Raises:
        UserError: a file of labels that cannot be read or does not fit.
    """
    pool = len(dataset.unlabelled["image"])
    train = dataset.train["label"]
    index = np.arange(pool) if pool else dataset.rows["train"]
    first = len(train) if pool else 0
    labelled = np.arange(first)
    label = train[:first]
    path = (dataset.unlabelled if pool else dataset.train).get("path")
    if study.labelled is not None:
        position, more = read_labels(study.labelled, index, dataset.classes, path)
        labelled = np.concatenate([labelled, first + position])
        label = np.concatenate([label, more])
    return Candidates(index, first, labelled, label, not pool, path)


def check_next(study: NextStudy, dataset: TrainingData) -> None:
    """Check the options of a study against its data.

    Raises:
        UserError: a missing or too large budget, a file of labels that does not fit, `margin`
            without labels, or numbers of labels that do not fit.
    """
    if study.budget is None:
        raise UserError("twostage study next needs the number of images to list: give --budget N")
    candidates = find_candidates(study, dataset)
    check_budget(study.budget, candidates.unlabelled)
    if study.strategy == "margin" and not len(candidates.label):
        raise UserError(NEEDS_LABELS)
    if not study.compare and (study.counts or study.draws):
        raise UserError(
            "--counts and --draws only apply to the comparison of strategies: add --compare"
        )
    if study.compare:
        comparison_counts(study, dataset)
        if not len(dataset.validation["label"]):
            raise UserError("--compare measures errors on validation images: give --validation N")


def comparison_counts(study: NextStudy, dataset: TrainingData) -> list[int]:
    """Return the numbers of labels of the comparison in ascending order.

    Raises:
        UserError: a requested number does not fit, or no default fits.
    """
    available = len(dataset.train["label"])
    asked = study.counts or NEXT_COUNTS
    fitting = sorted(int(count) for count in asked if 1 <= int(count) <= available)
    if not fitting or (study.counts and len(fitting) < len(asked)):
        raise UserError(
            f"--counts does not fit {available:,} labelled training examples: give numbers from 1 "
            f"to {available:,}"
        )
    return fitting


def study_next(context: Context[NextStudy]) -> Values:
    """Compute, print and write what to label next; return the results for `study.json`."""
    study = context.study
    source = context.source
    candidates = find_candidates(study, source.dataset)
    strategy = study.strategy or NAMES[0]
    features = source.features("train")
    with context.terminal.status("choosing images"):
        pool = Pool(features)
        probability = None
        if strategy == "margin":
            # A source without labels gets its classes from the file of labels.
            classes = max(len(source.classes), int(candidates.label.max()) + 1)
            labels = (candidates.labelled, candidates.label)
            probability = label_probability(pool.units, *labels, classes)
        key = jax.random.fold_in(new_key(study.seed or 0), 0)
        choice = Choice(study.budget, key, probability)
        chosen = choose_from(pool, strategy, choice, candidates.labelled)
    index = candidates.index[chosen - candidates.first].tolist()
    columns = ("index", "label")
    lines = [(i, "") for i in index]
    if candidates.path is not None:
        # First what `csv:FILE` reads; the index is that of the sheet.
        columns = ("path", "label", "index")
        paths = candidates.path[chosen - candidates.first].tolist()
        lines = [(path, "", i) for path, i in zip(paths, index, strict=True)]
    write_bytes(context.folder / TABLE, csv_bytes(columns, lines))
    captions = [[f"{rank}: no. {i}"] for rank, i in enumerate(index[:SHOWN], start=1)]
    which = f"The first {len(captions)} of {len(index):,}"
    which = which if len(captions) < len(index) else f"The {len(index)}"
    title = f"{which} images to label, in this order"
    images = source.images[chosen[:SHOWN]]
    write_bytes(context.folder / SHEET, draw_sheet(images, captions, title, COLUMNS))
    results: Values = {
        "strategy": strategy,
        "labelled": len(candidates.label),
        "unlabelled": candidates.unlabelled,
        "index": index,
    }
    _show(context, candidates, results)
    if study.compare:
        results["comparison"] = _compare(context, features)
    return results


def _show(context: Context[NextStudy], candidates: Candidates, results: Values) -> None:
    terminal = context.terminal
    number = len(results["index"])
    terminal.line(
        f"label these {number:,} of {results['unlabelled']:,} unlabelled images next "
        f"({results['strategy']}; {results['labelled']:,} images have a label): fill in the column "
        f"label of {context.folder / TABLE}",
        hang=2,
        bold=True,
    )
    if candidates.ignored:
        where = f"{context.source.dataset.name} has no unlabelled images"
        terminal.line(f"{where}: the labels of its train split were not used", hang=2)
    terminal.line(f"images: {context.folder / SHEET}", hang=2)


def _compare(context: Context[NextStudy], features: np.ndarray) -> Values:
    """Compare all strategies on the train split; print and write the table."""
    study = context.study
    label = context.source.dataset.train["label"]
    counts = comparison_counts(study, context.source.dataset)
    features = features[: len(label)]
    # Validation images are in the graph, but never labelled.
    held_out = context.source.dataset.validation["label"]
    together = np.concatenate([features, context.source.features("validation")])
    repeats = study.draws or REPEATS
    cells: Cells = context.cells
    with context.terminal.status("comparing strategies"):
        graph = cells.compute("graph", lambda: make_graph(together))
        errors = compare_strategies(
            Pool(features),
            graph,
            np.concatenate([label, held_out]),
            len(context.source.classes),
            counts,
            repeats,
            study.seed or 0,
            cells.compute,
        )
    records = [
        _record(strategy, count, values[:, column], errors["random"][:, column])
        for strategy, values in errors.items()
        for column, count in enumerate(counts)
    ]
    columns = tuple(records[0])
    lines = [tuple(record.values()) for record in records]
    write_bytes(context.folder / COMPARISON, csv_bytes(columns, lines))
    rows = [
        (
            record["strategy"],
            f"{record['labels']:,}",
            f"{100 * record['error']:.2f} [{100 * record['low']:.2f}, {100 * record['high']:.2f}]",
            f"{100 * record['median']:.2f}",
            _difference(record),
        )
        for record in records
    ]
    columns = ("strategy", "labels", "error in % [95 %]", "median", "minus random [95 %]")
    context.terminal.table(
        f"Error on {len(held_out):,} validation images, {repeats} seeds", columns, rows
    )
    context.terminal.line(
        "head: propagate (poisson-mbo, equal classes), with the validation images in the graph; "
        "random draws are not class-balanced, and a class without a label counts as wrong",
        hang=2,
    )
    return {"counts": counts, "repeats": repeats, "table": records}


def _record(strategy: str, count: int, error: np.ndarray, random: np.ndarray) -> Values:
    mean = mean_interval(error)
    difference = mean_interval(error - random)
    return {
        "strategy": strategy,
        "labels": count,
        "error": mean.value,
        "low": mean.low,
        "high": mean.high,
        "median": float(np.median(error)),
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
    }


def _difference(record: Values) -> str:
    if record["strategy"] == "random":
        return ""
    low = 100 * record["difference_low"]
    high = 100 * record["difference_high"]
    return f"{100 * record['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
