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
"""

import io
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
from twostage_jax.scores.conformal import Conformal, measure_sets, needed_examples
from twostage_jax.scores.detection import mean_probability, mutual_information, predictive_entropy
from twostage_jax.scores.members import SCORES, MemberScores, Summary, summarise

COVERAGE = 0.95  # of prediction sets; it needs 19 validation examples


@dataclass(frozen=True)
class BasicScores:
    """Four scores of N examples; all None if N is 0.

    Attributes:
        accuracy: in [0, 1].
        nll: mean negative log-likelihood, in nats.
        ece: expected calibration error in [0, 1]; see `calibration.calibration_error`.
        brier: in [0, 2], summed over classes (Brier, "Verification of Forecasts", 1950).
        count: N.
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
    """

    per_class_accuracy: list[float | None] | None = None
    confusion: list[list[int]] | None = None
    reconstruction: float | None = None


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
    """All figures of a classifier, or of an ensemble of M members, on a split.

    Attributes:
        scores: of the mean probability of the members.
        members: `{score: [M values]}`.
        summary: spread of the members.
        uncertainty: calibration, entropy and prediction sets.
    """

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
    """Scores of probabilities `[N, K]` with labels int `[N]`; see the formulas of this module.

    >>> scores = compute_scores(np.array([[0.8, 0.2], [0.6, 0.4]]), np.array([0, 1]))
    >>> scores.accuracy, scores.confusion
    (0.5, [[1, 0], [1, 0]])
    """
    if not len(label):
        return Scores(None, None, None, None, 0)
    classes = probability.shape[-1]
    # Counting pairs costs O(N); a product of one-hot matrices costs O(N K^2).
    pairs = label.astype(int) * classes + probability.argmax(-1)
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    totals = confusion.sum(1)
    per_class = [float(confusion[k, k] / totals[k]) if totals[k] else None for k in range(classes)]
    basic = vars(basic_scores(probability, label))
    return Scores(
        **basic,
        per_class_accuracy=per_class,
        confusion=confusion.tolist(),
        reconstruction=reconstruction,
    )


def basic_scores(probability: np.ndarray, label: np.ndarray) -> BasicScores:
    """Accuracy, NLL, ECE, Brier score and count of probabilities `[N, K]`, N at least 1."""
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
    """Scores of each member, `{score: [M values]}`, from probabilities `[M, N, K]`.

    The values are None without examples, and for a member with NaN among its probabilities.
    """
    members = [_scores_if_finite(values, label) for values in probability]
    return {name: [getattr(scores, name) for scores in members] for name in SCORES}


def _scores_if_finite(probability: np.ndarray, label: np.ndarray) -> BasicScores:
    # JSON has no NaN.
    if not len(label) or not np.isfinite(probability).all():
        return BasicScores(None, None, None, None, len(label))
    return basic_scores(probability, label)


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
    scores = compute_scores(mean_probability(probability), label, reconstruction)
    members = member_scores(probability, label)
    return Assessment(
        scores=scores,
        members=members,
        summary=summarise(members, vars(scores)),
        uncertainty=measure_uncertainty(probability, label, validation, coverage),
    )


def measure_uncertainty(
    probability: np.ndarray,
    label: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray] | None,
    coverage: float,
) -> Uncertainty:
    """Figures of uncertainty; the arguments are those of `assess`."""
    mean = mean_probability(probability)
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
    return Uncertainty(
        predictive_entropy=float(predictive_entropy(mean).mean()),
        mutual_information=disagreement,
        aurc=area_under_risk_coverage(mean, label),
        temperature=temperature,
        calibrated=calibrated,
        conformal=conformal,
    )


def prediction_file(probability: np.ndarray, label: np.ndarray, index: np.ndarray) -> bytes:
    """Content of a prediction file (npz), as `--save-predictions` writes it.

    Args:
        probability: float32 `[N, K]`, or `[M, N, K]` for members.
        label: int `[N]`.
        index: int `[N]`, rows in the source.
    """
    arrays = {
        "probability": probability,
        "label": label.astype(np.int32),
        "index": index.astype(np.int32),
    }
    return arrays_file(arrays)


def arrays_file(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Content of an npz file with these arrays."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()
