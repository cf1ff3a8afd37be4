"""Stage 1 under watch: figures in the records, the best epoch by the probe, collapsed features."""

import dataclasses

import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax.config.layers import resolve
from twostage_jax.data.sources import load
from twostage_jax.runs.checkpoints import keep_better, start_best
from twostage_jax.runs.examples import make_examples
from twostage_jax.runs.trials import make_trials
from twostage_jax.runs.watch import describe_collapse, watch_data
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.epochs import EpochRecord
from twostage_jax.store.records import read_manifest

ON = {"watch": "on"}
LONGER = {"select": "probe", "epochs": 4, "learning_rate": 0.05}


def without_figures(line):
    names = ("probe", "knn", "rank", "spread")
    kept = {"validation": {n: x for n, x in line["validation"].items() if n not in names}}
    members = line.get("members", {})
    kept |= {"members": {n: x for n, x in members.items() if n.split("_")[-1] not in names}}
    return {**line, **kept}


def test_figures_change_no_bit_of_the_training(data, trio, tmp_path):
    """They are in the line of each epoch of stage 1, and the last ones are in the result."""
    seen = []
    config = tiny.config(data, tmp_path / "run", members=3, save_predictions=True, pretrain=ON)
    result = tiny.run(config, on_epoch=seen.append)
    before = tiny.stored(trio, "manifest.json")["groups"]
    assert tiny.stored(config.out, "manifest.json")["groups"] == before
    lines = tiny.metrics(config.out)
    plain = [{"members": {}, **line} for line in tiny.metrics(trio)]
    assert [without_figures(line) for line in lines] == plain
    assert seen[0]["validation"].keys() == {"loss", "probe", "knn", "rank", "spread"}
    assert seen[2]["validation"].keys() == {"loss", "accuracy"}
    record = result.record["pretrain"]
    for name in ("probe", "knn", "rank", "spread"):
        assert record[name] == pytest.approx(np.mean(lines[1]["members"][f"validation_{name}"]))
    assert record["features"] == 4 and "kept" not in record


def test_probe_keeps_the_best_epoch_of_each_member_also_after_a_resumption(data, tmp_path):
    options = {"members": 2, "pretrain": LONGER}
    whole = tiny.run(tiny.config(data, tmp_path / "whole", **options), pretrain_only=True)
    folder = tiny.cut(tiny.config(data, tmp_path / "cut", **options), 3 * tiny.STEPS + 1)
    resumed = tiny.resume(folder, pretrain_only=True)
    assert ts.digest(resumed.params) == ts.digest(whole.params)
    lines = tiny.metrics(whole.folder)
    probes = np.array([line["members"]["validation_probe"] for line in lines])
    kept = read_manifest(whole.folder).pretrain.kept
    assert kept == (probes.argmax(0) + 1).tolist()
    assert kept != [4, 4], "the last epoch is the best one: the test shows nothing"
    assert read_manifest(folder).pretrain.probe == pytest.approx(probes.max(0).mean())


def test_the_kept_encoder_is_that_of_a_shorter_run_and_another_head_gets_it(data, tmp_path):
    config = tiny.config(data, tmp_path / "first", seed=1, pretrain=LONGER)
    first = tiny.run(config, pretrain_only=True)
    (epochs,) = read_manifest(first.folder).pretrain.kept
    assert epochs < 4, "the last epoch is the best one: the test shows nothing"
    settings = {**LONGER, "epochs": epochs, "select": "last"}
    short = tiny.config(data, tmp_path / "short", seed=1, pretrain=settings)
    expected = ts.digest(tiny.run(short, pretrain_only=True).params)
    assert ts.digest(first.params) == expected
    head = ts.Config(encoder_run=str(first.folder), out=tmp_path / "b", head={"protocol": "ridge"})
    second = tiny.run(head)
    assert ts.digest(second.params["encoder"]) == ts.digest(first.params["encoder"])


def test_without_validation_only_the_rank_stands_beside_the_loss(data, tmp_path):
    config = tiny.config(data, tmp_path / "run", validation=0, pretrain=ON)
    result = tiny.run(config, pretrain_only=True)
    line = tiny.metrics(result.folder)[-1]
    assert "validation" not in line and 1 <= line["rank"] <= 4
    assert "probe" not in line


def test_the_labels_are_those_of_the_trials(data):
    """With five labels, the probe of a member sees the five of its own draw, and their noise."""
    config = ts.Config(data=data, labels=6, noise=0.5, members=2, validation=tiny.VALIDATION)
    dataset = load(data, tiny.VALIDATION, None)
    config = resolve(config, dataset.image_shape, tiny.VALIDATION)
    trials = make_trials(config)
    examples = make_examples(config, dataset, trials)
    rows = watch_data(examples, trials).rows(np.arange(2))
    assert rows["label"].tolist() == examples.label.tolist()
    np.testing.assert_array_equal(rows["image"], dataset.train["image"][examples.drawn])
    assert rows["validation_image"].shape == (tiny.VALIDATION, 4, 4, 1)


def test_a_tie_keeps_the_earlier_epoch_and_nan_is_never_better():
    best = start_best({"encoder": np.zeros((3, 2))}, 3)
    for epoch, probe in enumerate([[0.5, 0.5, np.nan], [0.5, 0.6, np.nan], [0.4, np.nan, 0.1]], 1):
        params = {"encoder": np.full((3, 2), float(epoch))}
        keep_better(best, params, {"probe": np.float32(probe)}, epoch)
    assert best["epoch"].tolist() == [1, 2, 3]
    assert best["params"]["encoder"][:, 0].tolist() == [1, 2, 3]


def record_with(rank, spread):
    return EpochRecord("pretrain", 3, 0.1, 0.0, {}, {}, {"loss": 1, "rank": rank, "spread": spread})


def test_collapsed_features_are_reported_in_words():
    text = describe_collapse(record_with(1.3, 0.2), 128, ["encoder of seed 0"])
    assert text.startswith("features have collapsed in epoch 3: effective rank 1.3 of 128; try")
    assert describe_collapse(record_with(1.0, 0.001), 4, ["one"])
    # Few features may lie near a line, and a rank of a diverged encoder is missing.
    for record in (record_with(1.3, 0.2), record_with(None, None), record_with(30, 0.2)):
        assert describe_collapse(record, 4, ["one"]) is None
    members = {"rank": [9.0, 1.1, 1.2], "spread": [0.5, 0.0, 0.0], "loss": [1, 1, 1]}
    several = dataclasses.replace(
        record_with(1, 1), members={f"validation_{n}": x for n, x in members.items()}
    )
    assert "features of b (and of 1 more) have collapsed" in describe_collapse(
        several, 9, list("abc")
    )
    assert "features of c have collapsed" in describe_collapse(several, 9, list("abc"), [0, 2])
    assert describe_collapse(several, 9, list("abc"), [0]) is None


COLLAPSED = """
import jax.numpy as jnp
from flax import linen as nn

class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        return 1.0 + 1e-6 * nn.Dense(8)(x.reshape(len(x), -1))"""


def test_a_collapse_is_said_once_and_stays_in_the_result(data, module, tmp_path):
    encoder = f"{module('collapsed', COLLAPSED)}:Encoder"
    terminal = Terminal(quiet=True)
    config = tiny.config(data, tmp_path / "run", pretrain={**ON, "encoder": encoder})
    result = tiny.run(config, terminal, pretrain_only=True)
    notices = [text for text in terminal.notices if "collapsed" in text]
    assert len(notices) == 1 and "in epoch 1: effective rank 1.0 of 8" in notices[0]
    record = read_manifest(result.folder).pretrain
    assert record.collapsed.startswith("features have collapsed in epoch 2")
