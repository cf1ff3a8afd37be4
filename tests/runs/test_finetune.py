"""Runs that train the encoder in stage 2, with batch normalisation, and losses for wrong labels."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax import cli
from twostage_jax.runs.checks import check_loss_numbers

SOURCE = """
from flax import linen as nn

class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(6)(x.reshape(len(x), -1))
        return nn.relu(nn.BatchNorm(use_running_average=not train)(x))"""


def test_batch_normalisation_is_trained_finetuned_resumed_and_opened(data, module, tmp_path):
    encoder = f"{module('normalised', SOURCE)}:Encoder"
    options = {"pretrain": {"encoder": encoder}, "head": {"protocol": "finetune"}, "members": 2}
    config = tiny.config(data, tmp_path / "whole", share=("encoder",), **options)
    whole = tiny.run(config)
    frozen = whole.record["frozen"]
    assert frozen["groups"] == [] and not frozen["unchanged"]
    assert frozen["before"] != frozen["after"]
    assert whole.record["head"]["encode"] == "loop"
    # One encoder was pretrained, and each member has trained its own copy.
    kernel = whole.params["encoder"]["params"]["Dense_0"]["kernel"]
    assert len(kernel) == 2 and (kernel[0] != kernel[1]).any()
    # Fine-tuning keeps the statistics that stage 1 has fixed.
    mean = whole.params["encoder"]["batch_stats"]["BatchNorm_0"]["mean"]
    assert np.any(mean[0]) and (mean[0] == mean[1]).all()
    # Cut within stage 2.
    cut = tiny.config(data, tmp_path / "cut", share=("encoder",), **options)
    tiny.resume(tiny.cut(cut, 2 * tiny.STEPS + 4), trust_code=True)
    tiny.same(cut.out, whole.folder)
    run = ts.open_run(whole.folder, trust_code=True)
    assert ts.digest(run.params) == ts.digest(whole.params)
    image = ts.load(data, tiny.VALIDATION).test["image"]
    member = jax.tree.map(lambda leaf: leaf[1], run.params["encoder"])
    expected = run.encoder.apply(member, ts.as_image(image))
    np.testing.assert_allclose(run.features(image)[1], expected, rtol=1e-4, atol=1e-5)
    assert run.reconstruct(image).shape == image.shape
    # Another head starts from the encoder of stage 1, which no label has touched.
    head = ts.Config(
        encoder_run=str(whole.folder), out=tmp_path / "head", head={"protocol": "ridge"}
    )
    second = tiny.run(head, trust_code=True)
    assert second.record["frozen"]["unchanged"]
    assert second.record["frozen"]["after"] == frozen["before"]


def test_part_of_an_encoder_is_trained_and_the_rest_keeps_its_bits(done, tmp_path, capsys):
    head = {"protocol": "finetune", "unfreeze": "encoder/params/dense_1/*", "epochs": 1}
    config = ts.Config(encoder_run=str(done), out=tmp_path / "part", head=head)
    result = tiny.run(config)
    before = ts.open_run(done).params["encoder"]["params"]
    after = result.params["encoder"]["params"]
    assert ts.digest(after["dense_0"]) == ts.digest(before["dense_0"])
    assert (after["dense_1"]["kernel"] != before["dense_1"]["kernel"]).all()
    command = ["head", "--from", str(done), "--out", str(tmp_path / "no")]
    tuned = [*command, "--head.protocol", "finetune"]
    assert cli.main([*tuned, "--head.unfreeze", "dense_9"]) == 2
    error = capsys.readouterr().err
    assert "--head.unfreeze 'dense_9' matches no parameter of encoder: give a pattern" in error
    assert cli.main([*tuned, "--head.encode", "once"]) == 2
    assert "finetune trains the encoder: leave --head.encode out" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    study = ["study", "suspects", "--from", str(tmp_path / "part"), "--out", str(tmp_path / "no")]
    assert cli.main(study) == 2
    assert "trained the encoder with labels" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_number_of_the_objective_is_not_taken_for_one_of_the_loss():
    asked = {"head.protocol": ("loss",)}
    check_loss_numbers(ts.Config(sweep={"pretrain.q": (0.3, 0.7)}), asked)
    with pytest.raises(ts.UserError, match="q belongs to the loss gce"):
        check_loss_numbers(ts.Config(sweep={"head.q": (0.3, 0.7)}), asked)


def test_a_loss_with_a_memory_trains_members_as_single_runs_and_resumes(done, tmp_path):
    def train(name, **options):
        head = {"loss": "elr", "epochs": 1}
        config = ts.Config(
            encoder_run=str(done), out=tmp_path / name, head=head, labels=30, noise=0.2, **options
        )
        return tiny.run(config)

    member = jax.tree.map(lambda leaf: leaf[1], train("two", members=2).params["head"])
    single = train("one", seed=1).params["head"]
    # XLA rounds the memory differently with a member axis.
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), member, single)
    copy = shutil.copytree(tmp_path / "one", tmp_path / "copy")
    (copy / "result.json").unlink()
    tiny.resume(copy)
    tiny.same(copy, tmp_path / "one")
    stored = json.loads((copy / "config.json").read_text())
    assert stored["head"]["loss"] == "elr"


def test_an_option_that_no_function_asks_for_is_refused(done, module, tmp_path, capsys):
    source = "import twostage_jax as ts\ndef plain(classes):\n    return ts.mlp(classes, ())"
    plain = f"{module('plain_head', source)}:plain"
    command = ["head", "--from", str(done), "--out", str(tmp_path / "a"), "--head.epochs", "1"]
    for flags, message in (
        (("--head.unfreeze", "x"), "--head.unfreeze has no effect on mlp: leave it out"),
        (
            ("--head.encoder-learning-rate", "1e-3"),
            "--head.encoder-learning-rate has no effect on mlp",
        ),
        (
            ("--sweep", "head.encoder-learning-rate=1e-4,1e-3"),
            "--sweep head.encoder-learning-rate has no effect on mlp",
        ),
        (("--head.protocol", plain, "--head.loss", "gce"), f"--head.loss has no effect on {plain}"),
        (
            ("--head.protocol", plain, "--head.widths", "8"),
            f"--head.widths has no effect on {plain}",
        ),
        (
            ("--head.set", "q=0.5"),
            "q belongs to the loss gce, and --head.loss is cross-entropy",
        ),
    ):
        assert cli.main([*command, *flags]) == 2
        assert message in capsys.readouterr().err
    # A run stores no option that its functions do not ask for, so it can be repeated.
    result = tiny.run(
        ts.Config(encoder_run=str(done), out=tmp_path / "b", head={"protocol": plain, "epochs": 1})
    )
    assert tiny.stored(result.folder, "config.json")["head"]["widths"] is None
    again = ts.Config(encoder_run=str(result.folder), out=tmp_path / "c")
    assert ts.digest(tiny.run(again, trust_code=True).params) == ts.digest(result.params)
