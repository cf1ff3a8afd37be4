"""Proof that ours and PyTorch's S1 and S0 compute the same: a certificate with every difference.

Both start from the same weights, converted by `torch_names`, and see the same examples in the same
order.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
import optax

from twostage_jax.bench.harness import default_data, has_torch
from twostage_jax.bench.pairs import (
    ADAM,
    FROZEN_ADAM,
    make_ours,
    make_pair,
    our_steps,
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
from twostage_jax.stages.heads.trained import make_logits
from twostage_jax.stages.stage import Params, as_image
from twostage_jax.stages.torch_names import from_torch_state_dict, torch_state_dict
from twostage_jax.store.atomic import write_bytes
from twostage_jax.store.layout import create_folder
from twostage_jax.trees import digest

if TYPE_CHECKING:  # PyTorch is optional
    from twostage_jax.bench.torch.network import TwoStageNetwork

STEPS = 200
FIRST_STEPS = 20  # in float32, before rounding can decide for a unit; see `stage_checks`
# Relative differences. An optimiser with another bias correction differs by 5e-3 after 200 steps.
LOSS_LIMIT = 1e-5
PARAMETER_LIMIT = 1e-4
LOGIT_LIMIT = 1e-5
SEEDS = tuple(range(5))


class Check(NamedTuple):
    """A line of the certificate."""

    name: str  # the compared quantity
    over: str  # the steps, seeds or images of the comparison
    difference: float  # the largest one
    limit: float  # the largest difference that passes

    @property
    def passed(self) -> bool:
        """True if the difference is within the limit; False for NaN."""
        return bool(self.difference <= self.limit)


class Gap(NamedTuple):
    """Relative difference of the loss in each step, and of the parameters after the last one."""

    losses: list[float]
    parameters: float


def stage_1_gap(
    dataset: Dataset,
    seed: int,
    steps: int,
    double: bool,
    tx: optax.GradientTransformation = ADAM,
) -> Gap:
    """Compare stage 1 of S1 in float32 or, if `double`, in float64."""
    ours, params, net, order = make_pair(dataset, seed)
    images = torch_tensors(dataset.train)[0]
    # Both get the images as PyTorch rounds them, so that only the training is compared.
    shape = dataset.train["image"].shape
    data = {"image": images.numpy().reshape(shape), "label": dataset.train["label"]}
    groups = {name: jax.device_get(params[name]) for name in ("encoder", "decoder")}
    dtype = np.float32
    if double:
        dtype = np.float64
        net = net.double()
        images = images.double()
    with jax.enable_x64(double):
        groups = jax.tree.map(lambda x: jax.numpy.asarray(x, dtype), groups)
        state = TrainState(groups, tx.init(groups), jax.numpy.zeros((), np.int32))
        mine, after = our_steps(ours.autoencoder, tx, state, data, order, steps)
    parameters = net.stage1_parameters("autoencoder")
    theirs = torch_steps(net.reconstruct, parameters, (images,), order, len(mine))
    return Gap(_relative(mine, list(theirs)), _parameter_gap(after, net))


def stage_2_gap(dataset: Dataset, seed: int, steps: int) -> Gap:
    """Compare stage 2 of S1 in float32."""
    ours, params, net, order = make_pair(dataset, seed)
    groups = {"encoder": params["encoder"], "head": params["head"]}
    stage = ours.classifier
    state = init_state(stage, FROZEN_ADAM, jax.random.key(0), dataset.train, **groups)
    mine, after = our_steps(stage, FROZEN_ADAM, state, dataset.train, order, steps)
    parameters = list(net.stage2.parameters())
    theirs = torch_steps(net.classify, parameters, torch_tensors(dataset.train), order, len(mine))
    return Gap(_relative(mine, list(theirs)), _parameter_gap(after, net))


def stage_checks(dataset: Dataset, steps: int = STEPS, seeds: Sequence[int] = SEEDS) -> list[Check]:
    """Compare losses and parameters of both stages step by step, and S0 exactly.

    In float32 rounding sooner or later decides for some unit whether its input is above zero, and
    then the unit is active in one program and not in the other. From this step on the two trainings
    differ, as PyTorch in float32 and in float64 differ. Therefore stage 1 must meet its limits in
    float64, and in float32 over its first steps. The certificate also gives the number of seeds for
    which float32 stays within the limit for all steps.
    """
    exact = [stage_1_gap(dataset, seed, steps, double=True) for seed in seeds]
    single = [stage_1_gap(dataset, seed, steps, double=False) for seed in seeds]
    second = stage_2_gap(dataset, 0, steps)
    over = f"{len(second.losses)} steps"
    all_seeds = f"{over}, {len(seeds)} seeds"
    within = sum(max(gap.losses) <= LOSS_LIMIT for gap in single)
    first_steps = f"first {FIRST_STEPS} steps, {len(seeds)} seeds; {within} of them for {over}"
    exact_loss = max(max(gap.losses) for gap in exact)
    exact_parameters = max(gap.parameters for gap in exact)
    first_loss = max(max(gap.losses[:FIRST_STEPS]) for gap in single)
    return [
        Check("stage 1, float64: loss", all_seeds, exact_loss, LOSS_LIMIT),
        Check("stage 1, float64: parameters", all_seeds, exact_parameters, PARAMETER_LIMIT),
        Check("stage 1, float32: loss", first_steps, first_loss, LOSS_LIMIT),
        Check("stage 2, float32: loss", over, max(second.losses), LOSS_LIMIT),
        Check("stage 2, float32: parameters", over, second.parameters, PARAMETER_LIMIT),
        *placeholder_checks(dataset, steps),
    ]


def placeholder_checks(dataset: Dataset, steps: int = STEPS) -> list[Check]:
    """Check that stage 1 of S0 does nothing in either program, bit for bit."""
    ours, params, net, order = make_pair(dataset, 0)
    encoder = params["encoder"]
    stage = ours.placeholder
    state = init_state(stage, ADAM, jax.random.key(0), dataset.train, encoder=encoder)
    mine, after = our_steps(stage, ADAM, state, dataset.train, order, steps)
    parameters = net.stage1_parameters("placeholder")
    images = torch_tensors(dataset.train)[:1]
    theirs = list(torch_steps(net.placeholder, parameters, images, order, len(mine)))
    moved = _parameter_gap({"encoder": encoder}, net)
    # A digest, because a difference of 0.0 would let -0.0 pass for 0.0.
    if digest(after["encoder"]) != digest(encoder):
        moved = float("inf")
    over = f"{len(mine)} steps"
    return [
        Check("S0: loss in either program", over, max(map(abs, mine + theirs)), 0.0),
        Check("S0: change of either encoder", over, moved, 0.0),
    ]


def logit_checks(dataset: Dataset, params: Params) -> list[Check]:
    """Compare the logits of one model in both programs, before and after the conversion back."""
    import torch

    ours = make_ours(dataset)
    net = torch_network(params)
    image = dataset.test["image"]
    logits = make_logits(ours.encoder, ours.head)
    with torch.no_grad():
        theirs = net(torch_tensors(dataset.test)[0]).numpy()
    converted = from_torch_state_dict(net.state_dict())
    carried = _share_of_largest(logits(params, as_image(image)), theirs)
    back = _share_of_largest(logits(converted, as_image(image)), theirs)
    over = f"{len(image)} images"
    return [
        Check("ours in PyTorch: logits, share of largest", over, carried, LOGIT_LIMIT),
        Check("PyTorch's in ours: logits, share of largest", over, back, LOGIT_LIMIT),
    ]


def accuracy_check(mine: list[float], theirs: list[float]) -> Check:
    """Compare the difference of the mean test accuracies with its standard error over the seeds."""
    means = (statistics.mean(mine), statistics.mean(theirs))
    error = ((statistics.variance(mine) + statistics.variance(theirs)) / len(mine)) ** 0.5
    over = f"{len(mine)} seeds, {means[0]:.4f} and {means[1]:.4f}"
    return Check("test accuracy, difference of the means", over, abs(means[0] - means[1]), error)


def _parameter_gap(params: Params, net: "TwoStageNetwork") -> float:
    """Return the largest `_share_of_largest` over all parameters of ours."""
    state = net.state_dict()
    arrays = torch_state_dict(params)
    return max(_share_of_largest(array, state[name].numpy()) for name, array in arrays.items())


def _relative(mine: list[float], theirs: list[float]) -> list[float]:
    return [abs(a - b) / abs(b) for a, b in zip(mine, theirs, strict=True)]


def _share_of_largest(values: np.ndarray | jax.Array, expected: np.ndarray) -> float:
    """Return the largest difference as a share of the largest expected value."""
    # Single values may be close to zero, and their relative differences say nothing.
    return float(np.abs(np.asarray(values) - expected).max() / np.abs(expected).max())


def certify(
    data: str | None = None,
    out: Path | None = None,
    *,
    quick: bool = False,
    terminal: Terminal | None = None,
    steps: int = STEPS,
    seeds: Sequence[int] = SEEDS,
) -> list[Check]:
    """Run all checks, print the certificate and write it to `parity.json` in `out`.

    Args:
        data: SPEC of the data, by default `default_data()`.
        out: folder to create, by default `runs/parity-TIME`.
        quick: True to train one epoch of each stage instead of five for the accuracies.
        terminal: output.
        steps: steps that are compared one by one.
        seeds: seeds of the trainings; at least two.

    Raises:
        UserError: PyTorch is not installed, or a check failed.
    """
    if not has_torch():
        raise UserError("--parity needs PyTorch: pip install '.[bench]'")
    terminal = terminal or Terminal()
    epochs = 1 if quick else 5  # 5 as in the blog
    with terminal.status("reading data"):
        dataset = load(data or default_data(), 0)
    folder = create_folder(out, "parity")
    with terminal.status("comparing step by step"):
        checks = stage_checks(dataset, steps, seeds)
    mine = []
    theirs = []
    params: Params = {}
    for seed in seeds:
        with terminal.status(f"training both programs, seed {seed}"):
            params, accuracy = train_ours(dataset, seed, epochs)
            mine.append(accuracy)
            theirs.append(train_torch(dataset, seed, epochs))
    checks += [*logit_checks(dataset, params), accuracy_check(mine, theirs)]
    lines = [{**check._asdict(), "passed": check.passed} for check in checks]
    record = {"data": dataset.name, "epochs": epochs, "ours": mine, "torch": theirs}
    text = json.dumps({**record, "checks": lines}, indent=1)
    write_bytes(folder / "parity.json", f"{text}\n".encode())
    show_certificate(checks, dataset.name, epochs, terminal)
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise UserError(
            f"parity does not hold on {dataset.name} for {'; '.join(failed)}: see {folder}"
        )
    return checks


def show_certificate(checks: list[Check], name: str, epochs: int, terminal: Terminal) -> None:
    """Print the certificate of the data set `name`."""
    rows = []
    for check in checks:
        numbers = (f"{check.difference:.1e}", f"{check.limit:.1e}")
        rows.append((check.name, check.over, *numbers, "pass" if check.passed else "FAIL"))
    title = f"parity of ours and PyTorch on {name}, {epochs}+{epochs} epochs"
    terminal.table(title, ("quantity", "over", "largest", "limit", ""), rows)
