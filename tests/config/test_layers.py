"""Layers of a configuration: what flags, files and presets supply, and what survives a file."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twostage_jax.config.choices import PROTOCOLS, SOLVED
from twostage_jax.config.fields import declarations
from twostage_jax.config.groups import GROUPS, HeadConfig, PretrainConfig
from twostage_jax.config.layers import (
    completed,
    from_dict,
    imported_names,
    overlay,
    resolve,
    to_dict,
)
from twostage_jax.config.presets import STEPS
from twostage_jax.config.rules import check, trial_count
from twostage_jax.config.schema import PRESETS, Config
from twostage_jax.errors import UserError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
NAMES = st.sampled_from([*declarations(Config), *declarations(HeadConfig), *GROUPS])


def test_the_blog_preset_is_the_recipe_of_the_blog():
    config = resolve(Config(), (28, 28, 1), 5000)
    adam = {"batch_size": 32, "learning_rate": 0.001, "weight_decay": 0.0, "decay_on": "all"}
    adam |= {"schedule": "constant", "warmup": 0, "beta2": 0.999}
    assert config == Config(
        preset="blog",
        init="torch",
        data="digits",
        seed=0,
        validation=5000,
        noise=0.0,
        members=1,
        share=(),
        class_weights="none",
        duplicates="auto",
        pretrain=PretrainConfig(
            "autoencoder", "mlp", (256, 128), watch="off", select="last", epochs=5, **adam
        ),
        head=HeadConfig(protocol="mlp", encode="auto", widths=(64,), epochs=5, **adam),
    )
    assert resolve(Config(), (8, 8, 1), 0).preset == "quick"
    assert resolve(Config(preset="blog"), (8, 8, 1), 0).preset == "blog"


@pytest.mark.parametrize(
    ("shape", "preset"),
    [((28, 28, 3), "photos"), ((64, 32, 1), "photos"), ((20, 28, 1), "quick"), ((9, 9), "quick")],
)
def test_the_size_and_the_channels_of_the_images_choose_the_preset(shape, preset):
    assert resolve(Config(), shape, 0).preset == preset


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_resolved_config_is_valid_complete_and_survives_its_file(preset, protocol):
    options = {"preset": preset, "head": {"protocol": protocol, "set": {"strength": 2}}}
    extra = {"data": "mnist", "data_dir": Path("somewhere"), "labels": 100, "share": ["order"]}
    sweep = {"pretrain.temperature": [1, 0.5], "noise": [0, 0.1]}
    config = resolve(Config(**options, **extra, sweep=sweep), (8, 8, 1), 3)
    check(config)
    assert completed(config, (8, 8, 1)) == config
    stored = json.loads(json.dumps(to_dict(config)))
    assert from_dict(stored, "here") == config
    assert list(stored["sweep"].items()) == list(sweep.items())
    # A solved head has no epochs, so no preset may supply them.
    counted = preset in STEPS  # the number of examples decides
    assert (config.head.epochs is None) == (counted or protocol in SOLVED)
    hash(config)


def test_a_run_of_an_older_version_gets_the_defaults_of_its_preset_for_new_fields():
    config = resolve(Config(preset="few-labels"), (28, 28, 1), 3)
    older = to_dict(config)
    for name in ("beta2", "watch", "select", "schedule"):
        del older["pretrain"][name]
    assert completed(from_dict(older, "here"), (28, 28, 1)) == config
    # An imported head may be solved, so it may lack everything that goes with training.
    imported = dataclasses.replace(config, head=HeadConfig("package.module:function"))
    assert completed(imported, (28, 28, 1)) == imported


def test_given_values_win_zero_included_and_numbers_merge_by_name():
    config = Config(seed=0, pretrain={"epochs": 0, "set": "b=2"})
    base = {"seed": 7, "pretrain": {"epochs": 5, "batch_size": 64, "set": {"a": 1, "b": 1}}}
    merged = overlay(config, base)
    assert (merged.seed, merged.pretrain.epochs, merged.pretrain.batch_size) == (0, 0, 64)
    assert merged.pretrain.set == (("a", 1.0), ("b", 2.0))


def test_an_encoder_has_its_own_sizes_and_inherits_none_of_another():
    conv = resolve(Config(pretrain={"encoder": "conv"}), (28, 28, 1), 3)
    assert conv.pretrain.widths == (64, 64, 128, 256)
    assert conv.pretrain.norm == "batch"
    changed = overlay(Config(pretrain={"encoder": "vit"}), to_dict(conv))
    assert (changed.pretrain.widths, changed.pretrain.norm) == (None, None)
    assert resolve(changed, (28, 28, 1), 3).pretrain.widths == (64, 64, 64, 128)
    kept = overlay(Config(pretrain={"norm": "group"}), to_dict(conv))
    assert (kept.pretrain.widths, kept.pretrain.norm) == ((64, 64, 128, 256), "group")


def test_another_head_inherits_no_numbers_and_a_solved_head_no_epochs():
    base = to_dict(resolve(Config(head={"set": "label-smoothing=0.1"}), (8, 8, 1), 0))
    assert overlay(Config(), base).head.set == (("label_smoothing", 0.1),)
    assert overlay(Config(head={"protocol": "knn"}), base).head == HeadConfig("knn")
    solved = to_dict(resolve(Config(head={"protocol": "ridge"}), (8, 8, 1), 0))
    trained = resolve(overlay(Config(head={"protocol": "mlp"}), solved), (8, 8, 1), 0)
    assert trained.head.epochs == 20


def test_a_resumed_sweep_keeps_the_order_of_its_points():
    base = to_dict(Config(sweep=("noise=0,0.1", "head.k=1,5")))
    again = overlay(Config(sweep=("head.k=1,5", "noise=0,0.1")), base)
    assert [name for name, _ in again.sweep] == ["noise", "head.k"]
    assert overlay(Config(sweep="noise=0,0.2"), base).sweep == (("noise", (0.0, 0.2)),)


@pytest.mark.parametrize(
    "sweep",
    [
        ("noise=0,0.1", "--head.learning_rate=1"),
        {"noise": (0, 0.1), "head.learning-rate": 1},
        [["noise", [0, "0.1"]], ["head.learning-rate", "1"]],
    ],
)
def test_a_sweep_has_one_form_whatever_it_was_written_as(sweep):
    config = Config(sweep=sweep)
    assert config == Config(sweep=(("noise", (0.0, 0.1)), ("head.learning-rate", (1.0,))))
    assert trial_count(Config(sweep=sweep, members=3)) == 6


def test_a_file_imports_no_code_unless_it_is_trusted():
    values = {
        "pretrain": {"encoder": "os:getcwd", "objective": "sys:exit"},
        "head": {"protocol": "os:abort"},
    }
    expected = "imports os:getcwd and sys:exit and os:abort: give --trust-code"
    with pytest.raises(UserError, match=expected):
        from_dict(values, "config.json")
    assert len(imported_names(from_dict(values, "config.json", trust_code=True))) == 3


def test_printing_shows_only_the_given_fields():
    assert repr(Config()) == "Config()"
    config = Config(seed=0, head={"epochs": 1})
    assert repr(config) == "Config(seed=0, head=HeadConfig(epochs=1))"
    assert "<th>head.epochs</th><td>1</td>" in config._repr_html_()
    evil = Config(data="npz:<b>")._repr_html_()
    assert "<b>" not in evil and "&lt;b&gt;" in evil
    long = Config(sweep={"noise": [x / 1000 for x in range(1000)]})
    assert len(repr(long)) < 400


def test_an_unknown_field_gets_one_sentence_with_the_nearest_name():
    mistakes = {
        "did you mean 'epochs'": lambda: Config(pretrain={"epocs": 1}),
        "PretrainConfig has no field 'epocs': did you mean 'epochs'": lambda: PretrainConfig(
            epocs=1
        ),
        "Config has no field 'dta': did you mean 'data'": lambda: Config(dta="digits"),
        r"field of a stage, give pretrain={'epochs': ...} or head=": lambda: Config(epochs=1),
        "head is int: give a mapping": lambda: Config(head=3),
    }
    for message, make in mistakes.items():
        with pytest.raises(UserError, match=message):
            make()


def test_the_help_page_has_every_field_with_its_default_and_help():
    page = inspect.getdoc(Config)
    for name, declaration in declarations(Config).items():
        assert f"\n    {name}" in page
        assert declaration.hint in page
    for text in ("Passes over the training images", "mlp, linear, ridge, knn", "at least 0"):
        assert text in page
    assert max(map(len, page.splitlines())) <= 110
    assert "Annotated" not in str(inspect.signature(Config))


@settings(
    max_examples=50,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(values=JSON | st.dictionaries(NAMES, JSON, max_size=4))
def test_any_json_gives_a_config_or_one_line(values):
    for candidate in (values, {"pretrain": values}, {"head": values}):
        try:
            config = from_dict(candidate, "config.json")
        except UserError as error:
            assert str(error).isprintable()
        else:
            assert from_dict(json.loads(json.dumps(to_dict(config))), "again") == config
