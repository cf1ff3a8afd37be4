"""Equality of ours and PyTorch's S1 and S0. These tests need PyTorch, which CI installs."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest

import twostage_jax as ts
from twostage_jax.show.terminal import Terminal

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # threads that wait for a busy core make a step 20 times slower

from twostage_jax.bench import pairs, parity, steps  # noqa: E402


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
    # Room on every processor: sums in another order differ by a few roundings.
    assert checks["stage 1, float32: gradient"].difference < parity.GRADIENT_LIMIT / 10
    assert checks["stage 2, float32: gradient"].difference < parity.GRADIENT_LIMIT / 10
    assert checks["Adam, float32: step / learning rate"].difference < parity.ADAM_LIMIT / 5


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


def failed(checks):
    """Names of the checks that fail by a factor of ten or more."""
    return {c.name.split(": ")[1] for c in checks if not c.difference <= 10 * c.limit}


def checks(case, steps=2):
    """Checks of one case of a stage, in the precision of the case."""
    kind = parity.exact_checks if case.double else parity.step_checks
    return kind("stage", [case], steps)


def with_loss(case, change):
    """The case with a part of our loss changed: `change(stage.loss, params, key, batch)`."""
    loss = case.stage.loss
    stage = ts.Stage(case.stage.init, lambda *given: change(loss, *given))
    return case._replace(stage=stage)


def transposed(case):
    """Ours reads a kernel [in, out] as if it were PyTorch's [out, in]."""
    params = jax.tree.map(np.copy, case.params)
    layer = params["encoder"]["params"]["dense_1"]
    layer["kernel"] = layer["kernel"].T.reshape(layer["kernel"].shape)
    return case._replace(params=params)


def shuffled(case):
    """Ours sees two neighbouring examples at the border of two batches in the other order."""
    data = {name: np.copy(values) for name, values in case.data.items()}
    first, second = case.order[pairs.BATCH - 1], case.order[pairs.BATCH]
    for values in data.values():
        values[[first, second]] = values[[second, first]]
    return case._replace(data=data)


def uncorrected(case):
    """Adam without its bias correction."""
    adam = pairs.ADAM

    def update(updates, state, params=None):
        _, state = adam.update(updates, state, params)
        steps = jax.tree.map(lambda m, v: -pairs.RATE * m / (v**0.5 + 1e-8), state.mu, state.nu)
        return steps, state

    return case._replace(tx=optax.GradientTransformation(adam.init, update))


FAULTS = {
    "bias correction": uncorrected,
    "transposed weight": transposed,
    "shuffle": shuffled,
    "half of the gradient": lambda case: with_loss(case, halved),
    "bias without gradient": lambda case: with_loss(case, without_bias),
}
COARSE = ("bias correction", "transposed weight")  # far above a rounding of float32


def halved(loss, params, key, batch):
    value, metrics = loss(params, key, batch)
    return 0.5 * value + 0.5 * jax.lax.stop_gradient(value), metrics


def without_bias(loss, params, key, batch):
    layers = params["decoder"]["params"]
    last = layers["dense_1"]
    fixed = {**last, "bias": jax.lax.stop_gradient(last["bias"])}
    decoder = {"params": {**layers, "dense_1": fixed}}
    return loss({**params, "decoder": decoder}, key, batch)


@pytest.mark.parametrize("fault", [name for name in FAULTS if name not in COARSE])
def test_a_fault_fails_the_certificate_by_a_factor_of_ten(fault, dataset):
    exact = FAULTS[fault](steps.make_case(dataset, "stage 1", 0, double=True))
    assert failed(checks(exact)), "float64 does not see the fault"


@pytest.mark.parametrize("fault", COARSE)
def test_float32_detects_a_coarse_fault(fault, dataset):
    case = FAULTS[fault](steps.make_case(dataset, "stage 1", 0))
    assert failed(checks(case))


def test_without_a_fault_nothing_is_near_its_limit(dataset):
    for case in (
        steps.make_case(dataset, "stage 1", 0, double=True),
        steps.make_case(dataset, "stage 1", 0),
        steps.make_case(dataset, "stage 2", 0),
    ):
        for check in checks(case):
            assert check.difference < check.limit / 10, check


OTHER_ADAMS = {
    "rounded bias correction": optax.adam(pairs.RATE),
    "epsilon": ts.adam(pairs.RATE, eps=1.1e-8),
    "decay": ts.adam(pairs.RATE, b2=0.998),
    "learning rate": ts.adam(1.001 * pairs.RATE),
}


def test_adams_steps_are_far_below_the_limit():
    assert steps.adam_gap(steps=20) < parity.ADAM_LIMIT / 5


@pytest.mark.parametrize("other", OTHER_ADAMS)
def test_another_adam_does_not_pass(other):
    assert not parity.adam_check(steps.adam_gap(OTHER_ADAMS[other], steps=20)).passed


def test_one_step_at_a_time_equals_a_whole_epoch_bit_for_bit(dataset):
    few = {name: values[:64] for name, values in dataset.train.items()}
    case = steps.make_case(dataclasses.replace(dataset, train=few), "stage 1", 0)
    losses, params = steps.our_steps(case, 2)
    train = pairs.compiled_train(case.stage, case.tx, 1)
    order = case.order[None]
    whole, metrics = train(steps.start_state(case), case.data, jax.random.key(0), order)
    assert ts.digest(params) == ts.digest(whole.params)
    assert np.mean(losses) == pytest.approx(float(metrics["loss"][0]), rel=1e-6)


@pytest.mark.slow
def test_mnist_is_far_below_the_limits(mnist):
    data = ts.load(f"idx:{mnist}", 0)
    few = {name: values[:6400] for name, values in data.train.items()}
    data = dataclasses.replace(data, train=few)
    for check in parity.stage_checks(data, 200, [0]):
        assert check.difference <= check.limit / 5, check


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


def test_mean_accuracies_may_differ_by_three_standard_errors():
    # Variances 1e-4 over two seeds: the error is sqrt((1e-4 + 1e-4) / 2) = 0.01.
    near = [0.9 - 0.5**0.5 * 0.01, 0.9 + 0.5**0.5 * 0.01]
    check = parity.accuracy_check(near, [x + 0.029 for x in near])
    assert check.passed and check.limit == pytest.approx(0.03)
    assert not parity.accuracy_check(near, [x + 0.031 for x in near]).passed


def test_nan_does_not_pass():
    assert not parity.Check("a", "b", float("nan"), 1.0).passed
