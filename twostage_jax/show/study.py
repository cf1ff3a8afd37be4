"""Words and tables of a label study, from the results in its `study.json`."""

import math
from collections.abc import Mapping, Sequence

from twostage_jax.show.epochs import Record
from twostage_jax.show.tables import counted
from twostage_jax.show.terminal import Terminal

HEADLINE = 100  # labels that the first sentence is about, if they were measured
FEW_DRAWS = 10  # with fewer draws, the first sentence says so
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


def _columns(results: Record) -> list[str]:
    return [short_count(count) for count in results["counts"]]


def _show_errors(results: Record, terminal: Terminal) -> None:
    """Print the mean test error of every arm, and half the width of its interval below it."""
    cells = {(x["arm"], x["labels"]): x for x in results["table"]}
    rows = []
    inside = []
    fewer = []
    most = max(x["draws"] for x in results["table"])
    for name in results["arms"]:
        entries = [cells[name, count] for count in results["counts"]]
        rows.append((name, *(decimals(100 * x["mean"]) for x in entries)))
        rows.append(("  ±", *(decimals(50 * (x["high"] - x["low"])) for x in entries)))
        if any(x["transductive"] is not None for x in entries):
            inside.append((name, *map(_inside_cell, entries)))
        fewer += [f"{name} {x['draws']} at {x['labels']:,}" for x in entries if x["draws"] < most]
    title = f"test error in %, mean of {most} draws and half of its 95 % interval"
    terminal.table(title, ("arm", *_columns(results)), rows)
    if fewer:
        terminal.line(f"fewer draws: {', '.join(fewer)}", hang=2)
    if inside:
        title = "transductive error in %, on the training images without a label"
        terminal.table(title, ("arm", *_columns(results)), inside)


def _inside_cell(entry: Mapping) -> str:
    inside = entry["transductive"]
    return "-" if inside is None else decimals(100 * inside)


def _show_differences(results: Record, terminal: Terminal) -> None:
    """Print paired differences of the first arm to its controls, with their intervals."""
    name = main_arm(results)
    cells = {x["labels"]: x["minus"] for x in results["table"] if x["arm"] == name}
    rows = []
    for control in results["controls"][name]:
        intervals = [cells[count][control] for count in results["counts"]]
        for number, words in enumerate((f"− {control}", "  from", "  to")):
            rows.append((words, *(decimals(100 * x[number]) for x in intervals)))
    if rows:
        title = f"paired difference of {name} in %, with its 95 % interval"
        terminal.table(title, ("control", *_columns(results)), rows)


def _show_matches(results: Record, terminal: Terminal) -> None:
    """Print the labels that each control needs for the error of the first arm."""
    name = main_arm(results)
    cells = {(x["control"], x["labels"]): x for x in results["labels_to_match"] if x["arm"] == name}
    rows = []
    for control in results["controls"][name]:
        matches = [cells[control, count] for count in results["counts"]]
        for words, part in ((control, "needs"), ("  from", "low"), ("  to", "high")):
            rows.append((words, *(short_needed(x[part]) for x in matches)))
    if rows:
        title = f"labels that a control needs for the error of {name}, with a 95 % interval"
        terminal.table(title, ("control", *_columns(results)), rows)


def _show_extrapolations(results: Record, terminal: Terminal) -> None:
    """Print the prediction for twice the labels of the first arm and of its first control."""
    name = main_arm(results)
    wanted = [name, *results["controls"][name][:1]]
    for entry in results["extrapolation"]:
        if entry["arm"] in wanted:
            expected = _interval_words(entry["expected"])
            predicted = _interval_words(entry["predicted"])
            terminal.line(
                f"{entry['arm']}: a power law predicts an error of {expected} with "
                f"{entry['labels']:,} labels; fitted without {entry['held_out']:,} labels, it "
                f"predicts {predicted} for them ({percent(entry['measured'])} measured)",
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
    draws = f" (only {counted(entry['draws'], 'draw')})" if entry["draws"] < FEW_DRAWS else ""
    made = (
        f"With {count:,} labels{draws} {_arm_words(name)} has an error of {percent(entry['mean'])} "
        f"({percent(entry['low'])} to {percent(entry['high'])})"
    )
    controls = results["controls"][name]
    if not controls:
        return f"{made}; no control was run, so the gain by pretraining is unknown."
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
        needed = f"{words} {_needs(match)} for that (its error is {other} with {count:,})"
        return f"{made}; {needed}. {_saved(match, count)}"
    if difference[1] > 0:
        return f"{made}; {words} has an error of only {other}: pretraining reduced the accuracy."
    return (
        f"{made}; {words} has an error of {other}: the interval of the difference contains 0, so "
        "no saving by pretraining was measured."
    )


def _saved(match: Mapping, count: int) -> str:
    """Return the saving in words."""
    needs = match["needs"]
    if isinstance(needs, str):
        largest = int(needs[1:])
        if largest <= count:
            return "Larger numbers of labels were not measured."
        return f"Pretraining saved more than {share_words(1 - count / largest)} of the labels."
    return f"Pretraining saved {share_words(1 - count / needs)} of the labels."


def share_words(share: float) -> str:
    """Return a share in whole percent; one decimal from 99 on, and never 100.

    >>> share_words(0.931), share_words(0.99812)
    ('93 %', '99.8 %')
    """
    value = 100 * share
    return f"{value:.0f} %" if value < 99 else f"{min(value, 99.9):.1f} %"


def _needs(match: Mapping) -> str:
    """Return the labels that a control needs, with their interval."""
    needs = label_words(match["needs"])
    if match["low"] is None or match["low"] == match["high"]:
        return f"needs {needs} labels"
    return f"needs {needs} labels ({label_words(match['low'])} to {label_words(match['high'])})"


def label_words(number: float | str | None) -> str:
    """Return a number of labels in words: two digits, or the end of the measured range.

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
    """Return a share as a percentage, such as `1.14 %` or `22.3 %`."""
    return f"{decimals(100 * share)} %"


def _find(table: Sequence[Mapping], name: str, count: int) -> Mapping:
    return next(x for x in table if (x["arm"], x["labels"]) == (name, count))


def main_arm(results: Record) -> str:
    """Return the first arm with controls, which is fixed before any result is known."""
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
