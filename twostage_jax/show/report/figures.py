"""Sections with figures of the test split: confusion, classes, calibration."""

import numpy as np

from twostage_jax.show.plots import plot_confusion
from twostage_jax.show.report.blocks import (
    Block,
    Drawing,
    Fact,
    Facts,
    Matrix,
    Section,
    Table,
    Text,
)
from twostage_jax.show.report.charts import plot_reliability
from twostage_jax.show.report.content import Content
from twostage_jax.show.report.result import interval_words, share_words

CELLS = 20  # classes up to which the confusion matrix is a table
PAIRS = 10  # pairs of confused classes


def confusion_section(content: Content) -> Section | None:
    """Section with the confusion matrix and the pairs of classes that are confused most."""
    result = content.result
    if result is None or result.test.confusion is None:
        return None
    counts = np.array(result.test.confusion)
    classes = content.classes
    blocks: list[Block] = []
    if len(classes) <= CELLS:
        caption = "True classes in rows, predicted classes in columns; test split"
        blocks.append(Matrix(caption, classes, counts.tolist()))
    else:
        alt = "Confusion matrix of the test split; the table below has the most frequent pairs."
        svg = plot_confusion(counts.tolist(), classes, "test", "page")
        blocks.append(Drawing("confusion", svg, alt, wide=True))
    wrong = counts * (1 - np.eye(len(counts), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    rows = []
    for true, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        number = int(wrong[true, predicted])
        if number:
            share = share_words(number / counts[true].sum())
            rows.append((classes[true], classes[predicted], f"{number:,}", share))
    if rows:
        columns = ("true class", "predicted as", "images", "share of the class")
        blocks.append(Table("The most frequent confusions", columns, rows, left=2))
    else:
        blocks.append(Text("No test image is classified wrongly."))
    return Section("confusion", "Confusion matrix", blocks)


def classes_section(content: Content) -> Section | None:
    """Section with the figures of every class."""
    result = content.result
    if result is None or not getattr(result.test, "per_class", None):
        return None
    rows = []
    for name, scores in zip(content.classes, result.test.per_class, strict=True):
        figures = (scores.recall, scores.precision, scores.f1)
        recall, precision, f1 = map(share_words, figures)
        interval = interval_words(scores.interval)
        rows.append((name, f"{scores.count:,}", recall, interval, precision, f1))
    columns = ("class", "test images", "recall", "95 % interval", "precision", "F1")
    caption = (
        "Recall: share of the images of a class that are predicted as this class. "
        "Precision: share of the predictions of a class that are correct"
    )
    return Section("classes", "Classes", [Table(caption, columns, rows, sortable=True)])


def calibration_section(content: Content) -> Section | None:
    """Section on confidence: reliability, temperature, prediction sets."""
    result = content.result
    if result is None:
        return None
    blocks: list[Block] = []
    bins = content.arrays.get("reliability")
    if bins is not None:
        labels = ("as predicted", "with the temperature")
        alt = "Accuracy over confidence in 15 bins. On the diagonal, confidence equals accuracy."
        caption = "Accuracy of the test images over their confidence, and the share of images below"
        blocks.append(Drawing("reliability", plot_reliability(bins, labels), alt, caption))
    figures = result.uncertainty
    facts = [Fact("calibration error", f"{result.test.ece:.4f}", "as predicted")]
    if figures.temperature is not None:
        note = "fitted on validation; logits are divided by it"
        facts.append(Fact("temperature", f"{figures.temperature:.3f}", note))
        after = figures.calibrated
        facts.append(
            Fact("calibrated", f"{after.ece:.4f}", "calibration error with the temperature")
        )
        note = f"with the temperature; {result.test.nll:.4f} without"
        facts.append(Fact("negative log-likelihood", f"{after.nll:.4f}", note))
    if figures.conformal is not None:
        sets = figures.conformal
        note = f"of the {100 * sets.asked:g} % prediction sets contain the true class"
        facts.append(Fact("coverage", share_words(sets.measured), note))
        facts.append(Fact("set size", f"{sets.mean_size:.2f}", "mean number of classes in a set"))
    facts.append(Fact("risk", f"{figures.aurc:.4f}", "area under the risk-coverage curve"))
    blocks.append(Facts(facts))
    return Section("calibration", "Calibration", blocks)
