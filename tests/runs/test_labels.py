"""Label draws and label noise: few labels for stage 2, all images for stage 1."""

import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax.config.layers import resolve
from twostage_jax.data.labels import draw_labels
from twostage_jax.runs.examples import head_data, make_examples, pretrain_data
from twostage_jax.runs.open import open_run
from twostage_jax.runs.trials import make_trials


@pytest.fixture(scope="session")
def few(shared, data):
    """Three members with nine labels each; tests only read it."""

    def make(folder):
        tiny.run(tiny.config(data, folder, members=3, labels=9, save_predictions=True))

    return shared("few", make)


def make(data, members=3, **options):
    """Examples of the trials of a config."""
    dataset = ts.load(data, tiny.VALIDATION)
    config = resolve(ts.Config(members=members, **options), dataset.image_shape, tiny.VALIDATION)
    trials = make_trials(config)
    return make_examples(config, dataset.lock()[0], trials), trials


def test_stage_1_sees_all_images_and_equals_the_run_with_all_labels(few, trio):
    mine = tiny.outcome(few)
    theirs = tiny.outcome(trio)
    for group in ("encoder", "decoder"):
        assert mine["groups"][group] == theirs["groups"][group]
    assert mine["groups"]["head"] != theirs["groups"]["head"]
    assert mine["metrics"][:2] == theirs["metrics"][:2]
    sizes = mine["result"]["data"]
    assert (sizes["train"], sizes["labelled"], sizes["unlabelled"]) == (76, 9, 67)
    assert tiny.stored(few, "config.json")["labels"] == 9


def test_a_head_with_few_labels_sees_these_examples_alone(done, data, tmp_path):
    """One trial, a solved head, and the encoder of another run."""
    dataset = ts.load(data, tiny.VALIDATION)
    drawn = draw_labels(dataset.train["label"], 9, dataset.classes, 5)
    head = {"protocol": "knn", "set": {"k": 3}}
    config = ts.Config(encoder_run=str(done), out=tmp_path / "run", seed=5, labels=9, head=head)
    result = tiny.run(config)
    sizes = result.record["data"]
    assert (sizes["train"], sizes["labelled"], sizes["unlabelled"]) == (76, 9, 67)
    params = result.params["head"]
    np.testing.assert_array_equal(params["label"], dataset.train["label"][drawn])
    features = open_run(done).predictor.features(dataset.train["image"][drawn])[0]
    length = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-30)
    np.testing.assert_allclose(params["features"], features / length, atol=1e-5)


def test_each_member_has_a_balanced_and_nested_draw(data):
    small, trials = make(data, labels=9)
    large, _ = make(data, labels=30)
    label = small.dataset.train["label"]
    assert small.drawn.shape == small.label.shape == (3, 9) and small.labelled == 9
    assert len({tuple(rows) for rows in small.drawn}) == 3
    for rows, more, labels in zip(small.drawn, large.drawn, small.label, strict=True):
        assert set(rows) < set(more)
        np.testing.assert_array_equal(label[rows], labels)
        assert np.bincount(labels).tolist() == [3, 3, 3]
    features = np.arange(3 * len(small.used), dtype=np.float32).reshape(3, -1, 1)
    rows = head_data(small, features, trials).rows(np.array([2, 0]))
    for row, trial in enumerate((2, 0)):
        expected = features[trial][np.searchsorted(small.used, small.drawn[trial])]
        np.testing.assert_array_equal(rows["image"][row], expected)


def test_stage_1_knows_only_the_labels_that_were_drawn(data):
    examples, _ = make(data, labels=9)
    rows = pretrain_data(examples).rows(np.arange(3))
    assert rows["image"].shape[0] == 76
    for drawn, weight, label in zip(examples.drawn, rows["weight"], rows["label"], strict=True):
        np.testing.assert_array_equal(np.flatnonzero(weight), drawn)
        assert not label[weight == 0].any()
        np.testing.assert_array_equal(label[drawn], examples.dataset.train["label"][drawn])
    # A supervised stage 1 has the noise of stage 2.
    noisy, _ = make(data, noise=0.5, pretrain={"objective": "supervised"})
    labels = pretrain_data(noisy).rows(np.arange(3))["label"]
    np.testing.assert_array_equal(labels, noisy.label)
    assert (labels != noisy.dataset.train["label"]).mean() == pytest.approx(0.5)


def test_noise_flips_labels_of_the_draw_and_is_nested_over_a_sweep(data):
    clean, _ = make(data, labels=30)
    noisy, trials = make(data, labels=30, sweep={"noise": (0.1, 0.3)})
    np.testing.assert_array_equal(noisy.drawn, np.concatenate([clean.drawn, clean.drawn]))
    flipped = noisy.label != np.concatenate([clean.label, clean.label])
    assert flipped.sum(1).tolist() == [3] * 3 + [9] * 3
    assert not (flipped[:3] & ~flipped[3:]).any()


def test_the_share_of_noise_is_that_of_the_chosen_point(data, tmp_path):
    options = {"labels": 9, "members": 3, "sweep": {"noise": (0.34,)}}
    record = tiny.run(tiny.config(data, tmp_path / "run", **options)).record
    assert record["data"]["noise"] == pytest.approx(0.34)
    assert record["sweep"]["chosen"] == 0


def test_few_labels_in_the_loop_end_at_the_same_head_though_the_run_is_cut(few, data, tmp_path):
    options = {"labels": 9, "members": 3, "head": {"encode": "loop"}, "save_predictions": True}
    config = tiny.config(data, tmp_path / "run", **options)
    # Nine labels are one step per epoch of stage 2.
    tiny.resume(tiny.cut(config, 2 * tiny.STEPS + 1))
    saved = [np.load(folder / "predictions-test.npz") for folder in (few, config.out)]
    np.testing.assert_allclose(*(file["probability"] for file in saved), atol=1e-4)
