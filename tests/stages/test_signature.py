"""Functions are called by the names and numbers in their signatures."""

import jax.numpy as jnp
import pytest

import twostage_jax as ts
from twostage_jax.stages.signature import call, check_head, numbers


def objective(encoder, projector, temperature=0.1, steps=3, flag=True, name="x"):
    return encoder, projector, temperature, steps


OFFERED = {"encoder": "E", "decoder": "D", "projector": "P"}


def test_numbers_are_the_parameters_with_a_number_as_default():
    assert numbers(objective) == {"temperature": 0.1, "steps": 3}


def test_a_function_gets_what_it_names_and_the_numbers_that_are_set():
    assert call(objective, OFFERED, {}) == ("E", "P", 0.1, 3)
    result = call(objective, OFFERED, {"temperature": 0.2, "steps": 5.0})
    assert result == ("E", "P", 0.2, 5) and type(result[3]) is int
    traced = jnp.ones(())
    assert call(objective, OFFERED, {"steps": traced})[3] is traced
    assert call(lambda encoder, *, x=1: x, OFFERED, {"x": 2}) == 2


def everything(**settings):
    return settings


def positional(encoder, /):
    return encoder


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (objective, {"tau": 1.0}, "takes no number 'tau': choose from temperature, s"),
        (objective, {"flag": 1.0}, "takes no number 'flag'"),
        (objective, {"encoder": 1.0}, "takes no number 'encoder'"),
        (objective, {"steps": 2.5}, "steps is 2.5: give a whole number"),
        (lambda network: network, {}, "requires 'network'.*encoder, decoder, projector"),
        (everything, {}, r"takes \*\*settings, which has no name"),
        (positional, {}, "takes encoder, which has no name"),
        (3, {}, "3 has no signature"),
    ],
)
def test_a_call_that_does_not_fit_is_rejected(function, settings, message):
    with pytest.raises(ts.UserError, match=message):
        call(function, OFFERED, settings)


def test_a_head_has_a_stage_or_a_solver():
    head = ts.ridge(3)
    assert check_head(head) is head
    for wrong, message in (
        (ts.MLP((3,)), "returned MLP: return ts.Head"),
        (ts.Head(head.logits), "neither stage nor solve"),
        (head._replace(stage=ts.mlp(3).stage), "both stage and solve"),
    ):
        with pytest.raises(ts.UserError, match=message):
            check_head(wrong)
    with pytest.raises(ts.UserError, match="has no stage to train"):
        ts.attach(ts.MLP((3,)), head)
