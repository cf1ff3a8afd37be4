"""Members: bit for bit the single trainings, in chunks of any size, cut anywhere."""

from functools import cache, partial

import jax
import numpy as np
import optax
import pytest

import twostage_jax as ts
from tests.engine.tiny import (
    CLASSIFIER,
    ENCODER,
    HEAD,
    SPLIT,
    Alone,
    Training,
    Trial,
    compile_members,
    finish,
    fit_step_by_step,
    make_split,
    member_keys,
    plain,
    select_member,
    train_members,
)
from twostage_jax.engine.epoch import shuffle
from twostage_jax.engine.loop import fit
from twostage_jax.engine.members import TrialData
from twostage_jax.engine.state import TrainState
from twostage_jax.trees import PyTree


@cache
def training(members: int, chunk: int, count: int = 70) -> Training:
    """Members of the tiny classifier on so many examples."""
    trial = plain(CLASSIFIER, make_split(count))
    return Training(trial, compile_members(trial, members, chunk))


def assert_close(actual: PyTree, expected: PyTree, member: int, rtol: float = 1e-6) -> None:
    """Compare metrics; each program may round their sums in another order."""
    for name in expected:
        np.testing.assert_allclose(actual[name][member], expected[name], rtol=rtol)


def assert_member(
    result: tuple[TrainState, PyTree], member: int, expected: tuple[TrainState, PyTree]
) -> None:
    """Compare one member with a single training: state bit for bit, metrics closely."""
    assert ts.digest(select_member(result[0], member)) == ts.digest(expected[0])
    assert_close(result[1], expected[1], member)


def blog_trial(name: str) -> Trial:
    """A stage of the blog's widths on 40 examples: a full batch and a remainder."""
    if name == "autoencoder":
        stage = ts.autoencoder(ts.MLP((256, 128)), ts.MLP((256, 784)))
        return plain(stage, make_split(40, (28, 28, 1)), 1e-3)
    features = np.random.RandomState(0).normal(size=(40, 128)).astype(np.float32)
    data = {"image": features, "label": make_split(40)["label"]}
    return plain(ts.classifier(ts.Identity(), ts.MLP((64, 10))), data, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "chunks"), [("autoencoder", (5,)), ("head", (5, 2))])
def test_members_of_the_blogs_widths_equal_single_trainings_bit_for_bit(name, chunks):
    """Three lanes on each device, one of them padding; one lane and a smaller last chunk."""
    trial = blog_trial(name)
    single = Alone(trial)
    expected = [single(member) for member in range(5)]
    for chunk in chunks:
        result = train_members(trial, 5, chunk)
        for member in range(5):
            assert_member(result, member, expected[member])


@pytest.mark.parametrize("count", [70, 64, 20])
def test_one_scan_equals_calls_of_any_length(count):
    started = training(1, 1, count)
    expected = Alone(started.trial)(0)
    for seconds in (0, 9):
        positions = started.go(2, fit=partial(fit, seconds_per_call=seconds))
        assert_member(finish(positions), 0, expected)


def test_a_training_cut_anywhere_resumes_with_chunks_of_any_size():
    """Members that were cut at different steps continue together, to the same bits."""
    expected, means = finish(training(5, 5).go(2))
    for cut_chunk, resumed_chunk in ((5, 2), (2, 5)):
        resumed = training(5, resumed_chunk)
        positions = training(5, cut_chunk).go(2, fit=fit_step_by_step)
        for progress in positions:
            if progress.epoch == 2:
                break
            state, metrics = finish(resumed.go(2, progress.state, progress.sums))
            assert ts.digest(state) == ts.digest(expected)
            for name, values in metrics.items():
                np.testing.assert_allclose(values[:, -1], means[name][:, -1], rtol=1e-6)
        assert next(positions, None) is None


def test_positions_count_the_part_of_the_epoch_that_is_done():
    fractions = [p.fraction for p in training(5, 2).go(2, fit=fit_step_by_step)]
    assert fractions == sorted(set(fractions))
    # 2 epochs of 3 chunks with 2 positions before the remainder; the rest ends an epoch.
    np.testing.assert_allclose(fractions[0], 1 / 3 * 2 / 5)
    assert [x for x in fractions if x == int(x)] == [1, 2]


def test_states_within_an_epoch_are_fetched_only_if_wanted():
    positions = training(5, 2).go(1, wanted=lambda: False, fit=fit_step_by_step)
    assert all((p.state is None) == (p.metrics is None) for p in positions)
    silent, _ = finish(training(5, 2).go(2, wanted=lambda: False, fit=fit_step_by_step))
    assert ts.digest(silent) == ts.digest(finish(training(5, 2).go(2))[0])


def test_a_complete_training_is_left_alone():
    state, _ = finish(training(1, 1).go(1))
    assert list(training(1, 1).go(1, state)) == []


def test_the_caller_keeps_its_state():
    started = training(5, 2)
    state = started.start()
    before = ts.digest(state)
    finish(started.go(1, state))
    assert ts.digest(state) == before


def test_calls_to_the_device_transfer_nothing_implicitly():
    def guarded(*arguments):
        positions = fit_step_by_step(*arguments)
        while True:
            with jax.transfer_guard("disallow"):
                progress = next(positions, None)
            if progress is None:
                return
            yield progress

    *_, last = training(5, 2).go(2, fit=guarded)
    assert last.epoch == 2


def test_members_differ_in_labels_and_rates_and_share_an_encoder_and_an_order():
    """Everything that members of a sweep can differ in, and everything that they can share."""
    encoder = ENCODER.init(jax.random.key(3), ts.as_image(SPLIT["image"][:1]))

    def recipe(numbers):
        tx = ts.adam(numbers["learning_rate"], weight_decay=0.1)
        return CLASSIFIER, ts.freeze(tx, "encoder")

    def labels(members: np.ndarray) -> np.ndarray:
        return (SPLIT["label"] + members[:, None]) % 3

    trial = Trial(
        recipe,
        TrialData({"image": SPLIT["image"]}, {"label": labels}),
        numbers={"learning_rate": np.float32([1e-2, 2e-2, 3e-2])},
        pretrained={"encoder": jax.device_get(encoder)},
        state_axes=TrainState({"encoder": None, "head": 0}, 0, 0),
        order=None,
    )
    single = Alone(trial)
    # Members share the order of member 0.
    key = member_keys(1, 1)[0]
    order = np.stack([shuffle(jax.random.clone(key), epoch, 70)[0] for epoch in range(2)])
    state, metrics = train_members(trial, 3, 2)
    assert ts.digest(state.params["encoder"]) == ts.digest(encoder)
    for member in range(3):
        expected, means = single(member, order)
        head = select_member(state.params["head"], member)
        assert ts.digest(head) == ts.digest(expected.params["head"])
        assert_close(metrics, means, member)


def test_stage_2_on_cached_features_equals_the_encoder_in_the_loop():
    tx = ts.freeze(optax.adam(1e-2), "encoder")
    state = ts.init_state(CLASSIFIER, tx, jax.random.key(0), SPLIT)
    features = ts.encode(ENCODER.apply, state.params["encoder"], SPLIT["image"])
    on_features = ts.Stage(CLASSIFIER.init, ts.classifier(ts.Identity(), HEAD).loss)
    results = []
    for stage, image in ((CLASSIFIER, SPLIT["image"]), (on_features, features)):
        train = jax.jit(ts.make_train(stage, tx, 32, 3))
        results.append(train(state, {**SPLIT, "image": image}, jax.random.key(1)))
    (looped, means), (cached, same) = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), cached, looped)
    for name in means:
        np.testing.assert_allclose(same[name], means[name], rtol=1e-5)
