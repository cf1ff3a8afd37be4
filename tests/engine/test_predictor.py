"""A predictor: each program traced at most once, and any selection of its trials."""

from collections import Counter

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests.engine.tiny import ENCODER, HEAD, SPLIT
from twostage_jax.engine.predictor import Network, Predictor

IMAGES = SPLIT["image"]


def logits_of(variables, image):
    numbers, params = variables
    features = ENCODER.apply(params["encoder"], image)
    return numbers["scale"] * HEAD.apply(params["head"], features)


def make_predictor(shared: bool) -> tuple[Predictor, Counter]:
    """A predictor of three trials, and a count of the traces of its functions."""
    traces = Counter()

    def logits(variables, image):
        traces["logits"] += 1
        return logits_of(variables, image)

    def features(params, image):
        traces["features"] += 1
        return ENCODER.apply(params, image)

    stage = ts.classifier(ENCODER, HEAD)
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.vmap(lambda key: stage.init(key, ts.as_batch(SPLIT)))(keys)
    if shared:
        params["encoder"] = jax.tree.map(lambda leaf: leaf[0], params["encoder"])
    axes = {"encoder": None if shared else 0, "head": 0}
    numbers = {"scale": np.float32([1, 2, 3])}
    predictor = Predictor(Network(logits, features), numbers, params, axes, IMAGES.shape[1:], 32)
    return predictor, traces


@pytest.mark.parametrize("shared", [True, False])
def test_trials_predict_as_their_networks_and_compile_once(shared):
    predictor, traces = make_predictor(shared)
    logits = predictor.logits(IMAGES)
    features = predictor.features(IMAGES)
    assert logits.shape == (3, 70, 3)
    assert features.shape == (1 if shared else 3, 70, 5)
    image = ts.as_image(IMAGES)
    for trial in range(3):
        encoder = predictor.params["encoder"]
        if not shared:
            encoder = jax.tree.map(lambda leaf, trial=trial: leaf[trial], encoder)
        head = jax.tree.map(lambda leaf, trial=trial: leaf[trial], predictor.params["head"])
        numbers = {"scale": predictor.numbers["scale"][trial]}
        expected = logits_of((numbers, {"encoder": encoder, "head": head}), image)
        np.testing.assert_allclose(logits[trial], expected, atol=1e-5)
        row = 0 if shared else trial
        np.testing.assert_allclose(features[row], ENCODER.apply(encoder, image), atol=1e-6)
    before = dict(traces)
    for count in (0, 1, 33):
        np.testing.assert_array_equal(predictor.logits(IMAGES[:count]), logits[:, :count])
        np.testing.assert_array_equal(predictor.features(IMAGES[:count]), features[:, :count])
    assert dict(traces) == before


@pytest.mark.parametrize("shared", [True, False])
def test_a_selection_predicts_as_its_trials_with_the_same_program(shared):
    predictor, traces = make_predictor(shared)
    logits = predictor.logits(IMAGES)
    features = predictor.features(IMAGES)
    before = traces["logits"]
    for trials in ([2], [2, 0], [0, 1, 2]):
        selected = predictor.select(np.array(trials))
        assert selected.trials == len(trials)
        np.testing.assert_array_equal(selected.logits(IMAGES), logits[trials])
        kept = [0] if shared else trials
        np.testing.assert_allclose(selected.features(IMAGES), features[kept], atol=1e-6)
    assert traces["logits"] == before
