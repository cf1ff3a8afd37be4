"""Values and combinations that a configuration refuses, and the ones that it accepts."""

import math

import pytest

from twostage_jax.config.choices import SOLVED
from twostage_jax.config.fields import parse_mesh
from twostage_jax.config.layers import from_dict
from twostage_jax.config.rules import check
from twostage_jax.config.schema import Config
from twostage_jax.config.studies import LabelStudy, check_study
from twostage_jax.config.sweep import SWEEPABLE, grid, point_name, swept
from twostage_jax.errors import UserError

# One case for each kind of check: the declarations in the schema are data, not code.
REFUSED = [
    ({"seed": -1}, "--seed is -1: give a whole number of at least 0"),
    ({"seed": True}, "--seed is True"),
    ({"members": 2**31}, "--members is 2147483648"),
    ({"labels": 0}, "--labels is 0: give a whole number of at least 1"),
    ({"data": "digit"}, "unknown source 'digit': did you mean 'digits'"),
    ({"data": 7}, "--data is 7: give text"),
    ({"data": "digits", "data_dir": "here"}, "--data-dir goes with mnist"),
    ({"data_dir": 3}, "--data-dir is 3: give a path"),
    ({"save_predictions": 1}, "--save-predictions is 1"),
    ({"preset": ["blog"]}, "unknown preset"),
    ({"init": "tourch"}, "unknown init 'tourch': did you mean 'torch'"),
    ({"noise": 1}, "--noise is 1: give a number of at least 0 and less than 1"),
    ({"share": "encoder"}, "--share is 'encoder': give a list"),
    ({"share": ["head"]}, "unknown --share 'head'"),
    ({"mesh": "member=0"}, "--mesh is 'member=0': give devices along member and data"),
    ({"mesh": "member=1,member=1"}, "--mesh is"),
    ({"pretrain": {"objective": "autoencodr"}}, "did you mean 'autoencoder'"),
    ({"pretrain": {"learning_rate": math.nan}}, "--pretrain.learning-rate is nan"),
    ({"pretrain": {"learning_rate": 0}}, "give a number above 0"),
    ({"pretrain": {"weight_decay": math.inf}}, "--pretrain.weight-decay is inf"),
    ({"pretrain": {"widths": ()}}, "--pretrain.widths is ()"),
    ({"pretrain": {"widths": (8, 0)}}, "--pretrain.widths is 0"),
    ({"head": {"widths": (1,) * 101}}, "--head.widths has 101 layers"),
    ({"head": {"protocol": "mpl"}}, "did you mean 'mlp'"),
    ({"head": {"set": "k"}}, "--head.set 'k' is incomplete: write NAME=VALUE"),
    ({"head": {"set": {"k": "many"}}}, "--head.set k is 'many': give a finite number"),
    ({"head": {"set": ("k=1", "k=2")}}, "--head.set 'k' is given twice"),
    ({"head": {"set": {"3": 1}}}, "is not a parameter's name"),
    ({"head": {"set": 5}}, "--head.set 5 is incomplete"),
    ({"head": {"set": "epochs=3"}}, "names a field with its own flag: use --head.epochs"),
    ({"sweep": "noise"}, "--sweep 'noise' is incomplete: write NAME=V1,V2"),
    ({"sweep": {"noise": []}}, "--sweep 'noise' is (): give a list of numbers"),
    ({"sweep": ("noise=0", "noise=0.1")}, "--sweep 'noise' is given twice"),
    ({"sweep": "noise=0.1,0.10"}, "--sweep 'noise' has a value twice"),
    ({"sweep": "noise=0,1"}, "--sweep noise is 1.0: give a number of at least 0 and less than 1"),
    ({"sweep": "head.k=1,nan"}, "--sweep 'head.k' is nan: give a finite number"),
    ({"sweep": "head.learning-rate=0"}, "--sweep head.learning-rate is 0.0: give a number above 0"),
    ({"sweep": "head.epochs=1,2"}, "cannot sweep head.epochs: it decides what is compiled"),
    ({"sweep": "nois=1"}, "cannot sweep 'nois': did you mean 'noise'"),
    ({"sweep": "head.k=1", "head": {"set": "k=2"}}, "head.k is both set and swept"),
    ({"sweep": "noise=0,0.1", "validation": 0}, "--sweep chooses on the validation split"),
    ({"pretrain": {"select": "probe"}, "validation": 0}, "select probe chooses on the validation"),
    ({"pretrain": {"select": "probe", "watch": "off"}}, "leave out --pretrain.watch off"),
    ({"pretrain": {"select": "best"}}, "unknown --pretrain.select 'best'"),
    ({"sweep": "pretrain.temperature=1", "share": ["encoder"]}, "one encoder for all"),
    ({"sweep": "pretrain.temperature=1", "encoder_run": "run"}, "one encoder for all"),
    ({"sweep": "noise=0,0.1", "members": 10**6}, "ask for 2,000,000 trials"),
]


@pytest.mark.parametrize(("values", "expected"), REFUSED, ids=[text for _, text in REFUSED])
def test_a_wrong_value_gets_one_line_that_says_what_to_give(values, expected):
    with pytest.raises(UserError) as caught:
        check(Config(**values))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "config.json: the configuration is list: give a mapping"),
        ({"sed": 1}, "the configuration has the unknown field 'sed': did you mean 'seed'"),
        ({"seed": -1}, "config.json: --seed is -1: give a whole number"),
        ({"out": "elsewhere"}, "config.json has the field 'out': remove it"),
        ({"head": {"epoch": 1}}, "config.json: head has the unknown field 'epoch'"),
        ({"pretrain": 3}, "config.json: pretrain is int: give a mapping"),
    ],
)
def test_a_malformed_file_gets_one_line(values, expected):
    with pytest.raises(UserError, match=expected):
        from_dict(values, "config.json")


@pytest.mark.parametrize("protocol", SOLVED)
def test_a_solved_head_takes_nothing_that_goes_with_training(protocol):
    head = {"protocol": protocol}
    for name, value in {"epochs": 3, "widths": (), "learning_rate": 1.0, "encode": "once"}.items():
        with pytest.raises(UserError, match=f"goes with a trained head; {protocol} is solved"):
            check(Config(head={**head, name: value}))
    with pytest.raises(UserError, match="--sweep head.weight-decay goes with a trained head"):
        check(Config(head=head, sweep={"head.weight-decay": (0, 1)}))
    check(Config(head=head, sweep={"head.strength": (0.1, 1)}))


def test_a_study_that_is_misspelt_is_refused():
    with pytest.raises(UserError, match="unknown --select 'drawn': did you mean 'draw'"):
        check_study(LabelStudy(select="drawn"))


def test_what_is_allowed():
    check(Config())
    check(Config(pretrain={"epochs": 0}, head={"epochs": 0, "widths": ()}))
    check(Config(head={"protocol": "a:b", "set": {"k": -3}}, sweep="pretrain.temperature=-1,1"))
    check(Config(sweep="noise=0.1", validation=0))
    check(Config(sweep={name: (0.1, 0.2) for name in SWEEPABLE}))


def test_the_grid_changes_its_last_field_fastest():
    points = grid(swept(Config(sweep=("noise=0,0.1", "head.weight-decay=1,2"))))
    assert [tuple(point.values()) for point in points] == [(0, 1), (0, 2), (0.1, 1), (0.1, 2)]
    assert point_name(points[1]) == "noise=0, head.weight-decay=2"
    assert grid({}) == [{}]


def test_a_mesh_has_a_size_for_each_axis():
    assert parse_mesh("--mesh", "member=4, data=2") == {"member": 4, "data": 2}
    assert parse_mesh("--mesh", None) == {}
