"""Numbers of epochs of a whole run, if they follow from the number of examples."""

import twostage_jax as ts
from tests import tiny
from twostage_jax.config.presets import STEPS

PRETRAIN = {"objective": "autoencoder", "encoder": "mlp", "watch": "off"}


def test_epochs_follow_from_the_examples_and_are_stored(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(STEPS, "photos", 6)
    open_length = {"epochs": None, "schedule": "constant", "warmup": 0}
    pretrain = {**PRETRAIN, **open_length}
    head = {"protocol": "mlp", **open_length}
    options = {"preset": "photos", "pretrain": pretrain, "head": head}
    ts.run(tiny.config(data, tmp_path / "run", **options))
    output = capsys.readouterr().out
    # 76 images are two batches of 32 and a remainder.
    assert "pretrain: 2 epochs of 3 steps (--pretrain.epochs)" in output
    stored = tiny.stored(tmp_path / "run", "config.json")
    assert (stored["pretrain"]["epochs"], stored["head"]["epochs"]) == (2, 2)
    assert tiny.resume(tmp_path / "run").record["pretrain"]["epochs"] == 2
    # 30 labels are one step, so six epochs; stage 1 keeps its own.
    few = ts.Config(encoder_run=str(tmp_path / "run"), out=tmp_path / "few", labels=30)
    tiny.run(few)
    stored = tiny.stored(tmp_path / "few", "config.json")
    assert (stored["pretrain"]["epochs"], stored["head"]["epochs"]) == (2, 6)
