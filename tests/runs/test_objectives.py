"""Runs with a schedule of the learning rate, with views, and with labels in stage 1."""

import dataclasses

import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax.config.choices import OBJECTIVES
from twostage_jax.config.layers import resolve
from twostage_jax.runs.build import make_networks
from twostage_jax.show.terminal import Terminal

COSINE = {"schedule": "cosine", "warmup": 1, "decay_on": "matrices", "weight_decay": 0.01}


def test_a_cosine_resumes_to_the_same_bits_and_cannot_be_extended(data, tmp_path):
    options = {"pretrain": COSINE, "head": {"protocol": "ridge"}}
    whole = tiny.config(data, tmp_path / "whole", **options)
    tiny.run(whole)
    # The first step of the second epoch is the last one before the cut.
    folder = tiny.cut(tiny.config(data, tmp_path / "cut", **options), tiny.STEPS + 1)
    more = {"pretrain": {"epochs": 3}}
    with pytest.raises(ts.UserError, match="because the cosine schedule .* ends with the last epo"):
        tiny.resume(folder, config=more, allow_changed=True)
    tiny.resume(folder)
    tiny.same(folder, whole.out)


def test_a_stopped_cosine_is_repeated_with_its_full_length(data, tmp_path):
    options = {"pretrain": COSINE, "head": {"protocol": "ridge"}}
    stopped = tiny.config(data, tmp_path / "stopped", **options)
    result = tiny.run(stopped, on_epoch=lambda record: True)
    stored = tiny.stored(stopped.out, "config.json")["pretrain"]
    assert (stored["epochs"], stored["schedule_epochs"]) == (1, 2)
    pretrain = COSINE | {"epochs": 1, "schedule_epochs": 2}
    again = tiny.run(tiny.config(data, tmp_path / "again", **options | {"pretrain": pretrain}))
    assert ts.digest(again.params) == ts.digest(result.params)
    shorter = tiny.run(
        tiny.config(data, tmp_path / "shorter", **options | {"pretrain": COSINE | {"epochs": 1}})
    )
    assert ts.digest(shorter.params) != ts.digest(result.params)


def test_supervised_trains_on_the_labelled_images_alone_and_says_so(data, tmp_path):
    terminal = Terminal(quiet=True)
    pretrain = {"objective": "supervised", "batch_size": 4}
    options = {"labels": 6, "members": 2, "head": {"protocol": "ridge"}}
    result = tiny.run(tiny.config(data, tmp_path / "run", pretrain=pretrain, **options), terminal)
    assert result.record["pretrain"]["labels"] == 6
    assert tiny.stored(tmp_path / "run", "manifest.json")["pretrain"]["labels"] == 6
    assert any("stage 1 (supervised) uses 6 labels" in notice for notice in terminal.notices)
    assert "used 6 labels" in str(result)
    # Six images in batches of four are two steps; all 76 would be 19.
    steps = [int(path.name) for path in (tmp_path / "run" / "pretrain").iterdir()]
    assert max(steps) == 2 * 2 * 2  # members, epochs, steps
    # A member equals the run with its seed, so it has that seed's labels.
    single = tiny.config(data, tmp_path / "single", pretrain=pretrain, **options | {"members": 1})
    alone = tiny.run(dataclasses.replace(single, seed=1))
    losses = tiny.metrics(tmp_path / "run")[-1]["members"]["loss"]
    assert losses[1] == tiny.metrics(tmp_path / "single")[-1]["loss"]
    assert alone.record["pretrain"]["labels"] == 6


def test_noise_cannot_be_swept_for_a_supervised_stage_1(data, tmp_path):
    pretrain = {"objective": "supervised"}
    swept = tiny.config(data, tmp_path / "swept", pretrain=pretrain, sweep={"noise": [0, 0.5]})
    with pytest.raises(ts.UserError, match="cannot sweep noise with --pretrain.objective supervis"):
        tiny.run(swept)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_supervised_reads_labels(objective):
    config = ts.Config(pretrain={"objective": objective, "widths": (5, 3)}, augment="none")
    networks = make_networks(resolve(config, (4, 4, 1), 0), (4, 4, 1), 3, 8, 0, 8)
    assert networks.reads_labels == (objective == "supervised")


def test_a_sweep_of_a_temperature_trains_one_encoder_for_each_value(data, tmp_path):
    pretrain = {"objective": "simclr", "epochs": 1}
    options = {"pretrain": pretrain, "head": {"protocol": "ridge"}, "augment": "none"}
    swept = tiny.config(data, tmp_path / "run", sweep={"pretrain.temperature": [0.1, 1]}, **options)
    tiny.run(swept, pretrain_only=True)
    losses = tiny.metrics(tmp_path / "run")[-1]["members"]["loss"]
    assert len(set(np.round(losses, 3))) == 2
    heads = tiny.config(data, tmp_path / "x", sweep={"pretrain.heads": [2, 4]}, **options)
    heads = dataclasses.replace(
        heads, pretrain=dataclasses.replace(heads.pretrain, objective="simclr-iic")
    )
    with pytest.raises(ts.UserError, match="heads decides shapes, so it cannot be swept"):
        tiny.run(heads)
