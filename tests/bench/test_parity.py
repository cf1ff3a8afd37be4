"""Equality of ours and PyTorch's S1 and S0. These tests need PyTorch, which CI installs."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import twostage_jax as ts
from twostage_jax.show.terminal import Terminal

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # threads that wait for a busy core make a step 20 times slower

from twostage_jax.bench import pairs, parity  # noqa: E402


@pytest.fixture(scope="module")
def certificate(dataset, spec, tmp_path_factory):
    """All checks of a small certificate, and its folder."""
    out = tmp_path_factory.mktemp("parity") / "out"
    checks = parity.certify(spec, out, quick=True, terminal=Terminal(), steps=2, seeds=[0, 1])
    return {check.name: check for check in checks}, out


@pytest.mark.slow
def test_both_stages_agree_step_by_step_and_s0_bit_for_bit(certificate):
    checks, _ = certificate
    assert all(check.passed for check in checks.values())
    assert checks["stage 1, float64: loss"].difference < 1e-12
    assert checks["S0: loss in either program"].difference == 0


@pytest.mark.slow
def test_the_certificate_is_written(certificate):
    written = json.loads((certificate[1] / "parity.json").read_text())
    assert written["epochs"] == 1 and len(written["ours"]) == len(written["torch"]) == 2
    assert [check["name"] for check in written["checks"]] == list(certificate[0])
    np.testing.assert_allclose(written["ours"], written["torch"], atol=2 / 24)


def test_the_certificate_shows_every_check(capsys):
    checks = [parity.Check("loss", "2 steps", 1e-7, 1e-5), parity.Check("S0", "2 steps", 1.0, 0.0)]
    parity.show_certificate(checks, "tiny", 5, Terminal())
    out = capsys.readouterr().out
    assert "parity of ours and PyTorch on tiny, 5+5 epochs" in out
    assert "pass" in out and "FAIL" in out


def test_one_step_at_a_time_equals_a_whole_epoch_bit_for_bit(dataset):
    few = {name: values[:64] for name, values in dataset.train.items()}
    stage = pairs.make_ours(dataset).autoencoder
    order = pairs.make_order(0, 1, 64)
    state = ts.init_state(stage, pairs.ADAM, jax.random.key(0), few)
    losses, params = pairs.our_steps(stage, pairs.ADAM, state, few, order[0], 2)
    train = pairs.compiled_train(stage, pairs.ADAM, 1)
    whole, metrics = train(state, few, jax.random.key(0), order)
    assert ts.digest(params) == ts.digest(whole.params)
    assert np.mean(losses) == pytest.approx(float(metrics["loss"][0]), rel=1e-6)


@pytest.mark.slow
def test_mnist_agrees_for_200_steps(mnist):
    data = ts.load(f"idx:{mnist}", 0)
    few = {name: values[:6400] for name, values in data.train.items()}
    data = dataclasses.replace(data, train=few)
    gap = parity.stage_1_gap(data, 0, 200, double=True)
    assert len(gap.losses) == 200
    assert max(gap.losses) < 1e-12 and gap.parameters < 1e-10
    gap = parity.stage_2_gap(data, 0, 200)
    assert max(gap.losses) < parity.LOSS_LIMIT and gap.parameters < parity.PARAMETER_LIMIT


def test_a_different_program_does_not_pass(dataset):
    # Two steps of a rate that differs by a thousandth.
    gap = parity.stage_1_gap(dataset, 0, 2, double=True, tx=ts.adam(1.001 * pairs.RATE))
    assert max(gap.losses) > parity.LOSS_LIMIT


def test_a_network_trained_in_pytorch_gives_its_logits_in_ours(dataset):
    from twostage_jax.bench.torch.network import TwoStageNetwork

    torch.manual_seed(0)
    net = TwoStageNetwork(16, 3)
    params = ts.from_torch_state_dict(net.state_dict())
    logits = ts.make_logits(ts.MLP((256, 128)), ts.MLP((64, 3)))
    image = ts.as_image(dataset.test["image"])
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
