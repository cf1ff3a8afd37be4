"""Configs: layers, presets, the file, and values that cannot be."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from twostage_jax.config.schema import (
    PRESETS,
    Config,
    HeadConfig,
    PretrainConfig,
    check,
    from_dict,
    overlay,
    resolve,
    to_dict,
)
from twostage_jax.errors import UserError


def test_the_blog_preset_is_the_default_for_28_by_28_images():
    assert resolve(Config(), (28, 28, 1), 0).preset == "blog"
    assert resolve(Config(), (8, 8, 1), 0).preset == "quick"
    assert resolve(Config(preset="blog"), (8, 8, 1), 0).preset == "blog"


def test_the_blog_preset_is_the_blog_s_recipe():
    config = resolve(Config(), (28, 28, 1), 5000)
    assert config.pretrain == PretrainConfig("autoencoder", "mlp", (256, 128), 5, 32, 0.001, 0.0)
    assert config.head == HeadConfig("mlp", "auto", (64,), 5, 32, 0.001, 0.0, 0.0)
    assert (config.init, config.validation, config.seed, config.data) == (
        "torch",
        5000,
        0,
        "digits",
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_is_left_open_once_resolved(preset):
    config = resolve(Config(preset=preset), (8, 8, 1), 3)
    values = dataclasses.asdict(config)
    open_fields = {name for name, value in values.items() if value is None}
    placing = {"mesh", "members_per_chunk"}
    assert open_fields == {"out", "data_dir", "encoder_run", "sweep", *placing}
    assert None not in values["pretrain"].values() and None not in values["head"].values()


def test_what_is_given_wins_zero_included():
    given = Config(seed=0, pretrain=PretrainConfig(epochs=0))
    merged = overlay(given, {"seed": 7, "pretrain": {"epochs": 5, "batch_size": 64}})
    assert (merged.seed, merged.pretrain.epochs, merged.pretrain.batch_size) == (0, 0, 64)


def test_a_config_survives_its_file():
    config = resolve(Config(data_dir=Path("somewhere"), data="mnist"), (28, 28, 1), 10)
    assert from_dict(json.loads(json.dumps(to_dict(config))), "here") == config


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "holds list"),
        ({"sed": 1}, "unknown field 'sed': did you mean 'seed'"),
        ({"pretrain": {"epoch": 1}}, "unknown field 'epoch': did you mean 'epochs'"),
        ({"pretrain": 3}, "holds int"),
        ({"seed": "one"}, "--seed is 'one'"),
        ({"seed": True}, "--seed is True"),
        ({"head": {"learning_rate": "fast"}}, "--head.learning-rate is 'fast'"),
        ({"head": {"widths": "64"}}, "--head.widths is '64'"),
        ({"data": 7}, "unknown source 7"),
        ({"preset": ["blog"]}, "unknown preset"),
        ({"encoder_run": 7}, "encoder_run is 7"),
        ({"out": "elsewhere"}, "unknown field 'out'"),
    ],
)
def test_a_broken_file_gets_one_sentence(values, expected):
    with pytest.raises(UserError, match=expected):
        from_dict(values, "config.json")


def test_a_file_does_not_import_code_unless_it_is_trusted():
    values = {"pretrain": {"encoder": "os:getcwd", "objective": "sys:exit"}}
    with pytest.raises(UserError, match="imports os:getcwd and sys:exit: give --trust-code"):
        from_dict(values, "config.json")
    assert from_dict(values, "config.json", trust_code=True).pretrain.encoder == "os:getcwd"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Config(seed=-1), "--seed is -1"),
        (Config(validation=-1), "--validation is -1"),
        (Config(preset="blgo"), "unknown preset 'blgo': did you mean 'blog'"),
        (Config(init="tourch"), "unknown init 'tourch': did you mean 'torch'"),
        (Config(data="digit"), "unknown source 'digit': did you mean 'digits'"),
        (Config(pretrain=PretrainConfig(epochs=-1)), "--pretrain.epochs is -1"),
        (Config(pretrain=PretrainConfig(batch_size=0)), "--pretrain.batch-size is 0"),
        (Config(pretrain=PretrainConfig(learning_rate=math.nan)), "learning-rate is nan"),
        (Config(pretrain=PretrainConfig(learning_rate=0)), "learning-rate is 0"),
        (Config(pretrain=PretrainConfig(widths=())), "--pretrain.widths is"),
        (Config(pretrain=PretrainConfig(widths=(8, 0))), "--pretrain.widths is 0"),
        (Config(pretrain=PretrainConfig(objective="autoencodr")), "did you mean 'autoencoder'"),
        (Config(pretrain=PretrainConfig(encoder="mpl")), "unknown encoder 'mpl'"),
        (Config(head=HeadConfig(protocol="mpl")), "did you mean 'mlp'"),
        (Config(head=HeadConfig(protocol="a:b")), "unknown protocol 'a:b'"),
        (Config(head=HeadConfig(learning_rate=math.inf)), "--head.learning-rate is inf"),
    ],
)
def test_values_that_cannot_be(config, expected):
    with pytest.raises(UserError, match=expected):
        check(config)


def test_zero_epochs_are_valid():
    check(Config(pretrain=PretrainConfig(epochs=0), head=HeadConfig(epochs=0, widths=())))
