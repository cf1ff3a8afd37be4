"""Ours and PyTorch's S1 and S0 compute the same; run where PyTorch is installed, as in CI."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import twostage_jax as ts

torch = pytest.importorskip("torch")

from twostage_jax.bench import parity  # noqa: E402


@pytest.fixture(scope="module")
def digits():
    return ts.load("digits", 0)


def test_both_stages_agree_step_by_step_and_s0_to_the_bit(digits, monkeypatch):
    monkeypatch.setattr(parity, "SEEDS", range(1))
    checks = {check.what: check for check in parity.stage_checks(digits, 30)}
    assert all(check.passed for check in checks.values()), checks
    assert checks["stage 1, float64: loss"].difference < 1e-12
    assert checks["S0: loss of either"].difference == 0


def test_mnist_agrees_for_200_steps(mnist):
    data = ts.load(f"idx:{mnist}", 0)
    few = {name: values[:6400] for name, values in data.train.items()}
    data = dataclasses.replace(data, train=few)
    gap = parity.stage_1_gap(data, 0, 200, double=True)
    assert len(gap.losses) == 200
    assert max(gap.losses) < 1e-12 and gap.parameters < 1e-10
    gap = parity.stage_2_gap(data, 0, 200)
    assert max(gap.losses) < parity.LOSS and gap.parameters < parity.PARAMETERS


def test_a_program_that_differs_does_not_pass(digits, monkeypatch):
    """Another decay of Adam's, by a thousandth: the certificate can fail."""
    monkeypatch.setattr(parity, "adam", lambda rate: ts.adam(rate, b2=0.998))
    gap = parity.stage_1_gap(digits, 0, 30, double=True)
    assert max(gap.losses) > parity.LOSS


def test_the_whole_programs_agree_with_one_order(digits):
    params, mine = parity.train_ours(digits, 0, 2)
    assert abs(mine - parity.train_torch(digits, 0, 2)) <= 2 / len(digits.test["label"])
    assert all(check.passed for check in parity.logit_checks(digits, params))


def test_a_trained_network_of_pytorch_s_gives_its_logits_in_ours(digits):
    from twostage_jax.bench.pytorch import TwoStageNetwork

    torch.manual_seed(0)
    net = TwoStageNetwork(64, 10)
    params = ts.from_torch_state_dict(net.state_dict())
    logits = ts.make_logits(ts.MLP((256, 128)), ts.MLP((64, 10)))
    image = ts.as_image(digits.test["image"])
    with torch.no_grad():
        theirs = net(torch.tensor(np.asarray(image)).flatten(1)).numpy()
    np.testing.assert_allclose(
        logits(jax.tree.map(jax.numpy.asarray, params), image), theirs, atol=1e-5
    )


def test_the_accuracies_are_held_to_one_standard_error():
    # Variances 1e-4 over two seeds each: the error is sqrt((1e-4 + 1e-4) / 2) = 0.01.
    near = [0.9 - 0.5**0.5 * 0.01, 0.9 + 0.5**0.5 * 0.01]
    check = parity.accuracy_check(near, [x + 0.009 for x in near])
    assert check.passed and check.limit == pytest.approx(0.01)
    assert not parity.accuracy_check(near, [x + 0.011 for x in near]).passed


def test_nan_does_not_pass():
    assert not parity.Check("a", "b", float("nan"), 1.0).passed


def test_the_certificate_is_printed_and_written(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parity, "SEEDS", range(2))
    monkeypatch.setattr(parity, "STEPS", 10)
    monkeypatch.setattr(parity, "stage_checks", lambda data: parity.placeholder_checks(data, 10))
    parity.certify("digits", tmp_path / "parity", quick=True)
    written = json.loads((tmp_path / "parity" / "parity.json").read_text())
    assert written["epochs"] == 1 and len(written["ours"]) == len(written["torch"]) == 2
    assert all(check["passed"] for check in written["checks"])
    assert "parity of ours and PyTorch on digits" in capsys.readouterr().out
    monkeypatch.setattr(parity, "find_spec", lambda name: None)
    with pytest.raises(ts.UserError, match="--parity needs PyTorch"):
        parity.certify("digits")
