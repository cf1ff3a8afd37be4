"""Assessment of a classifier or an ensemble, in float64 from saved probabilities.

`--save-predictions` writes float32 probabilities, and every figure follows from exactly these:

    p = probability.astype(np.float64)       # [N, K]; for members: .mean(0) of [M, N, K]
    true = p[np.arange(N), label]
    accuracy = (p.argmax(-1) == label).mean()
    nll = -np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean()
    brier = ((p - np.eye(K)[label]) ** 2).sum(-1).mean()
    bin = np.clip(np.ceil(p.max(-1) * 15).astype(int) - 1, 0, 14)
    ece = np.abs(np.bincount(bin, (p.argmax(-1) == label) - p.max(-1))).sum() / N
    confusion[t, k] = ((label == t) & (p.argmax(-1) == k)).sum()
    per_class_accuracy = confusion.diagonal() / confusion.sum(1)
    balanced_accuracy = np.nanmean(per_class_accuracy)
    worst_class = np.nanargmin(per_class_accuracy)
    macro_f1 = np.nanmean(2 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1)))
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from twostage_jax.scores.calibration import (
    apply_temperature,
    area_under_risk_coverage,
    calibration_error,
    fit_temperature,
    log_probability,
)
from twostage_jax.scores.classes import ClassScores, macro_f1, score_classes
from twostage_jax.scores.conformal import Conformal, measure_sets, needed_examples
from twostage_jax.scores.detection import mean_probability, mutual_information, predictive_entropy
from twostage_jax.scores.interval import accuracy_interval

COVERAGE = 0.95  # of prediction sets; it needs 19 validation examples
SCORES = ("accuracy", "nll", "ece", "brier")
MemberScores = dict[str, list[float | None]]


@dataclass(frozen=True)
class BasicScores:
    """Four scores of `count` examples; None without examples, or if a probability is NaN.

    Attributes:
        accuracy: in [0, 1].
        nll: mean negative log-likelihood, in nats.
        ece: expected calibration error in [0, 1]; see `calibration.calibration_error`.
        brier: in [0, 2], summed over classes (Brier, "Verification of Forecasts", 1950).
    """

    accuracy: float | None
    nll: float | None
    ece: float | None
    brier: float | None
    count: int


@dataclass(frozen=True)
class Scores(BasicScores):
    """Scores of a split.

    Attributes:
        per_class_accuracy: `[K]`, None for a class without examples.
        confusion: counts `[K][K]`: true class (row), predicted class (column).
        reconstruction: mean squared error of the decoder on pixels in [-1, 1], if there is one.
        interval: 95 % interval of the accuracy, `[low, high]`; see `interval.py`.
        balanced_accuracy: mean accuracy of the classes that have examples.
        worst_class: index of the class with the lowest accuracy.
        per_class: recall with its interval, precision and F1 of each class, `[K]`.
        macro_f1: mean F1 of the classes that have examples or predictions.
    """

    per_class_accuracy: list[float | None] | None = None
    confusion: list[list[int]] | None = None
    reconstruction: float | None = None
    interval: list[float] | None = None
    balanced_accuracy: float | None = None
    worst_class: int | None = None
    per_class: list[ClassScores] | None = None
    macro_f1: float | None = None


@dataclass(frozen=True)
class Spread:
    """One score of M members and of their ensemble; `gain` is `ensemble - mean`.

    `std` has M - 1 degrees of freedom, `low` and `high` are Student's 95 % interval of the mean.
    All three are None for a single member.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    ensemble: float
    gain: float


@dataclass(frozen=True)
class Summary:
    """Spread of each score, and the share of the mean member's errors that the ensemble avoids.

    `fewer_errors` is None if the members make no errors.
    """

    accuracy: Spread
    nll: Spread
    ece: Spread
    brier: Spread
    fewer_errors: float | None


@dataclass(frozen=True)
class Uncertainty:
    """Figures of uncertainty on a split.

    Attributes:
        predictive_entropy: mean, in nats.
        mutual_information: mean, in nats; None for a single member.
        aurc: area under the risk-coverage curve, in [0, 1].
        temperature: fitted on validation; None without validation examples.
        calibrated: scores at this temperature.
        conformal: prediction sets; None if validation is too small for the coverage.
    """

    predictive_entropy: float
    mutual_information: float | None
    aurc: float
    temperature: float | None
    calibrated: BasicScores | None
    conformal: Conformal | None


@dataclass(frozen=True)
class Assessment:
    """Figures of M members on a split: `scores` of their mean probability, and of each member."""

    scores: Scores
    members: MemberScores
    summary: Summary
    uncertainty: Uncertainty


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax in float64 of logits `[M, N, K]`, rounded to float32.

    These are the values in a prediction file, and the only input of all figures.
    """
    result = np.empty(logits.shape, np.float32)
    # Logits of a diverged member are infinite or NaN; its probabilities become NaN.
    with np.errstate(invalid="ignore"):
        # One member at a time: a thousand of them in float64 are gigabytes.
        for member, values in enumerate(logits):
            result[member] = special.softmax(np.float64(values), axis=-1)
    return result


def compute_scores(
    probability: np.ndarray, label: np.ndarray, reconstruction: float | None = None
) -> Scores:
    """Scores of probabilities `[N, K]` with labels int `[N]`; see the formulas of this module."""
    scores = basic_scores(probability, label)
    basic = vars(scores)
    if scores.accuracy is None:
        return Scores(**basic)
    classes = probability.shape[-1]
    # Counting pairs costs O(N); a product of one-hot matrices costs O(N K^2).
    pairs = label.astype(int) * classes + probability.argmax(-1)
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    totals = confusion.sum(1)
    # JSON has no NaN, so 0 / 0 is None.
    per_class = [float(confusion[k, k] / totals[k]) if totals[k] else None for k in range(classes)]
    present = np.flatnonzero(totals)
    rates = confusion.diagonal()[present] / totals[present]
    per_class_scores = score_classes(confusion)
    return Scores(
        **basic,
        per_class_accuracy=per_class,
        confusion=confusion.tolist(),
        reconstruction=reconstruction,
        interval=list(accuracy_interval(int(confusion.trace()), len(label))),
        balanced_accuracy=float(rates.mean()),
        worst_class=int(present[rates.argmin()]),
        per_class=per_class_scores,
        macro_f1=macro_f1(per_class_scores),
    )


def basic_scores(probability: np.ndarray, label: np.ndarray) -> BasicScores:
    """Accuracy, NLL, ECE and Brier score of probabilities `[N, K]`."""
    if not len(label) or not np.isfinite(probability).all():
        return BasicScores(None, None, None, None, len(label))
    probability = np.asarray(probability, np.float64)
    true = probability[np.arange(len(label)), label]
    one_hot = np.eye(probability.shape[-1])[label]
    return BasicScores(
        accuracy=float((probability.argmax(-1) == label).mean()),
        nll=float(-log_probability(true).mean()),
        ece=calibration_error(probability, label),
        brier=float(((probability - one_hot) ** 2).sum(-1).mean()),
        count=len(label),
    )


def member_scores(probability: np.ndarray, label: np.ndarray) -> MemberScores:
    """Scores of each member, `{score: [M values]}`, from probabilities `[M, N, K]`."""
    members = [basic_scores(values, label) for values in probability]
    return {name: [getattr(scores, name) for scores in members] for name in SCORES}


def assess(
    probability: np.ndarray,
    label: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    coverage: float = COVERAGE,
    reconstruction: float | None = None,
) -> Assessment:
    """Assess a classifier or an ensemble on a split.

    Args:
        probability: float32 `[M, N, K]`, N at least 1, all finite.
        label: int `[N]`.
        validation: probabilities `[M, V, K]` and labels `[V]`, to fit the temperature and the
            prediction sets. None if `probability` is of the validation split itself: a fitted
            figure is not measured on the examples of its fit.
        coverage: target coverage of the prediction sets, in (0, 1).
        reconstruction: mean squared error of the decoder.
    """
    mean = mean_probability(probability)
    scores = compute_scores(mean, label, reconstruction)
    members = member_scores(probability, label)
    # A single member cannot disagree with itself.
    several = len(probability) > 1
    disagreement = float(mutual_information(probability).mean()) if several else None
    temperature = calibrated = conformal = None
    if validation is not None and len(validation[1]):
        held_out = (mean_probability(validation[0]), validation[1])
        temperature = fit_temperature(*held_out)
        # The predicted class stays the same, so the confusion matrix does too.
        calibrated = basic_scores(apply_temperature(mean, temperature), label)
        if len(validation[1]) >= needed_examples(coverage):
            conformal = measure_sets(held_out, mean, label, coverage)
    uncertainty = Uncertainty(
        predictive_entropy=float(predictive_entropy(mean).mean()),
        mutual_information=disagreement,
        aurc=area_under_risk_coverage(mean, label),
        temperature=temperature,
        calibrated=calibrated,
        conformal=conformal,
    )
    return Assessment(scores, members, summarise(members, vars(scores)), uncertainty)


def summarise(members: MemberScores, ensemble: Mapping[str, float]) -> Summary:
    """Summarise the scores of the members beside those of their ensemble."""
    spreads = {name: _spread(np.array(members[name], float), ensemble[name]) for name in SCORES}
    # A gain of 0.01 means more at an accuracy of 0.98 than at 0.5.
    errors = 1 - spreads["accuracy"].mean
    avoided = spreads["accuracy"].gain / errors if errors else None
    return Summary(**spreads, fewer_errors=avoided)


def _spread(values: np.ndarray, ensemble: float) -> Spread:
    mean = float(values.mean())
    gain = ensemble - mean
    count = len(values)
    if count < 2:
        return Spread(mean, None, None, None, ensemble, gain)
    std = float(values.std(ddof=1))
    # Few members: Student's quantile, which is 2.8 for M = 5, and not the normal's 1.96.
    half = float(special.stdtrit(count - 1, 0.975)) * std / math.sqrt(count)
    return Spread(mean, std, mean - half, mean + half, ensemble, gain)


def prediction_file(probability: np.ndarray, label: np.ndarray, index: np.ndarray) -> bytes:
    """Content of a prediction file (npz), as `--save-predictions` writes it.

    Args:
        probability: float32 `[N, K]`, or `[M, N, K]` for members.
        label: int `[N]`.
        index: int `[N]`, rows in the source.
    """
    numbers = {"label": label.astype(np.int32), "index": index.astype(np.int32)}
    return arrays_file({"probability": probability, **numbers})


def arrays_file(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Content of an npz file with these arrays."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()
