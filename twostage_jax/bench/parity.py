"""Proof that ours and PyTorch's S1 and S0 compute the same: a certificate with every difference.

Both start from the same weights, carried over by `torch_names`, and see the same examples in the
same order. Ours goes through the engine's compiled loop, a step at a time.
"""

import statistics
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from twostage_jax.bench.harness import default_data
from twostage_jax.bench.pairs import (
    RATE,
    make_order,
    make_ours,
    our_steps,
    start_params,
    torch_network,
    torch_steps,
    torch_tensors,
    train_ours,
    train_torch,
)
from twostage_jax.data.dataset import Dataset
from twostage_jax.data.sources import load
from twostage_jax.engine.state import TrainState, init_state
from twostage_jax.errors import UserError
from twostage_jax.show.terminal import Terminal
from twostage_jax.stages.freezing import freeze
from twostage_jax.stages.heads.trained import make_logits
from twostage_jax.stages.optimiser import adam
from twostage_jax.stages.stage import Params, as_image
from twostage_jax.stages.torch_names import from_torch_state_dict, torch_state_dict
from twostage_jax.store import layout as folders
from twostage_jax.trees import digest

STEPS, FIRST_STEPS = 200, 20
LOSS, PARAMETERS, LOGITS = 1e-5, 1e-4, 1e-5
SEEDS = range(5)


class Check(NamedTuple):
    """One line of the certificate: `difference` must not be above `limit`."""

    what: str
    over: str
    difference: float
    limit: float

    @property
    def passed(self) -> bool:
        """False for NaN, too."""
        return bool(self.difference <= self.limit)


class Gap(NamedTuple):
    """Relative difference of the loss in each step, and of the parameters at the end."""

    losses: list[float]
    parameters: float


def stage_1_gap(dataset: Dataset, seed: int, steps: int, double: bool) -> Gap:
    """S1's stage 1 in ours and in PyTorch, in float32 or in float64."""
    ours, order = make_ours(dataset), make_order(seed, 1, len(dataset.train["label"]))[0]
    params = start_params(ours, dataset, seed)
    groups = {name: jax.device_get(params[name]) for name in ("encoder", "decoder")}
    net, images = torch_network(params), torch_tensors(dataset.train)[0]
    dtype = np.float64 if double else np.float32
    # The images as PyTorch rounds them, so that only the training is compared.
    shape = dataset.train["image"].shape
    data = {"image": images.numpy().reshape(shape), "label": dataset.train["label"]}
    if double:
        net, images = net.double(), images.double()
    with jax.enable_x64(double):
        groups, tx = jax.tree.map(lambda x: jax.numpy.asarray(x, dtype), groups), adam(RATE)
        state = TrainState(groups, tx.init(groups), jax.numpy.zeros((), np.int32))
        mine, after = our_steps(ours.autoencoder, tx, state, jax.device_put(data), order, steps)
    trained = net.stage1_parameters("autoencoder")
    theirs = list(torch_steps(net.reconstruct, trained, (images,), order, len(mine)))
    return Gap(_relative(mine, theirs), _parameter_gap(after, net))


def stage_2_gap(dataset: Dataset, seed: int, steps: int) -> Gap:
    """S1's stage 2 in ours and in PyTorch, in float32."""
    ours, order = make_ours(dataset), make_order(seed, 1, len(dataset.train["label"]))[0]
    params, data = start_params(ours, dataset, seed), jax.device_put(dataset.train)
    net, tx = torch_network(params), freeze(adam(RATE), "encoder")
    groups = {"encoder": params["encoder"], "head": params["head"]}
    state = init_state(ours.classifier, tx, jax.random.key(0), data, **groups)
    mine, after = our_steps(ours.classifier, tx, state, data, order, steps)
    trained, tensors = list(net.stage2.parameters()), torch_tensors(dataset.train)
    theirs = list(torch_steps(net.classify, trained, tensors, order, len(mine)))
    return Gap(_relative(mine, theirs), _parameter_gap(after, net))


def stage_checks(dataset: Dataset, steps: int = STEPS) -> list[Check]:
    """Losses and parameters of both stages, step by step, and the exactness of S0.

    In float32 a unit whose input is zero but for rounding is sooner or later on in one program and
    off in the other; from there both go their ways, as PyTorch in float32 and in float64 do. So
    stage 1 is held to its limits in float64, and in float32 over its first steps; how many seeds
    stay together for all steps is said beside it.
    """
    exact = [stage_1_gap(dataset, seed, steps, double=True) for seed in SEEDS]
    single = [stage_1_gap(dataset, seed, steps, double=False) for seed in SEEDS]
    together = sum(max(gap.losses) <= LOSS for gap in single)
    first = max(max(gap.losses[:FIRST_STEPS]) for gap in single)
    second, over = stage_2_gap(dataset, 0, steps), f"{len(exact[0].losses)} steps"
    seeds = f"{over}, {len(exact)} seeds"
    few = f"first {FIRST_STEPS} steps, {len(single)} seeds; {together} of them for {over}"
    return [
        Check("stage 1, float64: loss", seeds, max(max(gap.losses) for gap in exact), LOSS),
        Check("stage 1, float64: parameters", seeds, max(g.parameters for g in exact), PARAMETERS),
        Check("stage 1, float32: loss", few, first, LOSS),
        Check("stage 2, float32: loss", over, max(second.losses), LOSS),
        Check("stage 2, float32: parameters", over, second.parameters, PARAMETERS),
        *placeholder_checks(dataset, steps),
    ]


def placeholder_checks(dataset: Dataset, steps: int = STEPS) -> list[Check]:
    """S0's stage 1 does nothing, in both, to the bit."""
    ours, order = make_ours(dataset), make_order(0, 1, len(dataset.train["label"]))[0]
    params, data = start_params(ours, dataset, 0), jax.device_put(dataset.train)
    encoder, net, tx = params["encoder"], torch_network(params), adam(RATE)
    state = init_state(ours.placeholder, tx, jax.random.key(0), data, encoder=encoder)
    mine, after = our_steps(ours.placeholder, tx, state, data, order, steps)
    parameters, images = net.stage1_parameters("placeholder"), torch_tensors(dataset.train)[:1]
    theirs = list(torch_steps(net.placeholder, parameters, images, order, len(mine)))
    moved = _parameter_gap({"encoder": encoder}, net)
    same = digest(after["encoder"]) == digest(encoder)
    over = f"{len(mine)} steps"
    return [
        Check("S0: loss of either", over, max(map(abs, mine + theirs)), 0.0),
        Check("S0: how far either encoder moved", over, moved if same else np.inf, 0.0),
    ]


def logit_checks(dataset: Dataset, params: Params) -> list[Check]:
    """Logits of one model in both, and after the way there and back."""
    import torch

    ours, net = make_ours(dataset), torch_network(params)
    image = dataset.test["image"]
    mine = make_logits(ours.encoder, ours.head)
    with torch.no_grad():
        theirs = net(torch_tensors(dataset.test)[0]).numpy()
    back = from_torch_state_dict(net.state_dict())
    there = _of_largest(mine(params, as_image(image)), theirs)
    again = _of_largest(mine(back, as_image(image)), theirs)
    over = f"{len(image)} images"
    return [
        Check("ours in PyTorch: logits, of the largest", over, there, LOGITS),
        Check("PyTorch's in ours: logits, of the largest", over, again, LOGITS),
    ]


def accuracy_check(mine: list[float], theirs: list[float]) -> Check:
    """Difference of the mean test accuracies against one standard error of it, over the seeds."""
    gap = abs(statistics.mean(mine) - statistics.mean(theirs))
    error = ((statistics.variance(mine) + statistics.variance(theirs)) / len(mine)) ** 0.5
    over = f"{len(mine)} seeds, {statistics.mean(mine):.4f} and {statistics.mean(theirs):.4f}"
    return Check("test accuracy, difference of the means", over, gap, error)


def _parameter_gap(params: Params, net: Any) -> float:
    """The largest over all arrays of the largest difference as a share of the largest value."""
    state = net.state_dict()
    found = torch_state_dict(params)
    return max(_of_largest(array, state[name].numpy()) for name, array in found.items())


def _relative(mine: list[float], theirs: list[float]) -> list[float]:
    return [abs(a - b) / abs(b) for a, b in zip(mine, theirs, strict=True)]


def _of_largest(found: Any, expected: np.ndarray) -> float:
    """The largest difference as a share of the largest value."""
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def certify(
    data: str | None = None,
    out: Path | None = None,
    *,
    quick: bool = False,
    terminal: Terminal | None = None,
) -> list[Check]:
    """Run all checks, print the certificate and write it to `parity.json` in `out`.

    Args:
        data: SPEC of the data, by default as for `bench`.
        out: folder to make, by default `runs/parity-TIME`.
        quick: one epoch of each stage, in place of five, for the accuracies.
        terminal: where to print.

    Raises:
        UserError: PyTorch is not installed; a check that fails.
    """
    if find_spec("torch") is None:
        raise UserError("--parity needs PyTorch: pip install '.[bench]'")
    terminal = terminal or Terminal()
    with terminal.phase("data", "reading data"):
        dataset = load(data or default_data(), 0)
    folder = folders.create(out, "parity")
    with terminal.phase("parity", "step by step"):
        checks = stage_checks(dataset)
    epochs, mine, theirs, params = 1 if quick else 5, [], [], {}
    for seed in SEEDS:
        with terminal.phase("parity", f"training both, seed {seed}"):
            params, accuracy = train_ours(dataset, seed, epochs)
            mine.append(accuracy)
            theirs.append(train_torch(dataset, seed, epochs))
    checks += [*logit_checks(dataset, params), accuracy_check(mine, theirs)]
    record = {"data": dataset.name, "epochs": epochs, "ours": mine, "torch": theirs}
    lines = [check._asdict() | {"passed": check.passed} for check in checks]
    folders.write_json(folder, "parity.json", record | {"checks": lines})
    show(checks, dataset, epochs, terminal)
    if failed := [check.what for check in checks if not check.passed]:
        raise UserError(f"parity does not hold on {dataset.name}: {'; '.join(failed)}")
    return checks


def show(checks: list[Check], dataset: Dataset, epochs: int, terminal: Terminal) -> None:
    """The certificate."""
    title = f"parity of ours and PyTorch on {dataset.name}, {epochs}+{epochs} epochs"
    rows = [
        (c.what, c.over, f"{c.difference:.1e}", f"{c.limit:.1e}", "pass" if c.passed else "FAIL")
        for c in checks
    ]
    terminal.table(title, ("what", "over", "largest", "limit", ""), rows)
