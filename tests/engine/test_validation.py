"""Validation figures: means over all examples, the same for members, and no part of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twostage_jax as ts
from tests.engine.tiny import (
    CLASSIFIER,
    SPLIT,
    Training,
    compile_members,
    fit_step_by_step,
    make_split,
    plain,
    select_member,
)
from twostage_jax.engine.members import TrialData
from twostage_jax.engine.validation import make_validate
from twostage_jax.stages.dropout import training_key

KEY = jax.random.key(0)


def measure(stage, params, split, batch_size=32):
    return jax.jit(make_validate(stage, batch_size))(params, split, KEY)


def last(positions):
    """States on the host after training, and the validation figures of all epochs."""
    figures = []
    state = None
    for progress in positions:
        state = progress.state
        if progress.metrics is not None:
            figures.append(progress.validation)
    return state, figures


def test_figures_are_means_over_all_examples():
    """Two batches of 32 and a remainder of 6 give what one batch of 70 gives."""
    params = CLASSIFIER.init(KEY, ts.as_batch(SPLIT))
    loss, metrics = CLASSIFIER.loss(params, KEY, ts.as_batch(SPLIT))
    figures = measure(CLASSIFIER, params, SPLIT)
    np.testing.assert_allclose(figures["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(figures["accuracy"], metrics["accuracy"], rtol=1e-6)
    np.testing.assert_allclose(measure(CLASSIFIER, params, SPLIT, 100)["loss"], loss, rtol=1e-5)


def test_a_stage_says_how_many_examples_its_means_are_over():
    def loss(params, key, batch):
        counted = batch["label"] == 0
        total = jnp.where(counted, batch["image"].mean((1, 2, 3)), 0.0).sum()
        return total / counted.sum(), {"count": counted.sum()}

    split = make_split(70)
    expected = np.asarray(ts.as_image(split["image"]))[split["label"] == 0].mean()
    figures = measure(ts.Stage(lambda key, batch: {}, loss), {}, split)
    assert list(figures) == ["loss"]
    np.testing.assert_allclose(figures["loss"], expected, rtol=1e-5)


def test_each_batch_has_random_numbers_of_its_own_and_dropout_is_off():
    def loss(params, key, batch):
        assert training_key(key) is None
        return jax.random.uniform(key), {}

    stage = ts.Stage(lambda key, batch: {}, loss)
    first, half = (float(measure(stage, {}, make_split(n))["loss"]) for n in (32, 64))
    assert 0 < first < 1 and half != first
    assert float(measure(stage, {}, make_split(32))["loss"]) == first
    assert training_key(KEY) is KEY


def test_no_examples_are_an_error():
    with pytest.raises(ValueError, match="no validation examples"):
        make_validate(CLASSIFIER, 32)({}, make_split(0), KEY)


@pytest.mark.parametrize(("chunk", "calls"), [(3, 4), (1, 10)])
def test_members_have_the_figures_of_their_own_parameters(chunk, calls):
    """In any chunks, after every epoch, wherever it is cut; training does not change a bit."""
    split = make_split(41)
    own = {"image": lambda members: np.stack([split["image"]] * len(members))}
    validation = TrialData({"label": split["label"]}, own)
    trial = plain(CLASSIFIER)._replace(validation=validation)
    training = Training(trial, compile_members(trial, 3, chunk))
    assert training.programs.validate is not None
    state, figures = last(training.go(2))
    assert len(figures) == 2 and figures[0]["loss"].shape == (3,)
    validate = jax.jit(make_validate(CLASSIFIER, 32))
    for member in range(3):
        key = jax.random.clone(training.keys[member])
        params = select_member(state.params, member)
        expected = validate(params, split, key)
        for name, value in expected.items():
            np.testing.assert_allclose(figures[1][name][member], value, rtol=1e-6)
    # Within the second epoch, after some members have finished it.
    *_, cut = (
        jax.tree.map(np.array, (progress.state, dict(progress.sums)))
        for progress, _ in zip(training.go(2, fit=fit_step_by_step), range(calls), strict=False)
    )
    resumed, again = last(training.go(2, *cut))
    for name in figures[1]:
        np.testing.assert_array_equal(again[-1][name], figures[1][name])
    assert ts.digest(state) == ts.digest(resumed)
    # The programs of training are those without validation.
    without = training.programs._replace(validate=None)
    other, none = last(Training(plain(CLASSIFIER), without).go(2))
    assert none == [{}, {}] and ts.digest(other) == ts.digest(state)
