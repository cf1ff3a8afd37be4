"""Figures of uncertainty against numbers made by hand, and against scikit-learn and scipy."""

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.covariance
import sklearn.metrics

import twostage_jax as ts
from twostage_jax.scores import uncertainty

HALF = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
LABEL = np.array([0, 1, 1])


def random_probability(count=400, classes=5, seed=0):
    random = np.random.RandomState(seed)
    probability = random.dirichlet(np.ones(classes) * 0.7, count)
    # Labels as a temperature of 2 would have them.
    true = np.sqrt(probability) / np.sqrt(probability).sum(-1, keepdims=True)
    return probability, np.array([random.choice(classes, p=p) for p in true])


def test_scores_by_hand():
    found = uncertainty.scores(HALF, LABEL)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["nll"] == pytest.approx(-np.log([0.9, 0.8, 0.4]).mean())
    assert found["brier"] == pytest.approx((0.02 + 0.08 + 0.72) / 3)
    # Each confidence is alone in its bin: gaps 0.1, 0.2 and 0.6.
    assert found["ece"] == pytest.approx((0.1 + 0.2 + 0.6) / 3)
    assert found["count"] == 3


def test_scores_are_those_of_scikit_learn_and_of_the_device():
    probability, label = random_probability()
    found = uncertainty.scores(probability, label)
    assert found["nll"] == pytest.approx(sklearn.metrics.log_loss(label, probability))
    assert found["accuracy"] == sklearn.metrics.accuracy_score(label, probability.argmax(-1))
    brier = np.mean(
        [((probability[:, k] - (label == k)) ** 2).mean() for k in range(probability.shape[1])]
    )
    assert found["brier"] == pytest.approx(brier * probability.shape[1])
    split = {"image": np.log(probability)[:, None, None, :].astype("f4"), "label": label}
    same = ts.evaluate(lambda params, image: image[:, 0, 0, :], {}, split)
    for name in ("accuracy", "nll", "ece", "brier"):
        assert found[name] == pytest.approx(float(same[name]), rel=1e-4)


def test_probabilities_are_averaged_not_logits():
    both = np.stack([[[0.9, 0.1]], [[0.3, 0.7]]])
    np.testing.assert_allclose(uncertainty.pool(both), [[0.6, 0.4]])
    np.testing.assert_allclose(uncertainty.pool(both[0]), [[0.9, 0.1]])


def test_a_temperature_by_hand():
    # Always nine to one for class 0, which three of four are: three to one is right, and
    # 9 ** (1 / T) = 3 for T = 2.
    probability = np.tile([[0.9, 0.1]], (4, 1))
    label = np.array([0, 0, 0, 1])
    temperature = uncertainty.fit_temperature(probability, label)
    assert temperature == pytest.approx(2, abs=1e-4)
    cooled = uncertainty.apply_temperature(probability, temperature)
    np.testing.assert_allclose(cooled[0], [0.75, 0.25], atol=1e-5)


def test_a_temperature_has_the_least_log_loss():
    probability, label = random_probability()
    best = uncertainty.fit_temperature(probability, label)
    losses = [
        sklearn.metrics.log_loss(label, uncertainty.apply_temperature(probability, t))
        for t in (best, 0.99 * best, 1.01 * best, 1.0)
    ]
    assert min(losses) == losses[0]


def test_entropy_by_hand_and_as_scipy_has_it():
    assert uncertainty.predictive_entropy(np.full((1, 4), 0.25))[0] == pytest.approx(math.log(4))
    assert uncertainty.predictive_entropy(np.array([[1.0, 0.0]]))[0] == 0
    probability, _ = random_probability()
    expected = scipy.stats.entropy(probability, axis=1)
    np.testing.assert_allclose(uncertainty.predictive_entropy(probability), expected)


def test_mutual_information_is_what_members_disagree_about():
    sure, other = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert uncertainty.mutual_information(np.stack([sure, other]))[0] == pytest.approx(math.log(2))
    # Both unsure in the same way: entropy, but no disagreement.
    same = np.stack([HALF, HALF])
    np.testing.assert_allclose(uncertainty.mutual_information(same), 0, atol=1e-12)


def test_energy_by_hand():
    assert uncertainty.energy(np.zeros((1, 2)))[0] == pytest.approx(-math.log(2))
    members = np.stack([np.zeros((1, 2)), np.full((1, 2), 3.0)])
    assert uncertainty.energy(members)[0] == pytest.approx(-math.log(2) - 1.5)


def test_mahalanobis_by_hand():
    # Two classes at -1 and 5, both of variance 1: a point at 2 is three deviations from either.
    features = np.array([[-2.0], [0.0], [4.0], [6.0]])
    gaussians = uncertainty.fit_gaussians(features, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(uncertainty.mahalanobis(gaussians, [[-1.0], [2.0]]), [0, 9])


def test_mahalanobis_is_that_of_scikit_learn():
    random = np.random.RandomState(0)
    label = random.randint(0, 3, 300)
    features = random.randn(300, 4) @ random.randn(4, 4) + 2 * label[:, None]
    means = np.stack([features[label == k].mean(0) for k in range(3)])
    both = sklearn.covariance.EmpiricalCovariance(assume_centered=True)
    both.fit(features - means[label])
    points = random.randn(50, 4)
    expected = np.min([both.mahalanobis(points - mean) for mean in means], axis=0)
    gaussians = uncertainty.fit_gaussians(features, label)
    np.testing.assert_allclose(uncertainty.mahalanobis(gaussians, points), expected)


def test_a_dead_unit_does_not_break_mahalanobis():
    features = np.array([[-2.0, 0.0], [0.0, 0.0], [4.0, 0.0], [6.0, 0.0]])
    gaussians = uncertainty.fit_gaussians(features, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(uncertainty.mahalanobis(gaussians, [[2.0, 0.0]]), [9])


def test_detection_by_hand():
    found = uncertainty.detection(np.array([0, 1, 2]), np.array([1.5, 3]))
    assert found["auroc"] == 5 / 6
    # The threshold that lets in 95 % of three lets in all of them, and one of the two outside.
    assert found["fpr95"] == 0.5


def test_detection_is_that_of_scikit_learn():
    random = np.random.RandomState(0)
    inside, outside = random.randint(0, 40, 200), random.randint(10, 60, 150)  # with ties
    truth = np.r_[np.zeros(200), np.ones(150)]
    found = uncertainty.detection(inside, outside)
    score = np.r_[inside, outside]
    assert found["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(truth, score))
    # What is let in is the positive class here, and the score of being let in is the negative one.
    fpr, tpr, _ = sklearn.metrics.roc_curve(1 - truth, -score, drop_intermediate=False)
    assert found["fpr95"] == pytest.approx(fpr[tpr >= 0.95].min())


def test_a_conformal_threshold_by_hand():
    # Scores 0.1, 0.2 and 0.6; half coverage of three wants the ceil(4 / 2) = 2nd smallest.
    assert uncertainty.conformal_threshold(HALF, LABEL, 0.5) == pytest.approx(0.2)
    sets = uncertainty.prediction_sets(np.array([[0.8, 0.2], [0.5, 0.5], [0.81, 0.19]]), 0.2)
    assert sets.tolist() == [[True, False], [False, False], [True, False]]


@pytest.mark.parametrize(("coverage", "needed"), [(0.95, 19), (0.9, 9), (0.5, 1), (0.99, 99)])
def test_how_many_examples_a_coverage_needs(coverage, needed):
    assert uncertainty.needed_examples(coverage) == needed
    probability, label = random_probability(needed)
    uncertainty.conformal_threshold(probability, label, coverage)
    with pytest.raises(ts.UserError, match=f"at least {needed} validation examples and there are"):
        uncertainty.conformal_threshold(probability[1:], label[1:], coverage)


def test_prediction_sets_cover_what_was_asked_for():
    """Over many splits of exchangeable examples, and as often as the interval says."""
    within, measured = 0, []
    for seed in range(300):
        random = np.random.RandomState(seed)
        probability = random.dirichlet(np.ones(4), 300)
        label = np.array([random.choice(4, p=p) for p in probability])
        found = uncertainty.conformal(
            probability[:100], label[:100], probability[100:], label[100:], 0.9
        )
        measured.append(found["measured"])
        within += found["interval"][0] <= found["measured"] <= found["interval"][1]
    # 91 of 101 ranks; the standard error of the mean is 0.002.
    assert np.mean(measured) == pytest.approx(91 / 101, abs=0.006)
    assert 0.92 < within / 300 < 0.99


def test_risk_coverage_by_hand():
    answered, risk = uncertainty.risk_coverage(HALF, LABEL)
    np.testing.assert_allclose(answered, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(risk, [0, 0, 1 / 3])
    assert uncertainty.aurc(HALF, LABEL) == pytest.approx(1 / 9)


def test_risk_coverage_does_not_depend_on_the_order_of_ties():
    probability, label = random_probability()
    probability = np.round(probability, 1) + 1e-3
    order = np.random.RandomState(1).permutation(len(label))
    one = uncertainty.aurc(probability, label)
    assert uncertainty.aurc(probability[order], label[order]) == pytest.approx(one)


def test_the_interval_of_members_is_student_s():
    values = np.array([0.9, 0.92, 0.97])
    found = uncertainty.interval(values)
    expected = scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values))
    assert (found["low"], found["high"]) == pytest.approx(expected)
    assert uncertainty.interval(values[:1]) == {"mean": 0.9, "std": None, "low": None, "high": None}


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1, 2, float("nan")])
def test_a_coverage_outside_is_refused(coverage):
    with pytest.raises(ts.UserError, match="give a number between 0 and 1"):
        uncertainty.needed_examples(coverage)
