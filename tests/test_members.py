"""Ensembles and sweeps: members are the runs alone, whatever they are placed on."""

import json
import shutil

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests.interruption import stopped_after
from twostage_jax import cli
from twostage_jax.config.schema import HeadConfig, PretrainConfig
from twostage_jax.config.sweep import grid, parse_sweep
from twostage_jax.data.labels import flip_labels
from twostage_jax.engine import memory
from twostage_jax.engine.compile import compile_all
from twostage_jax.engine.members import Axes, lower_members
from twostage_jax.engine.memory import Need, choose_chunk, estimate
from twostage_jax.engine.placement import Placement, make_mesh
from twostage_jax.engine.state import make_init
from twostage_jax.runs import programs
from twostage_jax.runs import run as pipeline
from twostage_jax.scores.figures import uncertain
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import Interrupted
from twostage_jax.trees import shapes_of

pytestmark = pytest.mark.xdist_group("members")


@pytest.fixture(autouse=True)
def _keys_of_members_are_sliced_for_each_chunk():
    # One array of keys is cut anew for each chunk and epoch, which jax takes for reuse.
    with jax.debug_key_reuse(False):
        yield


SHORT = {"pretrain": PretrainConfig(epochs=2), "head": HeadConfig(epochs=2)}


def go(out, **given):
    return ts.run(ts.Config(out=out, **{**SHORT, **given}), terminal=Terminal(quiet=True))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An ordinary run, to evaluate."""
    return go(tmp_path_factory.mktemp("runs") / "done").folder


@pytest.fixture
def run(done, tmp_path):
    return shutil.copytree(done, tmp_path / "run")


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
    assert record["ensemble"]["diverged"] == [
        f"member {m} (seed {m}) at head.learning-rate=1e+30" for m in range(2)
    ]
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


def test_a_run_can_be_told_from_another_source(run, tmp_path, capsys):
    data, random = ts.load("digits"), np.random.RandomState(0)
    noise = random.randint(0, 255, (60, *data.image_shape)).astype(np.uint8)
    np.savez(tmp_path / "ood.npz", image=noise, label=np.zeros(60, int))  # of a single class
    flags = ["--ood", f"npz:{tmp_path / 'ood.npz'}", "--coverage", "0.9", "--save-predictions"]
    assert cli.main(["evaluate", str(run), *flags]) == 0
    assert "mahalanobis" in capsys.readouterr().out
    saved = np.load(run / "predictions-ood.npz")
    assert saved["inside_energy"].shape == (359,) and saved["outside_energy"].shape == (60,)
    record = json.loads((run / "result.json").read_text())
    assert record["uncertainty"]["temperature"] > 0


def mistake(capsys, *argv):
    """The one line that a mistake gets."""
    assert cli.main([str(word) for word in argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("twostage: error: ") and err.count("\n") == 1
    return err


def test_evaluate_refuses_what_it_cannot_do(run, tmp_path, capsys):
    small = np.zeros((10, 4, 4, 1), np.uint8)
    np.savez(tmp_path / "small.npz", image=small, label=np.arange(10))
    evaluate = ("evaluate", run)
    said = mistake(capsys, *evaluate, "--ood", f"npz:{tmp_path / 'small.npz'}")
    assert "images [4, 4, 1]" in said and "takes images [8, 8, 1]" in said
    for coverage in ("0", "1", "1.5", "nan"):
        said = mistake(capsys, *evaluate, "--coverage", coverage)
        assert "give a number between 0 and 1" in said
    said = mistake(capsys, *evaluate, "--coverage", "0.999")
    assert "needs at least 999 validation examples and there are 143" in said


def test_every_figure_follows_from_the_saved_probabilities(tmp_path):
    result = go(tmp_path / "run", members=3, save_predictions=True)
    parts = [np.load(tmp_path / "run" / f"predictions-{p}.npz") for p in ("validation", "test")]
    assert [part["probability"].shape for part in parts] == [(3, 143, 10), (3, 359, 10)]
    assert all(part["probability"].dtype == np.float32 for part in parts)
    again = uncertain(*((part["probability"], part["label"]) for part in parts))
    assert again == result.record["uncertainty"]
    mean = parts[1]["probability"].mean(0)
    true = mean[np.arange(359), parts[1]["label"]]
    assert result.record["test"]["nll"] == pytest.approx(-np.log(true).mean(), rel=1e-5)


@pytest.mark.parametrize("moments", [60, 220])
def test_an_interrupted_sweep_resumes_to_the_same_bits(tmp_path, moments):
    given = {"members": 2, "sweep": ("head.learning-rate=1e-3,3e-3",), "members_per_chunk": 1}
    whole = go(tmp_path / "whole", **given)
    with stopped_after(moments), pytest.raises(Interrupted):
        go(tmp_path / "cut", **given)
    again = ts.Config(out=tmp_path / "cut")
    cut = ts.run(again, resume=True, terminal=Terminal(quiet=True))
    assert ts.digest(cut.params) == ts.digest(whole.params)
    for one, other in zip(lines(cut), lines(whole), strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    assert cut.record | {"seconds": 0} == whole.record | {"seconds": 0}


@pytest.mark.parametrize(("first", "then"), [(1, 4), (3, 2)])
def test_a_run_cut_with_one_size_of_chunk_goes_on_with_another(tmp_path, first, then):
    whole = go(tmp_path / "whole", members=4)
    with stopped_after(150), pytest.raises(Interrupted):  # amid an epoch, between the members
        go(tmp_path / "cut", members=4, members_per_chunk=first)
    again = ts.Config(out=tmp_path / "cut", members_per_chunk=then)
    cut = ts.run(again, resume=True, terminal=Terminal(quiet=True))
    assert ts.digest(cut.params) == ts.digest(whole.params)
    assert cut.record["member_test"] == whole.record["member_test"]


def test_a_mesh_cannot_make_members_of_an_ordinary_run(tmp_path):
    with stopped_after(1), pytest.raises(Interrupted):
        go(tmp_path / "cut")
    again = ts.Config(out=tmp_path / "cut", mesh="member=1")
    with pytest.raises(ts.UserError, match="mesh None -> member=1; resume it without mesh"):
        ts.run(again, resume=True, terminal=Terminal(quiet=True))


def test_a_sweep_without_validation_is_refused_wherever_that_comes_from(tmp_path, capsys):
    go(tmp_path / "none", validation=0)
    flags = ("--from", tmp_path / "none", "--sweep", "head.learning-rate=1e-3,1e-2")
    assert "--validation is 0: give it examples" in mistake(capsys, "head", *flags)
    result = go(tmp_path / "one", validation=0, sweep=("head.learning-rate=1e-3",))
    assert result.record["sweep"]["chosen"] == 0


def test_finite_parameters_that_give_nothing_finite_have_diverged_too(tmp_path):
    head = HeadConfig(epochs=1, batch_size=2000)  # one step
    record = go(tmp_path / "sweep", head=head, sweep=("head.learning-rate=1e-3,1e25",)).record
    assert record["ensemble"]["diverged"] == ["member 0 (seed 0) at head.learning-rate=1e+25"]


def test_what_a_sweep_reports_is_of_the_point_that_was_chosen(tmp_path):
    given = {"sweep": ("pretrain.learning-rate=1e-6,1e-3",), "save_predictions": True}
    result = go(tmp_path / "sweep", **given)
    assert result.record["sweep"]["chosen"] == 1
    last = [line for line in lines(result) if line["stage"] == "pretrain"][-1]
    assert result.record["pretrain"]["loss"] == last["members"]["loss"][1]
    assert probability(result).shape == (359, 10)  # one member
    noisy = go(tmp_path / "noise", sweep=("noise=0.3",)).record
    assert noisy["data"]["noise"] == pytest.approx(0.3)


def test_nothing_fitted_is_measured_on_validation(run, tmp_path, capsys):
    evaluate = ("evaluate", str(run), "--split", "validation")
    assert cli.main(evaluate) == 0
    said = capsys.readouterr().out
    assert "temperature" not in said and "covered by sets" not in said
    assert "are fitted on validation" in mistake(capsys, *evaluate, "--coverage", "0.9")
    go(tmp_path / "few", validation=10)
    assert cli.main(["evaluate", str(tmp_path / "few")]) == 0
    assert "there are 10" in mistake(capsys, "evaluate", tmp_path / "few", "--coverage", "0.95")


def lines(result):
    text = (result.folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_points_of_the_head_share_encoders_that_run_once(tmp_path, monkeypatch):
    passes = []
    encode_in_calls = pipeline.encode_in_calls

    def counted(*args):
        passes.append(args)
        return encode_in_calls(*args)

    monkeypatch.setattr(pipeline, "encode_in_calls", counted)
    sweep = ("head.learning-rate=1e-3,2e-3,3e-3",)
    record = go(tmp_path / "sweep", members=2, sweep=sweep, members_per_chunk=1).record
    assert len(passes) == 2  # of two encoders, though six heads train on them
    head = HeadConfig(epochs=2, learning_rate=2e-3)
    alone = go(tmp_path / "alone", seed=1, head=head).record
    point = record["sweep"]["points"][1]
    assert point["values"] == {"head.learning-rate": 0.002}
    assert point["validation"]["accuracy"][1] == alone["validation"]["accuracy"]
    assert point["validation"]["nll"][1] == pytest.approx(alone["validation"]["nll"], rel=1e-5)


OWN = """
import jax
import twostage_jax as ts
from flax import linen as nn


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.relu(nn.Dense(12, name="dense")(image.reshape(len(image), -1)))


def contrast(encoder, decoder, temperature=1.0):
    stage = ts.autoencoder(encoder, decoder)

    def loss(params, key, batch):
        value, metrics = stage.loss(params, key, batch)
        return value / temperature + 0 * jax.random.normal(key), metrics

    return ts.Stage(stage.init, loss)
"""


def test_a_user_s_own_encoder_and_keyword_are_swept_in_one_program(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_of_members.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    lowered, lower = [], programs.lower_members

    def counted(*args):
        lowered.append(args)
        return lower(*args)

    monkeypatch.setattr(programs, "lower_members", counted)
    first = {"encoder": "own_of_members:Encoder", "objective": "own_of_members:contrast"}
    given = {"members": 2, "pretrain": PretrainConfig(epochs=1, **first)}
    sweep = ("pretrain.temperature=0.5,1,2",)
    record = go(tmp_path / "sweep", sweep=sweep, **given).record
    assert len(lowered) == 2  # one program a stage, whatever the number of values
    assert len(record["sweep"]["points"]) == 3
    assert record["ensemble"]["encoders"] == 2
    losses = next(json.loads(x) for x in (tmp_path / "sweep" / "metrics.jsonl").open())
    each = np.array(losses["members"]["loss"]).reshape(3, 2)
    assert (each[0] > each[1]).all() and (each[1] > each[2]).all()
    with pytest.raises(ts.UserError, match="did you mean 'pretrain.temperature'"):
        go(tmp_path / "wrong", sweep=("pretrain.temperatur=1,2",), **given)


def test_a_chunk_by_hand(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 10_000)
    need = Need(state=100, member=900, common=400)
    # 0.8 of the memory for two devices that share it: (4,000 - 400) / 900 each.
    assert choose_chunk(need, 20, 2, given=8) == 8
    with pytest.raises(ts.UserError, match="at most --members-per-chunk 8 would fit"):
        choose_chunk(need, 20, 2, given=9)
    # Three chunks of at most 8 are made equal.
    assert choose_chunk(need, 20, 2) == 8
    assert choose_chunk(need, 18, 2) == 6
    with pytest.raises(ts.UserError, match="take a smaller batch, encoder or data"):
        choose_chunk(Need(100, 9000, 400), 1, 2)


def test_a_chunk_that_cannot_fit_is_a_mistake_before_anything_is_written(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(memory, "free_bytes", lambda: 50_000_000)
    out = tmp_path / "run"
    flags = ["--members", "64", "--members-per-chunk", "64", "--out", out]
    assert "at most --members-per-chunk" in mistake(capsys, "run", *flags)
    assert not out.exists()


@pytest.mark.parametrize("batch_size", [32, 256])
@pytest.mark.parametrize("which", ["autoencoder", "head"])
def test_the_estimate_is_within_30_percent_of_what_the_program_takes(which, batch_size):
    image, label = np.zeros((5000, 28, 28, 1), np.uint8), np.zeros(5000, np.int32)
    stage = ts.autoencoder(ts.MLP((256, 128)), ts.MLP((256, 784)))
    if which == "head":
        image, stage = (
            np.zeros((5000, 128), np.float32),
            ts.classifier(ts.Identity(), ts.MLP((64,))),
        )
    data = {"image": image, "label": label}
    few, tx, shapes = {name: x[:2] for name, x in data.items()}, ts.adam(1e-3), shapes_of(data)
    state = jax.eval_shape(make_init(stage, tx), jax.random.key(0), few, {})
    need = estimate(stage, state, shapes, batch_size, Axes())
    placement = Placement(make_mesh(4), 4, 4)
    lowered = lower_members(
        lambda _: (stage, tx), {}, few, {}, shapes, batch_size, Axes(), placement
    )
    found = compile_all(lowered).epoch.advance.memory_analysis()
    taken = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    taken -= found.alias_size_in_bytes
    assert placement.lanes * need.member + need.common == pytest.approx(taken, rel=0.3)


def test_public_names_stay_what_they_are_once_their_modules_are_imported():
    for name in ts.__all__:
        assert getattr(ts, name) is getattr(ts, name), name
        assert not isinstance(getattr(ts, name), type(ts)), name


def test_an_ensemble_of_any_function(split):
    def power(base, exponent):
        return {"power": base**exponent}

    found = ts.ensemble(power, in_axes=(0, None))(np.arange(5.0, dtype=np.float32), np.float32(2))
    np.testing.assert_allclose(found["power"], [0, 1, 4, 9, 16])
    with pytest.raises(ts.UserError, match="gives no argument a member axis"):
        ts.ensemble(power, in_axes=(None, None))(np.float32(1), np.float32(2))
    with pytest.raises(ts.UserError, match=r"member axes are \[2, 3\] long"):
        ts.ensemble(power, in_axes=(0, 0))(np.ones(3, np.float32), np.ones(2, np.float32))
    with pytest.raises(ts.UserError, match="put members first"):
        ts.ensemble(power, in_axes=(1, None))
    with pytest.raises(ts.UserError, match="members_per_chunk is 0"):
        ts.ensemble(power, members_per_chunk=0)


def test_a_whole_pipeline_can_be_traced(split):
    """`init_state` and `train` in one function of a key, compiled."""
    stage, tx = ts.autoencoder(ts.MLP((8,)), ts.MLP((16,))), ts.adam(1e-2)
    few = {name: x[:2] for name, x in split.items()}

    def pipeline_of(key):
        state = ts.init_state(stage, tx, jax.random.fold_in(key, 0), few)
        return ts.make_train(stage, tx, 32, 1)(state, split, jax.random.fold_in(key, 1))[0].params

    keys = jax.random.split(jax.random.key(0), 2)
    both = jax.jit(jax.vmap(pipeline_of))(keys)
    one = jax.jit(pipeline_of)(jax.random.split(jax.random.key(0), 2)[1])
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a[1], b, atol=1e-5)
