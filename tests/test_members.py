"""Ensembles and sweeps: members are the runs alone, whatever they are placed on."""

import json

import jax
import numpy as np
import pytest

import twostage_jax as ts
from twostage_jax import cli, uncertainty
from twostage_jax.config import HeadConfig, PretrainConfig
from twostage_jax.members import flip_labels
from twostage_jax.sweep import grid, parse_sweep
from twostage_jax.terminal import Terminal


@pytest.fixture(autouse=True)
def _keys_of_members_are_sliced_for_each_chunk():
    # One array of keys is cut anew for each chunk and epoch, which jax takes for reuse.
    with jax.debug_key_reuse(False):
        yield


SHORT = {"pretrain": PretrainConfig(epochs=2), "head": HeadConfig(epochs=2)}


def go(out, **given):
    return ts.run(ts.Config(out=out, **{**SHORT, **given}), terminal=Terminal(quiet=True))


def probability(result):
    return np.load(result.folder / "predictions-test.npz")["probability"]


def test_members_are_the_runs_of_their_seeds(tmp_path):
    both = go(tmp_path / "both", members=2, seed=5, save_predictions=True)
    for member in range(2):
        one = go(tmp_path / str(member), seed=5 + member, save_predictions=True)
        np.testing.assert_allclose(probability(both)[member], probability(one), atol=1e-5)
        assert both.record["member_test"]["accuracy"][member] == one.record["test"]["accuracy"]
    mean = probability(both).mean(0)
    label = ts.load("digits").test["label"]
    assert both.record["test"]["accuracy"] == pytest.approx((mean.argmax(-1) == label).mean())


def test_a_sweep_is_chosen_on_validation_and_leaves_out_what_diverges(tmp_path):
    given = {"members": 2, "share": ("encoder",), "sweep": ("head.learning-rate=1e-3,1e30",)}
    record = go(tmp_path / "sweep", **given).record
    assert record["sweep"]["chosen"] == 0
    assert len(record["member_test"]["accuracy"]) == 2
    assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 1000
    head = HeadConfig(epochs=2, learning_rate=1e-3)
    alone = go(tmp_path / "alone", head=head).record
    assert record["member_test"]["accuracy"][0] == alone["test"]["accuracy"]


def test_the_grid_is_the_product_of_its_fields():
    assert grid(parse_sweep(["noise=0,0.1", "head.weight-decay=1,2"]))[1] == {
        "noise": 0.0,
        "head.weight-decay": 2.0,
    }


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--members 0", "--members is 0: give a whole number of at least 1"),
        ("--members -3", "at least 1"),
        ("--sweep head.learning-rat=1,2", "head.learning-rate"),
        ("--sweep head.epochs=1,2", "decides what is compiled"),
        ("--sweep head.learning-rate", "is not whole"),
        ("--members 2 --mesh member=77", "make the product"),
        ("--sweep pretrain.learning-rate=1,2 --share encoder", "one encoder for all"),
    ],
)
def test_a_mistake_is_one_line(flags, says, tmp_path, capsys):
    assert cli.main(["run", "--out", str(tmp_path / "x"), *flags.split()]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and says in err


def test_flips_are_as_many_as_asked_and_nested():
    label = np.arange(100) % 4
    some = flip_labels(jax.random.key(0), label, 0.1, 4)
    more = flip_labels(jax.random.key(0), label, 0.3, 4)
    assert ((some != label).sum(), (more != label).sum()) == (10, 30)
    assert not np.any((some != label) & (more == label))


def test_ensembles_in_chunks_are_vmap(split):
    stage, tx = ts.autoencoder(ts.MLP((8,)), ts.MLP((16,))), ts.adam(1e-2)
    train = ts.make_train(stage, tx, 32, 1)
    starts, keys = jax.random.split(jax.random.key(0), 5), jax.random.split(jax.random.key(1), 5)
    states = jax.vmap(lambda key: ts.init_state(stage, tx, key, split))(starts)
    whole = jax.vmap(train, in_axes=(0, None, 0))(states, split, jax.random.clone(keys))
    parts = ts.ensemble(train, members_per_chunk=2)(states, split, keys)
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_uncertainty_by_hand():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    label = np.array([0, 1, 1])
    assert uncertainty.scores(p, label)["brier"] == pytest.approx((0.02 + 0.08 + 0.72) / 3)
    assert uncertainty.aurc(p, label) == pytest.approx((0 + 0 + 1 / 3) / 3)
    assert uncertainty.detection(np.array([0, 1, 2]), np.array([1.5, 3]))["auroc"] == 5 / 6
    assert uncertainty.needed_examples(0.95) == 19
    assert uncertainty.mutual_information(np.stack([p, p])).max() < 1e-12
    with pytest.raises(ts.UserError, match="at least 19 validation examples and there are 3"):
        uncertainty.conformal_threshold(p, label, 0.95)


def test_a_run_can_be_told_from_another_source(tmp_path, capsys):
    go(tmp_path / "run")
    data, random = ts.load("digits"), np.random.RandomState(0)
    noise = random.randint(0, 255, (60, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "ood.npz", image=noise, label=np.arange(60) % data.test["label"].max())
    flags = ["--ood", f"npz:{tmp_path / 'ood.npz'}", "--coverage", "0.9", "--save-predictions"]
    assert cli.main(["evaluate", str(tmp_path / "run"), *flags]) == 0
    assert "mahalanobis" in capsys.readouterr().out
    assert np.load(tmp_path / "run" / "predictions-ood.npz")["inside_energy"].shape == (359,)
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["uncertainty"]["temperature"] > 0
