"""Scores against hand-made numbers and against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

import twostage_jax as ts
from twostage_jax.engine.passes import sum_scores
from twostage_jax.scores.metrics import per_class_accuracy, score_sums, scores


def identity(params, image):
    """Logits that were put into the images."""
    return image[:, 0, 0, :]


def as_split(logits, label, **more):
    image = np.asarray(logits, np.float32)[:, None, None, :]
    return {"image": image, "label": np.asarray(label, np.int32), **more}


def test_golden_values():
    # Probabilities 0.8/0.2 (right), 0.6/0.4 (wrong), 0.3/0.7 (right).
    probability = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    result = ts.evaluate(identity, {}, as_split(np.log(probability), [0, 1, 1]))
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["nll"] == pytest.approx(-np.log([0.8, 0.4, 0.7]).mean(), rel=1e-6)
    assert result["brier"] == pytest.approx((0.08 + 0.72 + 0.18) / 3, rel=1e-6)
    # Each confidence is alone in its bin: gaps 0.2, 0.6 and 0.3.
    assert result["ece"] == pytest.approx((0.2 + 0.6 + 0.3) / 3, rel=1e-6)
    assert result["count"] == 3
    assert set(result) == {"accuracy", "nll", "ece", "brier", "count"}


def test_ece_averages_within_a_bin():
    # Confidences 0.75 and 0.79 share the bin (11/15, 12/15]; one of the two is right.
    probability = np.array([[0.75, 0.25], [0.79, 0.21]])
    result = ts.evaluate(identity, {}, as_split(np.log(probability), [0, 1]))
    assert result["ece"] == pytest.approx(0.77 - 0.5, rel=1e-5)


def test_ece_has_fifteen_bins_closed_above():
    # 0.68 and 0.72 lie in (10/15, 11/15]; with ten bins they would be parted.
    probability = np.array([[0.68, 0.32], [0.72, 0.28]])
    result = ts.evaluate(identity, {}, as_split(np.log(probability), [0, 1]))
    assert result["ece"] == pytest.approx(0.70 - 0.5, rel=1e-5)
    edge = jnp.array([[0.5, 0.5, 0.0]])  # exactly 7.5 bins: in (7/15, 8/15]
    sums = score_sums(jnp.log(edge + 1e-30), jnp.array([0]), jnp.ones(1))
    assert np.flatnonzero(sums.bins[0]).tolist() == [7]
    certain = score_sums(jnp.array([[50.0, 0.0]]), jnp.array([0]), jnp.ones(1))
    assert np.flatnonzero(certain.bins[0]).tolist() == [14]


def test_scores_of_half_precision_logits_are_computed_in_full():
    logits = jnp.array([[1.0, 0.25, -0.5]], jnp.bfloat16)
    sums = score_sums(logits, jnp.array([0]), jnp.ones(1))
    assert sums.nll.dtype == jnp.float32
    np.testing.assert_allclose(
        sums.nll, -jax.nn.log_softmax(logits.astype(jnp.float32))[0, 0], rtol=1e-6
    )


def test_certain_and_right_is_perfect():
    result = ts.evaluate(identity, {}, as_split([[100.0, 0.0]], [0]))
    assert (result["accuracy"], result["ece"], result["brier"]) == (1, 0, 0)


def test_against_scikit_learn():
    random = np.random.RandomState(0)
    logits, label = random.normal(size=(2311, 5)), random.randint(0, 5, 2311)
    split = as_split(logits, label)
    result = ts.evaluate(identity, {}, split)
    probability = np.asarray(jax.nn.softmax(logits))
    predicted = logits.argmax(-1)
    assert result["accuracy"] == pytest.approx(
        sklearn.metrics.accuracy_score(label, predicted), rel=1e-6
    )
    assert result["nll"] == pytest.approx(sklearn.metrics.log_loss(label, probability), rel=1e-5)
    brier = ((probability - np.eye(5)[label]) ** 2).sum(1).mean()
    assert result["brier"] == pytest.approx(brier, rel=1e-5)
    sums = sum_scores(identity, {}, split)
    confusion = sklearn.metrics.confusion_matrix(label, predicted)
    np.testing.assert_array_equal(sums.confusion, confusion)
    recall = sklearn.metrics.recall_score(label, predicted, average=None)
    np.testing.assert_allclose(per_class_accuracy(sums.confusion), recall, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 31, 1000])
def test_every_example_counts_once_whatever_the_batch(batch_size):
    random = np.random.RandomState(1)
    split = as_split(random.normal(size=(31, 3)), random.randint(0, 3, 31))
    result = ts.evaluate(identity, {}, split, batch_size)
    whole = ts.evaluate(identity, {}, split, 31)
    assert result["count"] == 31
    for name in whole:
        np.testing.assert_allclose(result[name], whole[name], rtol=1e-5)


def test_examples_of_weight_zero_do_not_count():
    split = as_split([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [0, 0, 0])
    part = {name: values[[0, 2]] for name, values in split.items()}
    weighted = ts.evaluate(identity, {}, split | {"weight": np.array([1, 0, 1], np.float32)})
    for name, value in ts.evaluate(identity, {}, part).items():
        np.testing.assert_allclose(weighted[name], value, rtol=1e-6)


def test_evaluate_vmaps_over_parameters():
    split = as_split(np.eye(3), [0, 1, 2])

    def scaled(params, image):
        return identity(params, image) * params

    result = jax.vmap(lambda p: ts.evaluate(scaled, p, split))(jnp.array([1.0, -1.0]))
    np.testing.assert_allclose(result["accuracy"], [1, 0])


def test_no_examples_give_nan_not_zero():
    sums = score_sums(jnp.ones((2, 3)), jnp.zeros(2, jnp.int32), jnp.zeros(2))
    assert np.isnan(scores(sums)["accuracy"])
