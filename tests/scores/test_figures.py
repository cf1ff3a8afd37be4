"""Figures of a run: by hand, by scikit-learn, and recomputed from a prediction file."""

import io

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics

from twostage_jax.scores.figures import (
    SCORES,
    Scores,
    assess,
    compute_scores,
    member_scores,
    prediction_file,
    probabilities,
    summarise,
)
from twostage_jax.scores.interval import accuracy_interval
from twostage_jax.scores.sweep import SweepPoint, choose_point

RANDOM = np.random.RandomState(0)
LOGITS = RANDOM.normal(size=(3, 200, 5)).astype(np.float32)
LABEL = RANDOM.randint(0, 4, 200).astype(np.int32)  # class 4 has no examples
PROBABILITY = probabilities(LOGITS)
VALIDATION = (PROBABILITY[:, :100], LABEL[:100])
TEST = (PROBABILITY[:, 100:], LABEL[100:])


def test_scores_by_hand():
    probability = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    scores = compute_scores(probability, np.array([0, 1, 1]), reconstruction=0.5)
    assert scores.accuracy == 2 / 3 and scores.count == 3
    assert scores.nll == pytest.approx(-np.log([0.9, 0.8, 0.4]).mean())
    assert scores.brier == pytest.approx((0.02 + 0.08 + 0.72) / 3)
    # Each confidence is alone in its bin: the gaps are 0.1, 0.2 and 0.6.
    assert scores.ece == pytest.approx((0.1 + 0.2 + 0.6) / 3)
    assert scores.confusion == [[1, 0], [1, 1]]
    assert scores.per_class_accuracy == [1, 0.5]
    assert scores.reconstruction == 0.5
    assert (scores.balanced_accuracy, scores.worst_class) == (0.75, 1)
    assert scores.interval == list(accuracy_interval(2, 3))


@pytest.mark.parametrize(
    ("confidences", "ece"),
    [
        # 0.75 and 0.79 share the bin (11/15, 12/15].
        ((0.75, 0.79), 0.77 - 0.5),
        # 0.68 and 0.72 share the bin (10/15, 11/15]; ten bins would separate them.
        ((0.68, 0.72), 0.70 - 0.5),
        # 0.65 is in the bin below.
        ((0.65, 0.72), (0.35 + 0.72) / 2),
    ],
)
def test_calibration_error_has_fifteen_bins(confidences, ece):
    probability = np.array([[p, 1 - p] for p in confidences])
    assert compute_scores(probability, np.array([0, 1])).ece == pytest.approx(ece)


def test_scores_equal_those_of_scikit_learn():
    scores = compute_scores(PROBABILITY[0], LABEL)
    predicted = PROBABILITY[0].argmax(-1)
    assert scores.accuracy == sklearn.metrics.accuracy_score(LABEL, predicted)
    loss = sklearn.metrics.log_loss(LABEL, PROBABILITY[0], labels=range(5))
    assert scores.nll == pytest.approx(loss, rel=1e-6)
    confusion = sklearn.metrics.confusion_matrix(LABEL, predicted, labels=range(5))
    assert scores.confusion == confusion.tolist()
    recall = sklearn.metrics.recall_score(LABEL, predicted, average=None, labels=range(4))
    assert scores.per_class_accuracy == [*recall.tolist(), None]
    assert scores.balanced_accuracy == pytest.approx(recall.mean())
    assert scores.worst_class == recall.argmin()
    # Class 4 has no examples, but predictions.
    f1 = sklearn.metrics.f1_score(LABEL, predicted, average="macro", zero_division=0)
    assert scores.macro_f1 == pytest.approx(f1)
    precision = sklearn.metrics.precision_score(LABEL, predicted, average=None, zero_division=0)
    assert [row.precision for row in scores.per_class] == pytest.approx(precision)
    assert [row.recall for row in scores.per_class] == scores.per_class_accuracy
    for row in scores.per_class[:4]:
        hits = round(row.recall * row.count)
        assert row.interval == list(accuracy_interval(hits, row.count))
    assert scores.per_class[4].interval is None


@pytest.mark.parametrize("members", [1, 3])
def test_figures_follow_exactly_from_a_prediction_file(members):
    saved = PROBABILITY[0] if members == 1 else PROBABILITY
    file = np.load(io.BytesIO(prediction_file(saved, LABEL, np.arange(5, 205))))
    assert file["probability"].dtype == np.float32 and file["index"].tolist() == list(range(5, 205))
    assert file["label"].dtype == file["index"].dtype == np.int32
    # The formulas in the docstring of `figures`.
    p = file["probability"].astype(np.float64)
    p = p.mean(0) if p.ndim == 3 else p
    label = file["label"]
    correct = p.argmax(-1) == label
    true = p[np.arange(200), label]
    bins = np.clip(np.ceil(p.max(-1) * 15).astype(int) - 1, 0, 14)
    scores = assess(PROBABILITY[:members], LABEL).scores
    assert scores.accuracy == correct.mean()
    assert scores.nll == -np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean()
    assert scores.brier == ((p - np.eye(5)[label]) ** 2).sum(-1).mean()
    assert scores.ece == np.abs(np.bincount(bins, correct - p.max(-1))).sum() / 200
    for true_class in range(5):
        predicted = [((label == true_class) & (p.argmax(-1) == k)).sum() for k in range(5)]
        assert scores.confusion[true_class] == predicted
        rate = predicted[true_class] / sum(predicted) if sum(predicted) else None
        assert scores.per_class_accuracy[true_class] == rate


def test_a_prediction_file_repeats_the_whole_assessment():
    files = [prediction_file(*part, np.arange(100)) for part in (VALIDATION, TEST)]
    validation, test = (np.load(io.BytesIO(file)) for file in files)
    again = assess(
        test["probability"], test["label"], (validation["probability"], validation["label"])
    )
    assert again == assess(*TEST, VALIDATION)


def test_probabilities_are_the_softmax_rounded_to_float32():
    expected = scipy.special.softmax(np.float64(LOGITS), axis=-1)
    assert PROBABILITY.dtype == np.float32
    np.testing.assert_array_equal(PROBABILITY, expected.astype(np.float32))


def test_an_ensemble_averages_probabilities_not_logits():
    probability = np.float32([[[0.9, 0.1]], [[0.3, 0.7]]])
    scores = assess(probability, np.array([0])).scores
    assert scores.nll == pytest.approx(-np.log(0.6))
    assert assess(probability, np.array([0])).members["accuracy"] == [1, 0]


def test_member_scores_are_those_of_each_member_alone():
    scores = member_scores(PROBABILITY, LABEL)
    alone = [compute_scores(member, LABEL) for member in PROBABILITY]
    assert scores == {name: [getattr(s, name) for s in alone] for name in scores}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_member_has_no_scores_and_the_others_keep_theirs(value):
    logits = LOGITS.copy()
    logits[1, 7] = value
    scores = member_scores(probabilities(logits), LABEL)
    healthy = member_scores(PROBABILITY, LABEL)
    for name, values in scores.items():
        assert values == [healthy[name][0], None, healthy[name][2]]


def test_no_examples_give_no_scores():
    nothing = np.zeros(0, np.int32)
    assert compute_scores(np.zeros((0, 5)), nothing) == Scores(None, None, None, None, 0)
    assert member_scores(np.zeros((2, 0, 5)), nothing)["nll"] == [None, None]


def test_fitted_figures_need_validation_examples_and_coverage_needs_enough():
    empty = (PROBABILITY[:, :0], LABEL[:0])
    for validation in (None, empty):
        uncertainty = assess(*TEST, validation).uncertainty
        fitted = (uncertainty.temperature, uncertainty.calibrated, uncertainty.conformal)
        assert fitted == (None, None, None)
    # A coverage of 0.95 needs 19 examples.
    assert assess(*TEST, (PROBABILITY[:, :18], LABEL[:18])).uncertainty.conformal is None
    assert assess(*TEST, (PROBABILITY[:, :19], LABEL[:19])).uncertainty.conformal is not None
    assert assess(*TEST, (PROBABILITY[:, :9], LABEL[:9]), coverage=0.9).uncertainty.conformal


def test_a_single_member_has_no_mutual_information():
    assert assess(PROBABILITY[:1], LABEL).uncertainty.mutual_information is None
    assert assess(PROBABILITY, LABEL).uncertainty.mutual_information > 0


def test_the_interval_of_the_mean_is_that_of_student():
    values = np.array([0.9, 0.92, 0.97])
    members = dict.fromkeys(SCORES, values.tolist())
    row = summarise(members, dict.fromkeys(SCORES, 0.95)).brier
    expected = scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values))
    assert (row.low, row.high) == pytest.approx(expected)
    assert row.std == pytest.approx(values.std(ddof=1))
    assert row.gain == pytest.approx(0.02)


def test_one_member_has_a_mean_only():
    row = summarise(dict.fromkeys(SCORES, [0.9]), dict.fromkeys(SCORES, 0.9)).nll
    assert (row.mean, row.std, row.low, row.high, row.gain) == (0.9, None, None, None, 0)


@pytest.mark.parametrize(("accuracy", "expected"), [([0.8, 0.9], 1 / 3), ([1.0, 1.0], None)])
def test_avoided_errors_are_a_share_of_the_mean_members_errors(accuracy, expected):
    ensemble = dict.fromkeys(SCORES, 0.5) | {"accuracy": 0.9 if expected else 1.0}
    members = {name: [0.4, 0.6] for name in SCORES} | {"accuracy": accuracy}
    summary = summarise(members, ensemble)
    assert summary.fewer_errors == (expected and pytest.approx(expected))
    assert summary.nll.gain == pytest.approx(0)


def point(members, accuracy=(), nll=()):
    return SweepPoint({"noise": 0}, members, {"accuracy": list(accuracy), "nll": list(nll)})


def test_a_sweep_chooses_accuracy_first_and_nll_second():
    points = [
        point(2, [0.8, 0.9], [0.1, 0.1]),
        point(2, [0.9, 0.9], [0.5, 0.7]),
        point(1, [0.9], [0.4]),
        point(0),
    ]
    assert choose_point(points) == 2
    assert choose_point(points[:2]) == 1
    assert choose_point([SweepPoint({}, 3, None)]) == 0
