"""Rules of rejection: shares of known images, the choice of a score, traced arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twostage_jax.scores.detection import Outputs, fit_gaussians, outlier_scores
from twostage_jax.scores.figures import probabilities
from twostage_jax.scores.rejection import (
    BY_DEFAULT,
    BY_ENTROPY,
    BY_OTHER_CLASS,
    Rule,
    accepted_rank,
    fit_rule,
    needed_images,
    reject,
    rejection_score,
)

RANDOM = np.random.RandomState(0)
CENTRES = 6 * np.eye(3, 4)


def known(count, seed):
    """Features of three classes around their centres, and labels."""
    random = np.random.RandomState(seed)
    label = random.randint(0, 3, count)
    return CENTRES[label] + random.normal(size=(count, 4)), label


def outputs(features):
    """Outputs of a classifier that reads the first three features, as two members."""
    logits = np.float32(np.stack([features[:, :3], 1.1 * features[:, :3]]))
    return Outputs(probabilities(logits), logits, np.float32(features)[None])


GAUSSIANS = [fit_gaussians(*known(600, 1))]


@pytest.mark.parametrize("count", [19, 39, 500])
def test_a_new_known_image_is_rejected_with_at_most_the_target(count):
    shares = []
    for seed in range(40):
        rule = fit_rule(outputs(known(count, 100 + seed)[0]), GAUSSIANS).rule
        _, rejected = reject(outputs(known(500, 2 + seed)[0]), rule, GAUSSIANS)
        shares.append(rejected.mean())
    assert 0.02 < np.mean(shares) <= 0.058  # two standard errors for 40 fits


def test_on_its_own_images_a_rule_rejects_the_rest_of_the_rank():
    inside = outputs(known(100, 3)[0])
    for gaussians in ([], GAUSSIANS):
        rule = fit_rule(inside, gaussians).rule
        rank = accepted_rank(100, limits=max(1, len(rule.limits)))
        assert reject(inside, rule, gaussians)[1].sum() == 100 - rank
    assert needed_images(0.05) == 19 and accepted_rank(19) == 19


def test_uncertain_and_unusual_images_are_both_rejected_by_default():
    fitted = fit_rule(outputs(known(400, 4)[0]), GAUSSIANS)
    assert (fitted.rule.score, fitted.chosen_by) == ("combined", BY_DEFAULT)
    between = np.tile(CENTRES[:2].mean(0), (5, 1))  # two classes are equally probable
    unusual = CENTRES[[0, 1, 2]] + [0, 0, 0, 9]  # the classifier does not read this feature
    for features in (between, unusual):
        scores, rejected = reject(outputs(features), fitted.rule, GAUSSIANS)
        assert rejected.all() and (scores > 1).all()
    entropy = fit_rule(outputs(known(400, 4)[0]), [])
    assert (entropy.rule.score, entropy.chosen_by) == ("entropy", BY_ENTROPY)
    assert not reject(outputs(unusual), entropy.rule, [])[1].any()


def test_images_of_another_class_choose_the_score_that_separates_them():
    outside = outputs(CENTRES[RANDOM.randint(0, 3, 50)] + [0, 0, 0, 3])
    fitted = fit_rule(outputs(known(400, 5)[0]), GAUSSIANS, outside)
    assert (fitted.rule.score, fitted.chosen_by) == ("mahalanobis", BY_OTHER_CLASS)
    assert max(fitted.auroc, key=fitted.auroc.get) == "mahalanobis"
    assert set(fitted.auroc) == {*outlier_scores(outside, GAUSSIANS), "combined"}


def test_traced_arrays_of_jax_have_the_scores_of_numpy():
    inside = outputs(known(60, 6)[0])
    rule = fit_rule(inside, GAUSSIANS).rule
    rules = [Rule(name, 0.0) for name in outlier_scores(inside, GAUSSIANS)]
    for case in (*rules, rule):
        score = jax.jit(lambda x, case=case: rejection_score(x, case, GAUSSIANS))
        traced = score(Outputs(*map(jnp.asarray, inside)))
        expected = rejection_score(inside, case, GAUSSIANS)
        np.testing.assert_allclose(traced, expected, rtol=2e-4, atol=2e-5)
        assert expected.dtype == np.float64
