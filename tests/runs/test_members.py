"""Members and sweeps: each member is a run by itself, and validation chooses."""

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax.runs.open import open_run
from twostage_jax.runs.trials import make_trials
from twostage_jax.scores.figures import probabilities
from twostage_jax.show.terminal import Terminal

RATES = {"head.learning-rate": (1e-3, 1e-2, 1e30)}


def predictions(folder, split="test"):
    with np.load(folder / f"predictions-{split}.npz") as saved:
        return saved["probability"]


@pytest.fixture(scope="session")
def sweep(shared, data):
    """A finished sweep of three heads on one encoder, one of which diverges."""

    def make(folder):
        terminal = Terminal(quiet=True)
        tiny.run(tiny.config(data, folder, sweep=RATES, save_predictions=True), terminal)
        (folder.parent / "sweep.txt").write_text("\n".join(terminal.notices))

    return shared("sweep", make)


def test_members_are_the_runs_of_their_seeds(done, trio, data, tmp_path):
    second = tiny.config(data, tmp_path / "second", seed=1, save_predictions=True)
    record = tiny.stored(trio, "result.json")
    for member, folder in enumerate((done, tiny.run(second).folder)):
        np.testing.assert_allclose(predictions(trio)[member], predictions(folder), atol=1e-5)
        alone = tiny.stored(folder, "result.json")
        assert record["member_test"]["accuracy"][member] == alone["test"]["accuracy"]
    assert record["ensemble"]["seeds"] == [0, 1, 2]
    assert (record["members"], record["ensemble"]["encoders"]) == (3, 3)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(open_run(trio).params)} == {3}
    assert not (predictions(trio)[0] == predictions(trio)[1]).all()


def test_a_sweep_is_chosen_on_validation(sweep, data):
    record = tiny.stored(sweep, "result.json")
    points = record["sweep"]["points"]
    assert record["sweep"]["fields"] == {name: list(values) for name, values in RATES.items()}
    merits = [
        (np.mean(point["validation"]["accuracy"]), -np.mean(point["validation"]["nll"]))
        for point in points
        if point["members"]
    ]
    assert record["sweep"]["chosen"] == merits.index(max(merits))
    assert record["ensemble"]["rows"] == [record["sweep"]["chosen"]]
    assert record["test_reads"] == 1
    assert (sweep / "sweep.png").stat().st_size > 1000
    assert predictions(sweep).shape == (tiny.TEST, tiny.CLASSES)
    # One encoder serves all points, and a point is the run with its value.
    manifest = tiny.stored(sweep, "manifest.json")["groups"]
    shapes = {
        group: [leaf["shape"] for leaf in manifest[group]["leaves"].values()]
        for group in ("encoder", "head")
    }
    assert [16, 8] in shapes["encoder"] and [3, 4, 8] in shapes["head"]


def test_a_point_of_a_sweep_is_the_run_with_its_value(sweep, done):
    point = tiny.stored(sweep, "result.json")["sweep"]["points"][1]
    alone = tiny.stored(done, "result.json")["validation"]
    assert point["validation"]["accuracy"] == [alone["accuracy"]]
    assert point["validation"]["nll"][0] == pytest.approx(alone["nll"], rel=1e-5)


def test_a_diverged_trial_is_named_and_left_out(sweep):
    name = "member 0 (seed 0) at head.learning-rate=1e+30"
    record = tiny.stored(sweep, "result.json")
    assert record["ensemble"]["diverged"] == [name]
    assert record["sweep"]["points"][2]["members"] == 0
    notices = (sweep.parent / "sweep.txt").read_text().splitlines()
    assert len(notices) == 1 and notices[0].startswith(f"{name} diverged in epoch 1 of stage head")
    losses = [line["members"]["loss"][2] for line in tiny.metrics(sweep) if "members" in line]
    assert losses[-1] is None
    # The chosen trial predicts the same to the bit when the run is opened again.
    test = ts.load(open_run(sweep).config.data).test
    logits = open_run(sweep).predictor.logits(test["image"])
    np.testing.assert_array_equal(probabilities(logits)[0], predictions(sweep))


def test_an_interrupted_sweep_resumes_to_the_same_bits(sweep, data, tmp_path):
    config = tiny.config(data, tmp_path / "run", sweep=RATES, save_predictions=True)
    folder = tiny.cut(config, 3 * tiny.STEPS + 1)
    tiny.resume(folder)
    tiny.same(folder, sweep)


def test_members_may_share_an_encoder(data, tmp_path):
    options = {"members": 3, "share": ("encoder",), "head": {"protocol": "knn", "set": {"k": 3}}}
    record = tiny.run(tiny.config(data, tmp_path / "run", **options)).record
    assert record["ensemble"]["encoders"] == 1
    # Nothing random is left in a solved head.
    assert len(set(record["member_test"]["nll"])) == 1
    assert record["summary"]["accuracy"]["std"] == 0


def test_trials_of_members_and_points_are_numbered_point_by_point():
    sweep = {"pretrain.learning-rate": (1e-3, 1e-2), "head.learning-rate": (1, 2)}
    trials = make_trials(ts.Config(seed=5, members=2, share=(), noise=0.0, sweep=sweep))
    assert [trial.seed for trial in trials.heads] == [5, 6] * 4
    # Points of the head share the encoder of their member and their point of stage 1.
    assert trials.encoder_numbers.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert [encoder.seed for encoder in trials.encoders] == [5, 6, 5, 6]
    assert (
        trials.numbers("pretrain", {})["learning_rate"].tolist()
        == np.float32([1e-3, 1e-3, 1e-2, 1e-2]).tolist()
    )
