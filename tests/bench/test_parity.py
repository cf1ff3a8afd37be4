"""Equality of ours and PyTorch's S1 and S0. These tests need PyTorch, which CI installs."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import twostage_jax as ts

torch = pytest.importorskip("torch")

from twostage_jax.bench import pairs, parity  # noqa: E402


@pytest.fixture(scope="module")
def digits():
    return ts.load("digits", 0)


def test_both_stages_agree_step_by_step_and_s0_bit_for_bit(digits):
    checks = {check.name: check for check in parity.stage_checks(digits, 30, seeds=[0])}
    assert all(check.passed for check in checks.values()), checks
    assert checks["stage 1, float64: loss"].difference < 1e-12
    assert checks["S0: loss in either program"].difference == 0


def test_one_step_at_a_time_equals_a_whole_epoch_bit_for_bit(digits):
    few = {name: values[:96] for name, values in digits.train.items()}
    ours = pairs.make_ours(digits)
    order = pairs.make_order(0, 1, 96)
    tx = ts.adam(pairs.RATE)
    state = ts.init_state(ours.autoencoder, tx, jax.random.key(0), few)
    losses, params = pairs.our_steps(ours.autoencoder, tx, state, few, order[0], 3)
    train = ts.make_train(ours.autoencoder, tx, pairs.BATCH, 1)
    compiled = jax.jit(train, compiler_options=ts.compiler_options())
    whole, metrics = compiled(state, few, jax.random.key(0), order)
    assert ts.digest(params) == ts.digest(whole.params)
    assert np.mean(losses) == pytest.approx(float(metrics["loss"][0]), rel=1e-6)


def test_mnist_agrees_for_200_steps(mnist):
    data = ts.load(f"idx:{mnist}", 0)
    few = {name: values[:6400] for name, values in data.train.items()}
    data = dataclasses.replace(data, train=few)
    gap = parity.stage_1_gap(data, 0, 200, double=True)
    assert len(gap.losses) == 200
    assert max(gap.losses) < 1e-12 and gap.parameters < 1e-10
    gap = parity.stage_2_gap(data, 0, 200)
    assert max(gap.losses) < parity.LOSS_LIMIT and gap.parameters < parity.PARAMETER_LIMIT


def test_a_different_program_does_not_pass(digits):
    # A decay of Adam that differs by a thousandth.
    gap = parity.stage_1_gap(digits, 0, 30, double=True, tx=ts.adam(pairs.RATE, b2=0.998))
    assert max(gap.losses) > parity.LOSS_LIMIT


def test_a_network_trained_in_pytorch_gives_its_logits_in_ours(digits):
    from twostage_jax.bench.torch.network import TwoStageNetwork

    torch.manual_seed(0)
    net = TwoStageNetwork(64, 10)
    params = ts.from_torch_state_dict(net.state_dict())
    logits = ts.make_logits(ts.MLP((256, 128)), ts.MLP((64, 10)))
    image = ts.as_image(digits.test["image"])
    with torch.no_grad():
        theirs = net(torch.tensor(np.asarray(image)).flatten(1)).numpy()
    mine = logits(jax.tree.map(jax.numpy.asarray, params), image)
    np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_mean_accuracies_may_differ_by_one_standard_error():
    # Variances 1e-4 over two seeds: the error is sqrt((1e-4 + 1e-4) / 2) = 0.01.
    near = [0.9 - 0.5**0.5 * 0.01, 0.9 + 0.5**0.5 * 0.01]
    check = parity.accuracy_check(near, [x + 0.009 for x in near])
    assert check.passed and check.limit == pytest.approx(0.01)
    assert not parity.accuracy_check(near, [x + 0.011 for x in near]).passed


def test_nan_does_not_pass():
    assert not parity.Check("a", "b", float("nan"), 1.0).passed


def test_the_certificate_is_printed_and_written(tmp_path, capsys):
    out = tmp_path / "parity"
    parity.certify("digits", out, quick=True, steps=10, seeds=[0, 1])
    written = json.loads((out / "parity.json").read_text())
    assert written["epochs"] == 1 and len(written["ours"]) == len(written["torch"]) == 2
    assert all(check["passed"] for check in written["checks"])
    np.testing.assert_allclose(written["ours"], written["torch"], atol=2 / 359)
    assert "parity of ours and PyTorch on digits" in capsys.readouterr().out
