"""Figures of uncertainty, each with its name and meaning."""

import math

from twostage_jax.show.epochs import Record
from twostage_jax.show.terminal import Terminal

INDENT = 10  # columns before the words


def show_uncertainty(scores: Record, figures: Record, split: str, terminal: Terminal) -> None:
    """Print calibration, entropy and prediction sets.

    Args:
        scores: `scores.Scores` of the split.
        figures: `scores.Uncertainty` of the split.
        split: name of the split.
        terminal: where to print.
    """
    terminal.line()
    terminal.line(f"uncertainty on {split}", bold=True)
    rows = [
        (scores.nll, "negative log-likelihood: mean of -log(probability of the true class)"),
        (scores.ece, "expected calibration error: mean gap between confidence and accuracy"),
        (scores.brier, "Brier score: squared error of the probabilities, from 0 to 2"),
    ]
    certain = f"0 (certain) to {math.log(len(scores.confusion)):.2f} (uniform)"
    rows.append((figures.predictive_entropy, f"entropy of the predictions in nats: {certain}"))
    if figures.mutual_information is not None:
        words = "mutual information in nats: how much the members disagree"
        rows.append((figures.mutual_information, words))
    words = "area under the risk-coverage curve: mean error rate over all coverages"
    rows.append((figures.aurc, words))
    for value, words in rows:
        _row("-" if value is None else f"{value:.4f}", words, terminal)
    if figures.temperature is not None:
        _show_temperature(scores, figures, split, terminal)
    if figures.conformal is not None:
        _show_sets(figures.conformal, terminal)


def _show_temperature(scores: Record, figures: Record, split: str, terminal: Terminal) -> None:
    """Print the temperature and its effect on the scores, and a line if it made them worse."""
    words = "temperature, fitted on validation: divide the logits by it"
    _row(f"{figures.temperature:.3f}", words, terminal)
    worse = []
    for name, words in (("nll", "negative log-likelihood"), ("ece", "calibration error")):
        before = getattr(scores, name)
        after = getattr(figures.calibrated, name)
        _row("", f"{words} with it: {after:.4f} instead of {before:.4f}", terminal)
        if after > before:
            worse.append(words)
    if worse:
        _row("", f"worse on {split} with it: {' and '.join(worse)}", terminal)


def _show_sets(sets: Record, terminal: Terminal) -> None:
    low, high = sets.interval
    # `g`, because 0.999 is 99.9 % and not 100 %.
    words = f"share of images whose {100 * sets.asked:g} % prediction set has the true class"
    _row(f"{sets.measured:.4f}", words, terminal)
    _row("", f"expected for that share: {low:.4f} to {high:.4f} (95 % interval)", terminal)
    _row(f"{sets.mean_size:.4f}", "mean number of classes in a prediction set", terminal)


def _row(value: str, words: str, terminal: Terminal) -> None:
    terminal.line(f"{value.rjust(INDENT - 2)}  {words}", hang=INDENT)
