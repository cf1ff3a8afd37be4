"""The page that compares several runs: one table and one plot."""

from collections.abc import Sequence

from twostage_jax.show.report.blocks import Block, Commands, Drawing, Section, Table, Text
from twostage_jax.show.report.charts import Measured, plot_accuracies
from twostage_jax.show.report.content import Content
from twostage_jax.show.report.page import render_page
from twostage_jax.show.report.result import interval_words, share_words
from twostage_jax.show.tables import decimal
from twostage_jax.show.terminal import Terminal

COLUMNS = (
    "run",
    "test accuracy",
    "95 % interval",
    "balanced",
    "log-likelihood",
    "calibration error",
    "data",
    "labels",
    "stage 1",
    "stage 2",
    "members",
    "seconds",
)
DIFFERENT_IMAGES = (
    "The runs were tested on different images, so their accuracies cannot be compared."
)


def render_comparison(contents: Sequence[Content], commands: Sequence[str]) -> bytes:
    """Return the page that compares finished runs.

    Args:
        contents: of each run, with a result.
        commands: lines that write the page again.
    """
    best = max(contents, key=lambda content: content.result.test.accuracy)
    rows = [
        Measured(content.name, content.result.test.accuracy, content.result.test.interval)
        for content in contents
    ]
    alt = "Test accuracy of each run with its 95 % interval; the table below has the figures."
    caption = "Test accuracy in %, with 95 % intervals"
    warnings = differences(contents)
    # Only runs with the same test images have a best one.
    answer = verdict(contents, best)
    if DIFFERENT_IMAGES in warnings:
        warnings.remove(DIFFERENT_IMAGES)
        answer = DIFFERENT_IMAGES
    blocks: list[Block] = [
        Text(answer, "answer"),
        *(Text(words, "warning") for words in warnings),
        Drawing("accuracies", plot_accuracies(rows), alt, caption),
        Table("All runs", COLUMNS, table_rows(contents), sortable=True),
    ]
    sections = [
        Section("result", "Comparison", blocks),
        Section("repeat", "Repeat it", [Commands(commands)]),
    ]
    return render_page(f"Comparison of {len(contents)} runs", sections)


def show_comparison(contents: Sequence[Content], terminal: Terminal) -> None:
    """Print the figures of each run, and what makes them hard to compare."""
    rows = []
    for content in contents:
        test = content.result.test
        low, high = map(decimal, test.interval)
        interval = f"{low} to {high}"
        figures = map(decimal, (test.balanced_accuracy, test.nll, test.ece))
        rows.append((content.name, decimal(test.accuracy), interval, *figures))
    columns = ("run", "accuracy", "95 % interval", "balanced", "nll", "ece")
    terminal.table("test split", columns, rows)
    for words in differences(contents):
        terminal.line(words, hang=2)


def table_rows(contents: Sequence[Content]) -> list[tuple[str, ...]]:
    """Return a row of texts for each run, under `COLUMNS`."""
    rows = []
    for content in contents:
        result = content.result
        test = result.test
        rows.append(
            (
                content.name,
                share_words(test.accuracy, test.count),
                interval_words(test.interval, test.count),
                share_words(test.balanced_accuracy, test.count),
                f"{test.nll:.4f}",
                f"{test.ece:.4f}",
                result.data.name,
                f"{result.data.labelled:,}",
                result.pretrain.objective,
                result.head.protocol,
                f"{len(result.ensemble.rows)}",
                f"{result.seconds['total']:.1f}",
            )
        )
    return rows


def verdict(contents: Sequence[Content], best: Content) -> str:
    """Return the best run in one sentence, and how many others its interval reaches."""
    test = best.result.test
    words = (
        f"{best.name} has the highest test accuracy of {len(contents)} runs: "
        f"{share_words(test.accuracy, test.count)} "
        f"({interval_words(test.interval, test.count)})"
    )
    lowest = test.interval[0]
    near = sum(
        content.result.test.interval[1] >= lowest for content in contents if content is not best
    )
    if not near:
        return f"{words}; the intervals of all others lie below."
    runs = "one other run" if near == 1 else f"{near} other runs"
    return f"{words}; its interval overlaps with that of {runs}."


def differences(contents: Sequence[Content]) -> list[str]:
    """Return sentences about what makes the runs hard to compare."""
    words = []
    if len({content.manifest.data.parts.get("test") for content in contents}) > 1:
        words.append(DIFFERENT_IMAGES)
    read = [content.name for content in contents if content.result.test_reads > 1]
    if read:
        words.append(f"The test split was read more than once by {', '.join(read)}.")
    return words
