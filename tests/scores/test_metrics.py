"""Sums of scores on the device: additive, weighted, in full precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twostage_jax.scores import metrics
from twostage_jax.scores.figures import compute_scores
from twostage_jax.scores.metrics import mean_scores

RANDOM = np.random.RandomState(0)
LOGITS = jnp.asarray(RANDOM.normal(size=(211, 5)), jnp.float32)
LABEL = jnp.asarray(RANDOM.randint(0, 5, 211), jnp.int32)
ONES = jnp.ones(211)
# One compiled program for each shape is faster than many single operations.
score_sums = jax.jit(metrics.score_sums)


def test_scores_equal_those_of_the_host():
    device = mean_scores(score_sums(LOGITS, LABEL, ONES))
    host = compute_scores(np.asarray(jax.nn.softmax(LOGITS)), np.asarray(LABEL))
    assert set(device) == {"accuracy", "nll", "ece", "brier", "count"}
    for name, value in device.items():
        assert float(value) == pytest.approx(getattr(host, name), rel=1e-5)


def test_sums_of_two_parts_add_up():
    first = score_sums(LOGITS[:106], LABEL[:106], ONES[:106])
    rest = score_sums(LOGITS[106:], LABEL[106:], ONES[106:])
    whole = score_sums(LOGITS, LABEL, ONES)
    for part, other, total in zip(first, rest, whole, strict=True):
        np.testing.assert_allclose(part + other, total, rtol=1e-5, atol=1e-5)


def test_examples_of_weight_zero_do_not_count():
    kept = jnp.arange(0, 211, 2)
    weight = ONES.at[1::2].set(0)
    weighted = mean_scores(score_sums(LOGITS, LABEL, weight))
    subset = mean_scores(score_sums(LOGITS[kept], LABEL[kept], ONES[kept]))
    for name, value in subset.items():
        np.testing.assert_allclose(weighted[name], value, rtol=1e-5)


def test_without_examples_a_score_is_nan_and_the_count_is_zero():
    empty = mean_scores(score_sums(LOGITS, LABEL, 0 * ONES))
    assert np.isnan(empty["accuracy"]) and empty["count"] == 0


def test_half_precision_logits_are_scored_in_float32():
    logits = LOGITS[:1].astype(jnp.bfloat16)
    sums = score_sums(logits, LABEL[:1], ONES[:1])
    expected = -jax.nn.log_softmax(logits.astype(jnp.float32))[0, LABEL[0]]
    assert sums.nll.dtype == jnp.float32
    np.testing.assert_allclose(sums.nll, expected, rtol=1e-6)


def test_bins_of_confidence_are_closed_above():
    # Confidence 0.5 is 7.5 bins, in (7/15, 8/15]. Confidence 1 is in the last bin.
    half = score_sums(jnp.log(jnp.array([[0.5, 0.5, 1e-30]])), jnp.array([0]), jnp.ones(1))
    certain = score_sums(jnp.array([[50.0, 0.0]]), jnp.array([0]), jnp.ones(1))
    assert np.flatnonzero(half.confidence).tolist() == [7]
    assert np.flatnonzero(certain.correct).tolist() == [14]


@pytest.mark.parametrize("bad", [-1, 5, 255])
def test_labels_out_of_range_do_not_count_or_make_all_scores_nan(bad):
    label = LABEL.at[::3].set(bad)
    weight = ONES.at[::3].set(0)
    # Not even NaN reaches the scores from an example that does not count.
    logits = LOGITS.at[0].set(jnp.nan)
    expected = mean_scores(score_sums(LOGITS, LABEL, weight))
    for name, value in mean_scores(score_sums(logits, label, weight)).items():
        assert value == expected[name]
    undefined = mean_scores(score_sums(LOGITS, label, ONES))
    assert undefined.pop("count") == 211
    assert all(np.isnan(value) for value in undefined.values())


def test_one_nan_among_the_logits_makes_all_scores_nan():
    scores = mean_scores(score_sums(LOGITS.at[3, 1].set(jnp.nan), LABEL, ONES))
    assert all(np.isnan(value) for name, value in scores.items() if name != "count")


def test_an_impossible_class_has_no_probability_and_costs_nothing():
    impossible = LOGITS.at[:, 4].set(-jnp.inf)
    label = LABEL % 4
    reduced = mean_scores(score_sums(LOGITS[:, :4], label, ONES))
    for name, value in mean_scores(score_sums(impossible, label, ONES)).items():
        np.testing.assert_allclose(value, reduced[name], rtol=1e-5)
