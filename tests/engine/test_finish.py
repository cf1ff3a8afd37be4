"""Statistics that are fixed from images, for all members of a stage."""

import jax
import numpy as np
import pytest
from flax import linen as nn

import twostage_jax as ts
from tests.engine.tiny import (
    SPLIT,
    Alone,
    Training,
    Trial,
    compile_members,
    finish,
    fit_step_by_step,
    select_member,
)
from twostage_jax.engine.finish import finish_rows
from twostage_jax.engine.members import TrialData, finished_params


class Normalised(nn.Module):
    """A dense layer with batch normalisation."""

    width: int = 6

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(self.width)(x.reshape(len(x), -1))
        return nn.BatchNorm(use_running_average=not train)(x)


ENCODER = Normalised()
STAGE = ts.autoencoder(ENCODER, Normalised(16))
TRIAL = Trial(
    lambda numbers: (STAGE, ts.adam(numbers["rate"])),
    TrialData(SPLIT, {}),
    numbers={"rate": np.float32([1e-2, 2e-2, 3e-2])},
    validation=TrialData({name: x[:40] for name, x in SPLIT.items()}, {}),
)


@pytest.fixture(scope="module")
def training():
    return Training(TRIAL, compile_members(TRIAL, 3, 2))


def exact(params):
    """The parameters of one member with the statistics of all images."""
    return jax.jit(STAGE.finish)(params, ts.as_image(SPLIT["image"]))


def test_members_leave_each_epoch_with_the_statistics_of_their_single_training(training):
    positions = [p for p in training.go(2) if p.metrics is not None]
    state = jax.tree.map(np.array, positions[-1].state)
    validation = positions[-1].validation
    alone = Alone(TRIAL)
    for member in range(3):
        params = select_member(state.params, member)
        single = alone(member)[0].params
        for name in params:
            assert ts.digest(params[name]["params"]) == ts.digest(single[name]["params"])
        np.testing.assert_allclose(
            params["encoder"]["batch_stats"]["BatchNorm_0"]["mean"],
            exact(params)["encoder"]["batch_stats"]["BatchNorm_0"]["mean"],
            rtol=1e-5,
        )
        # `make_train` finishes, too, and validation sees the finished parameters.
        decode = ts.make_decode(ENCODER, Normalised(16))
        held_out = {name: x[:40] for name, x in SPLIT.items()}
        for measured in (params, single):
            error = float(ts.reconstruction(decode, measured, held_out))
            assert error == pytest.approx(float(validation["loss"][member]), rel=1e-4)


def test_a_training_cut_within_an_epoch_ends_with_the_same_bits(training):
    whole, _ = finish(training.go(2))
    digest = ts.digest(whole.params)
    for position in training.go(2, fit=fit_step_by_step):
        if position.fraction > 1.3:
            cut = jax.tree.map(np.array, position)
            break
    resumed, _ = finish(training.go(2, cut.state, cut.sums))
    assert ts.digest(resumed.params) == digest


def test_finished_parameters_are_used_before_the_first_epoch_and_need_no_copy_without_statistics():
    plain = Trial(lambda _: (ts.placeholder(ts.MLP((3,))), ts.adam(1e-2)), TrialData(SPLIT, {}))
    programs = compile_members(plain, 2, 2)
    params = Training(plain, programs).start().params
    assert programs.finish is None
    assert finished_params(programs, {}, params, plain.data) is params


def test_the_rows_are_spread_over_a_sorted_source_and_fewer_for_large_images():
    label = np.sort(np.arange(50_000) % 10)
    rows = finish_rows(len(label), (28, 28, 1))
    assert len(set(rows.tolist())) == 6000
    assert np.bincount(label[rows]).tolist() == [600] * 10
    assert len(finish_rows(50_000, (64, 64, 3))) == 1148
    assert len(finish_rows(50_000, (500, 500, 3))) == 256
    assert len(finish_rows(7, (500, 500, 3))) == 7
    assert len(finish_rows(50_000, (128,))) == 6000
