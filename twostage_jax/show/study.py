"""Words and tables of a label study, from the results in its `study.json`."""

import math
from collections.abc import Mapping, Sequence

from twostage_jax.show.epochs import Record
from twostage_jax.show.terminal import Terminal

HEADLINE = 100  # labels that the first sentence is about, if they were measured
WORDS = {
    "supervised": "supervised training from scratch",
    "random": "a random encoder of the same shape",
    "pixels": "a linear head on raw pixels",
    "pca": "a linear head on principal components",
}


def show_label_study(results: Record, terminal: Terminal) -> None:
    """Print the headline, errors, differences, labels to match and extrapolations."""
    terminal.line("")
    terminal.line(results["headline"], bold=True)
    terminal.line("")
    _show_errors(results, terminal)
    _show_differences(results, terminal)
    _show_matches(results, terminal)
    _show_extrapolations(results, terminal)
    terminal.line(f"choice: {results['selection']}", hang=2)


def _show_errors(results: Record, terminal: Terminal) -> None:
    """Print the mean test error of every arm, with half of the width of its interval."""
    cells = {(x["arm"], x["labels"]): x for x in results["table"]}
    rows = [
        (name, *(_error_cell(cells[name, count]) for count in results["counts"]))
        for name in results["arms"]
    ]
    title = "test error in %, mean and half of the 95 % interval (number of draws)"
    terminal.table(title, ("arm", *(short_count(n) for n in results["counts"])), rows)
    inside = [
        (name, *(_inside_cell(cells[name, count]) for count in results["counts"]))
        for name in results["arms"]
        if any(cells[name, count]["transductive"] is not None for count in results["counts"])
    ]
    if inside:
        title = "transductive error in %: the training images without a label"
        terminal.table(title, ("arm", *(short_count(n) for n in results["counts"])), inside)


def _error_cell(entry: Mapping) -> str:
    half = 50 * (entry["high"] - entry["low"])
    return f"{decimals(100 * entry['mean'])}\n±{decimals(half)}\n({entry['draws']})"


def _inside_cell(entry: Mapping) -> str:
    inside = entry["transductive"]
    return "-" if inside is None else decimals(100 * inside)


def _show_differences(results: Record, terminal: Terminal) -> None:
    """Print paired differences to every control, marked where the interval excludes 0."""
    cells = {(x["arm"], x["labels"]): x["minus"] for x in results["table"]}
    rows = []
    for name in results["arms"]:
        for control in results["controls"][name]:
            differences = [cells[name, count][control] for count in results["counts"]]
            rows.append((f"{name} − {control}", *map(_difference_cell, differences)))
    if rows:
        title = "paired difference in %, with its 95 % interval"
        terminal.table(title, ("arms", *(short_count(n) for n in results["counts"])), rows)


def _difference_cell(interval: Sequence[float]) -> str:
    value, low, high = (decimals(100 * x) for x in interval)
    return f"{value}\n{low}\n{high}"


def _show_matches(results: Record, terminal: Terminal) -> None:
    """Print the labels that each control needs for the error of the first arm."""
    name = main_arm(results)
    found = {(x["control"], x["labels"]): x for x in results["labels_to_match"] if x["arm"] == name}
    rows = [
        (control, *(_match_cell(found[control, count]) for count in results["counts"]))
        for control in results["controls"][name]
    ]
    if rows:
        title = f"labels that a control needs for the error of {name}, with a 95 % interval"
        terminal.table(title, ("control", *(short_count(n) for n in results["counts"])), rows)


def _match_cell(match: Mapping) -> str:
    if match["low"] is None or match["low"] == match["high"]:
        return short_needed(match["needs"])
    return "\n".join(short_needed(match[name]) for name in ("needs", "low", "high"))


def _show_extrapolations(results: Record, terminal: Terminal) -> None:
    """Print the prediction for twice the labels of the first arm and of its first control."""
    name = main_arm(results)
    wanted = [name, *results["controls"][name][:1]]
    for entry in results["extrapolation"]:
        if entry["arm"] in wanted:
            expected = _interval_words(entry["expected"])
            predicted = _interval_words(entry["predicted"])
            terminal.line(
                f"{entry['arm']}: with {entry['labels']:,} labels expect {expected} errors; the "
                f"same law without {entry['held_out']:,} labels predicts {predicted} there, "
                f"measured {percent(entry['measured'])}",
                hang=2,
            )


def _interval_words(interval: Sequence[float | None]) -> str:
    value, low, high = interval
    assert value is not None
    if low is None or high is None:
        return percent(value)
    return f"{percent(value)} ({percent(low)} to {percent(high)})"


def short_count(count: int) -> str:
    """Return a number of labels for a column, such as `600` or `55k`."""
    if count < 10_000:
        return str(count)
    return f"{count / 1000:.3g}k" if count < 1_000_000 else f"{count / 1e6:.3g}M"


def short_needed(number: float | str | None) -> str:
    """Return a number of labels for a cell, such as `3100` or `>55k`."""
    if number is None:
        return "-"
    if isinstance(number, str):
        return number[0] + short_count(int(number[1:]))
    return short_count(int(label_words(number).replace(",", "")))


def decimals(value: float) -> str:
    """Return a percentage with two decimals, or one from 10 on."""
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}"


def headline(results: Record) -> str:
    """Answer the question of the study in words: how many labels pretraining saves."""
    name = main_arm(results)
    count = main_count(results)
    entry = _find(results["table"], name, count)
    made = (
        f"With {count:,} labels {_arm_words(name)} makes {percent(entry['mean'])} errors "
        f"({percent(entry['low'])} to {percent(entry['high'])})"
    )
    controls = results["controls"][name]
    if not controls:
        return f"{made}; no control was run, so nothing is said about pretraining."
    control = controls[0]
    words = WORDS[control.partition(":")[0]]
    difference = entry["minus"][control]
    match = next(
        x
        for x in results["labels_to_match"]
        if (x["arm"], x["labels"], x["control"]) == (name, count, control)
    )
    other = percent(_find(results["table"], control, count)["mean"])
    if difference[2] < 0:
        return f"{made}; {words} {_needs(match)} for that (it makes {other} with {count:,}). " + (
            _saved(match, count)
        )
    if difference[1] > 0:
        return f"{made}; {words} makes only {other}: pretraining saved no labels, it cost accuracy."
    return (
        f"{made}; {words} makes {other}, a difference within the interval: no saving by "
        "pretraining was measured."
    )


def _saved(match: Mapping, count: int) -> str:
    """Return the saving in words."""
    needs = match["needs"]
    if isinstance(needs, str):
        largest = int(needs[1:])
        share = 1 - count / largest
        return f"Pretraining saved more than {share:.0%} of the labels."
    share = 1 - count / needs
    return f"Pretraining saved {share:.0%} of the labels."


def _needs(match: Mapping) -> str:
    """Return the labels that a control needs, with their interval."""
    needs = label_words(match["needs"])
    if match["low"] is None or match["low"] == match["high"]:
        return f"needs {needs} labels"
    return f"needs {needs} labels ({label_words(match['low'])} to {label_words(match['high'])})"


def label_words(number: float | str | None) -> str:
    """Return a number of labels for people: two digits, or beyond which it lies.

    >>> label_words(3124.2), label_words(">60000"), label_words("<10")
    ('3,100', 'more than 60,000', 'fewer than 10')
    """
    if number is None:
        return "-"
    if isinstance(number, str):
        words = "more than" if number[0] == ">" else "fewer than"
        return f"{words} {int(number[1:]):,}"
    digits = max(0, math.floor(math.log10(max(number, 1))) - 1)
    return f"{round(number, -digits):,.0f}"


def percent(share: float) -> str:
    """Return a share as a percentage with two significant digits, such as `1.1 %`."""
    value = 100 * share
    return f"{value:.2f} %" if value < 10 else f"{value:.1f} %"


def _find(table: Sequence[Mapping], name: str, count: int) -> Mapping:
    return next(x for x in table if (x["arm"], x["labels"]) == (name, count))


def main_arm(results: Record) -> str:
    """Return the first arm with controls; it is fixed before any result is known."""
    with_controls = [name for name in results["arms"] if results["controls"][name]]
    return (with_controls or results["arms"])[0]


def main_count(results: Record) -> int:
    """Return 100, or the measured number of labels that is nearest to it in ratio."""
    return min(results["counts"], key=lambda count: (abs(math.log(count / HEADLINE)), count))


def _arm_words(name: str) -> str:
    """Return an arm in words."""
    first, _, protocol = name.partition(":")
    if first == "frozen":
        return f"the pretrained encoder (frozen, {protocol} head)"
    if first == "finetuned":
        return "the pretrained encoder (fine-tuned)"
    return f"the arm {name}"
