"""Heads and objectives of ours and of users, through runs, sweeps, resumption and evaluation."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax import cli
from twostage_jax.runs.evaluate import evaluate
from twostage_jax.runs.open import open_run
from twostage_jax.show.terminal import Terminal
from twostage_jax.stages.families import HEADS

# One head that keeps all examples, and one that also sees the images without a label.
SWEPT = {"knn": ("k", (1, 30)), "propagate": ("time", (5.0, 20.0))}


def on_encoder_of(folder, out, **options):
    """A config of stage 2 alone."""
    return ts.Config(encoder_run=str(folder), out=out, **options)


@pytest.mark.parametrize("protocol", SWEPT)
def test_a_solved_head_is_swept_resumed_and_evaluated(protocol, done, data, tmp_path):
    name, values = SWEPT[protocol]
    sweep = {f"head.{name}": values}
    config = on_encoder_of(done, tmp_path / "run", head={"protocol": protocol}, sweep=sweep)
    result = tiny.run(dataclasses.replace(config, save_predictions=True))
    record = result.record
    expected = {"protocol": protocol, "epochs": 0, "loss": None, "encode": "once"}
    settings = record["head"].pop("settings", {})
    assert record["head"] == expected and name not in settings
    assert [point["members"] for point in record["sweep"]["points"]] == [1, 1]
    opened = open_run(result.folder)
    assert ts.digest(opened.params) == ts.digest(result.params)
    scores = evaluate(opened, Terminal(quiet=True), split="validation").assessment.scores
    assert scores.accuracy == record["validation"]["accuracy"]
    # The same head, solved by the function that users call.
    dataset = ts.load(data, tiny.VALIDATION)
    features = opened.predictor.features
    batch = {
        "image": features(dataset.train["image"])[0],
        "label": dataset.train["label"],
        "weight": np.ones(tiny.TRAIN, np.float32),
        "validation_image": features(dataset.validation["image"])[0],
        "validation_label": dataset.validation["label"],
    }
    batch = {key: jnp.asarray(value) for key, value in batch.items()}
    head = HEADS[protocol](tiny.CLASSES, **{name: values[record["sweep"]["chosen"]]})
    if head.prepare is not None:
        prepared = head.prepare(np.asarray(batch["image"]))
        index = jnp.arange(tiny.TRAIN)
        batch |= {"prepared": prepared, "features": batch["image"], "index": index}
    logits = head.logits(
        head.solve(jax.random.key(0), batch), jnp.asarray(features(dataset.test["image"])[0])
    )
    saved = np.load(result.folder / "predictions-test.npz")["probability"]
    np.testing.assert_allclose(saved, jax.nn.softmax(logits), atol=1e-4)
    again = shutil.copytree(result.folder, tmp_path / "again")
    (again / "result.json").unlink()
    tiny.resume(again)
    tiny.same(again, result.folder)


def test_members_sweep_the_noise_of_denoising(trio, data, tmp_path):
    config = tiny.config(
        data,
        tmp_path / "run",
        members=3,
        pretrain={"objective": "denoising"},
        head={"protocol": "knn", "set": {"k": 3}},
        sweep={"pretrain.noise": (0.0, 2.0)},
    )
    result = tiny.run(config)
    record = result.record
    assert record["pretrain"]["objective"] == "denoising"
    assert record["ensemble"]["encoders"] == 3
    assert [point["members"] for point in record["sweep"]["points"]] == [3, 3]
    assert 0 < record["test"]["reconstruction"] < 1
    assert result.params["head"]["features"].shape == (3, tiny.TRAIN, 4)
    assert tiny.stored(result.folder, "config.json")["head"]["set"] == {"k": 3}
    losses = tiny.metrics(result.folder)[-1]["members"]["loss"]
    assert max(losses[:3]) < min(losses[3:])
    first = 3 * record["sweep"]["chosen"]
    assert record["pretrain"]["loss"] == pytest.approx(np.mean(losses[first : first + 3]))
    # Without noise, denoising is the autoencoder.
    plain = tiny.metrics(trio)[1]["members"]["loss"]
    assert losses[:3] == pytest.approx(plain, rel=1e-5)


def test_a_new_head_inherits_settings_but_not_those_of_another_protocol(done, tmp_path):
    first = tiny.run(
        on_encoder_of(done, tmp_path / "a", labels=12, head={"protocol": "knn", "set": {"k": 2}})
    )
    again = tiny.run(on_encoder_of(first.folder, tmp_path / "b"))
    assert ts.digest(again.params) == ts.digest(first.params)
    other = tiny.run(on_encoder_of(first.folder, tmp_path / "c", head={"protocol": "ridge"}))
    config = tiny.stored(other.folder, "config.json")
    assert config["head"]["set"] is None and config["labels"] == 12


OWN = """
import jax
import jax.numpy as jnp
import optax
import twostage_jax as ts
from flax import linen as nn


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.relu(nn.Dense(4)(image.reshape(len(image), -1)))


def contrast(encoder, projector, temperature=1.0, steps=1):
    def init(key, batch):
        keys = jax.random.split(key)
        variables = encoder.init(keys[0], batch["image"])
        features = encoder.apply(variables, batch["image"])
        return {"encoder": variables, "projector": projector.init(keys[1], features)}

    def loss(params, key, batch):
        features = encoder.apply(params["encoder"], batch["image"])
        projected = projector.apply(params["projector"], features)
        return steps * jnp.mean(projected**2) / temperature, {}

    return ts.Stage(init, loss)


def trained(classes, scale=1.0):
    def logits(params, features):
        return scale * features @ params["kernel"]

    def init(key, batch):
        return {"kernel": jax.random.normal(key, (batch["image"].shape[1], classes))}

    def loss(params, key, batch):
        values = logits(params, batch["image"])
        losses = optax.softmax_cross_entropy_with_integer_labels(values, batch["label"])
        return losses.mean(), {"mean_logit": values.mean()}

    return ts.Head(logits, stage=ts.Stage(init, loss))


def solved(classes, shrink=0.0):
    def solve(key, batch):
        one_hot = jax.nn.one_hot(batch["label"], classes).T
        mean = one_hot @ batch["image"] / one_hot.sum(1)[:, None]
        return {"mean": (1 - shrink) * mean}

    def logits(params, features):
        return -((features[:, None] - params["mean"][None]) ** 2).sum(-1)

    return ts.Head(logits, solve=solve)


def no_head(classes):
    return {"logits": None}


def short(classes):
    return ts.Head(lambda params, x: x[:, :2] + params[None], solve=lambda key, batch: jnp.zeros(2))
"""


def test_a_user_s_own_parts_run_by_name(data, tmp_path, module):
    module("own_parts", OWN)
    config = tiny.config(
        data,
        tmp_path / "run",
        pretrain={
            "encoder": "own_parts:Encoder",
            "objective": "own_parts:contrast",
            "set": {"steps": 2},
        },
        head={"protocol": "own_parts:trained"},
        sweep={"pretrain.temperature": (0.5, 2.0), "head.scale": (0.5, 1.0)},
    )
    config = dataclasses.replace(config, head=dataclasses.replace(config.head, **{"widths": None}))
    result = tiny.run(config)
    lines = tiny.metrics(result.folder)
    # Four heads on two encoders.
    assert lines[0]["members"]["loss"][0] > lines[0]["members"]["loss"][1]
    assert len(lines[-1]["members"]["mean_logit"]) == 4
    groups = tiny.stored(result.folder, "manifest.json")["groups"]
    assert set(groups) == {"encoder", "projector", "head"}
    # Without trust, nothing in a folder imports code.
    for use in (
        lambda: open_run(result.folder),
        lambda: tiny.resume(result.folder),
    ):
        with pytest.raises(ts.UserError, match="imports .*own_parts:trained.*--trust-code"):
            use()
    opened = open_run(result.folder, trust_code=True)
    assert ts.digest(opened.params) == ts.digest(result.params)
    scores = evaluate(opened, Terminal(quiet=True), split="validation").assessment.scores
    assert scores.accuracy == result.record["validation"]["accuracy"]


def test_a_user_s_solved_head_runs_by_name(done, tmp_path, module):
    module("own_parts", OWN)
    head = {"protocol": "own_parts:solved", "set": {"shrink": 0.1}}
    result = tiny.run(on_encoder_of(done, tmp_path / "run", head=head))
    params = result.params["head"]
    assert set(params) == {"mean"} and params["mean"].shape == (tiny.CLASSES, 4)
    config = tiny.stored(result.folder, "config.json")["head"]
    assert config["set"] == {"shrink": 0.1} and config["epochs"] is None
    swept = on_encoder_of(
        done, tmp_path / "sweep", head={"protocol": "own_parts:solved"},
        sweep={"head.shrink": (0.1, -1e30)},
    )  # fmt: skip
    record = tiny.run(swept).record
    # Finite parameters whose outputs are not finite count as diverged.
    assert record["ensemble"]["diverged"] == ["member 0 (seed 0) at head.shrink=-1e+30"]
    assert [point["members"] for point in record["sweep"]["points"]] == [1, 0]
    (result.folder / "result.json").unlink()
    before = ts.digest(result.params)
    resumed = tiny.resume(result.folder, trust_code=True)
    assert ts.digest(resumed.params) == before


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--labels 77", "--labels 77 does not fit 76 training examples in 3 classes"),
        ("--labels 2", "give a number from 3 to 76"),
        ("--pretrain.set nois=1", "autoencoder takes no number 'nois': choose from"),
        ("--head.set k=1", "mlp takes no number 'k': choose from label_smoothing"),
        ("--head.protocol knn --head.set p=1", "choose from k, temperature"),
        ("--head.set label_smoothing=many", "label_smoothing is 'many': give a finite number"),
        ("--head.set label_smoothing=2", "label_smoothing is 2.0: give a number in [0, 1)"),
        ("--head.protocol knn --head.set k=1.5", "k is 1.5: give a whole number"),
        ("--head.protocol knn --head.set k=0", "k is 0: give a whole number of at least 1"),
        ("--head.protocol knn --head.set k=77", "k is 77 for 76 examples: give --head.set k=N"),
        ("--head.protocol knn --sweep head.k=1,77", "k is 77 for 76 examples"),
        ("--head.protocol knn --labels 9 --head.set k=10", "k is 10 for 9 examples"),
        ("--head.protocol ridge --validation 0", "ridge chooses its strength on validation"),
        ("--head.protocol ridge --head.epochs 3", "--head.epochs goes with a trained head"),
        ("--head.protocol own_parts:solved --head.epochs 3", "own_parts:solved is solved in one"),
        ("--head.protocol own_parts:no_head", "own_parts:no_head returned dict: return ts.Head"),
        ("--head.protocol own_parts:short", "own_parts:short returns logits [2, 2] for 2 exampl"),
        ("--head.protocol own_parts:solved --head.set k=1", "solved takes no number 'k'"),
        ("--sweep head.scal=1,2 --head.protocol own_parts:trained", "did you mean 'head.scale'"),
        ("--sweep head.epochs=1,2", "it decides what is compiled"),
        ("--members 2 --mesh member=77", "make the product"),
        ("--sweep pretrain.learning-rate=1,2 --share encoder", "one encoder for all"),
        ("--sweep head.learning-rate=1e-3,1e-2 --validation 0", "--validation is 0: give it exam"),
        ("--head.learning-rate 1e300", "--head.learning-rate is 1e+300"),
        ("--members 2000000000", "one run takes at most 1,000,000"),
        ("--pretrain.widths 1000000000 1000000000", "MB are free: use fewer members or"),
        (f"--seed {'9' * 30}", "--seed is 9999"),
        (f"--mesh member={'9' * 5000}", "--mesh"),
    ],
)
def test_a_wrong_value_gets_one_line_and_leaves_no_folder(
    line, expected, data, tmp_path, module, capsys
):
    module("own_parts", OWN)
    out = tmp_path / "run"
    given = ["--data", data, "--out", str(out), "--validation", str(tiny.VALIDATION)]
    if "--validation" in line:
        given = given[:4]
    assert cli.main(["run", *given, *line.split()]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("twostage: error: ") and output.err.count("\n") == 1
    assert expected in output.err
    assert not out.exists()


def test_a_class_without_an_example_cannot_be_drawn(tmp_path):
    label = np.array([0, 1] * 10 + [3] * 2)
    image = np.zeros((22, 4, 4), np.uint8)
    np.savez(tmp_path / "gap.npz", x_train=image, y_train=label, x_test=image, y_test=label)
    config = ts.Config(data=f"npz:{tmp_path / 'gap.npz'}", out=tmp_path / "run", labels=8)
    with pytest.raises(ts.UserError, match="because class '2' has no training example: add one"):
        tiny.run(config)
