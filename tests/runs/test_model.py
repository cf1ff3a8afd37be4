"""`open_model`: a run's folder as a classifier."""

import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax.errors import UserError
from twostage_jax.runs.model import open_model


@pytest.fixture(scope="module")
def test(data):
    return ts.load(data, tiny.VALIDATION).test


@pytest.fixture(scope="module")
def model(done):
    return open_model(done)


def test_probabilities_are_those_of_the_run(done, trio, test):
    for folder in (done, trio):
        run = ts.open_run(folder)
        model = open_model(str(folder))
        expected = run.probabilities(test["image"])
        np.testing.assert_array_equal(model.probabilities(test["image"]), expected)
        np.testing.assert_array_equal(model.predict(test["image"]), expected.argmax(-1))
        assert model.classes == run.classes and model.image_shape == (4, 4, 1)


def test_an_assessment_has_the_temperature_and_the_sets_of_the_run(done, model, test):
    uncertainty = ts.open_run(done).record.uncertainty
    answer = model.assess(test["image"])
    logs = np.log(np.float64(model.probabilities(test["image"])))
    expected = np.exp(logs / uncertainty.temperature)
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(answer.probability, expected, atol=1e-6)
    covered = answer.sets[np.arange(tiny.TEST), test["label"]].mean()
    assert covered == uncertainty.conformal.measured
    assert answer.sets.sum(-1).mean() == uncertainty.conformal.mean_size


def test_an_assessment_rejects_the_images_that_the_run_rejects(done, trio, test):
    for folder in (done, trio):
        run = ts.open_run(folder)
        score, rejected = run.reject(test["image"])
        answer = open_model(folder).assess(test["image"])
        np.testing.assert_array_equal(answer.score, score)
        np.testing.assert_array_equal(answer.rejected, rejected)
        assert rejected.mean() == run.rejection.known_rejected


def test_few_images_are_assessed_as_many_are(model, test):
    many = model.assess(test["image"])
    few = model.assess(test["image"][:3])
    np.testing.assert_allclose(few.probability, many.probability[:3], atol=1e-5)
    np.testing.assert_array_equal(few.sets, many.sets[:3])
    assert model.assess(test["image"][:0]).probability.shape == (0, tiny.CLASSES)


def test_a_run_without_a_head_is_refused(shared, data):
    folder = shared("pretrained", lambda out: tiny.run(tiny.config(data, out), pretrain_only=True))
    with pytest.raises(UserError, match="has no head"):
        open_model(folder)
    with pytest.raises(UserError, match="give the path"):
        open_model(3)
