"""Proof that ours and PyTorch's S1 and S0 compute the same: a certificate with every difference.

Both start from the same weights, converted by `torch_names`, and see the same examples in the same
order. `steps` explains why float32 is compared step by step.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from twostage_jax.bench.harness import default_data, has_torch
from twostage_jax.bench.pairs import (
    make_ours,
    torch_network,
    torch_tensors,
    train_ours,
    train_torch,
)
from twostage_jax.bench.steps import (
    Case,
    adam_gap,
    make_case,
    median,
    our_steps,
    share_of_largest,
    step_gaps,
    trajectory,
)
from twostage_jax.data.dataset import Dataset
from twostage_jax.data.sources import load
from twostage_jax.errors import UserError
from twostage_jax.show.terminal import Terminal
from twostage_jax.stages.heads.trained import make_logits
from twostage_jax.stages.stage import Params, as_image
from twostage_jax.stages.torch_names import from_torch_state_dict
from twostage_jax.store.atomic import write_bytes
from twostage_jax.store.layout import create_folder
from twostage_jax.trees import digest

STEPS = 200
SEEDS = tuple(range(5))
# Relative differences. On the processor of docs/benchmarks.md every limit leaves a factor of ten or
# more, because processors round differently; a fault of the network exceeds it by ten times.
EXACT_LOSS_LIMIT = 1e-9
EXACT_PARAMETER_LIMIT = 1e-7
LOSS_LIMIT = 1e-4  # ten times the rounding of a sum of 25,088 squares
GRADIENT_LIMIT = 1e-4
UPDATE_LIMIT = 1e-3  # Adam magnifies the rounding of gradients that are nearly zero
ADAM_LIMIT = 5e-6  # `optax.adam`, whose bias correction is rounded, differs by 1e-5
LOGIT_LIMIT = 1e-5
ERRORS = 3  # standard errors between the mean accuracies: one in 370 correct programs exceeds it


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


def exact_checks(name: str, cases: Sequence[Case], steps: int) -> list[Check]:
    """Compare whole trainings of a stage in float64, where only the mathematics can differ."""
    gaps = [trajectory(case, steps) for case in cases]
    over = f"{len(gaps[0].losses)} steps, {len(cases)} seeds"
    loss = max(max(gap.losses) for gap in gaps)
    parameters = max(gap.parameters for gap in gaps)
    return [
        Check(f"{name}, float64: loss", over, loss, EXACT_LOSS_LIMIT),
        Check(f"{name}, float64: parameters", over, parameters, EXACT_PARAMETER_LIMIT),
    ]


def step_checks(name: str, cases: Sequence[Case], steps: int) -> list[Check]:
    """Compare single steps of a stage in float32, each from equal states.

    Of gradient and update the median over the steps counts: in a few steps a unit is active in one
    program alone, which a fault would not be.
    """
    gaps = [step_gaps(case, steps) for case in cases]
    over = f"each of {len(gaps[0])} steps, {len(cases)} seeds"
    usual = f"median of {len(gaps[0])} steps, {len(cases)} seeds"
    loss = max(gap.loss for seed in gaps for gap in seed)
    gradient = max(median(seed, "gradient") for seed in gaps)
    update = max(median(seed, "update") for seed in gaps)
    return [
        Check(f"{name}, float32: loss", over, loss, LOSS_LIMIT),
        Check(f"{name}, float32: gradient", usual, gradient, GRADIENT_LIMIT),
        Check(f"{name}, float32: update", usual, update, UPDATE_LIMIT),
    ]


def stage_checks(dataset: Dataset, steps: int = STEPS, seeds: Sequence[int] = SEEDS) -> list[Check]:
    """Compare stage 1 in float64, both stages in float32, Adam alone, and S0 bit for bit.

    Stage 2 has no check in float64: a classifier of ours computes its logits in float32.
    """
    exact = [make_case(dataset, "stage 1", seed, double=True) for seed in seeds]
    checks = exact_checks("stage 1", exact, steps)
    for name in ("stage 1", "stage 2"):
        checks += step_checks(name, [make_case(dataset, name, seed) for seed in seeds], steps)
    return [*checks, adam_check(adam_gap(steps=STEPS)), *placeholder_checks(dataset, steps)]


def adam_check(difference: float) -> Check:
    """Limit the difference of Adam's steps on equal gradients."""
    over = f"{STEPS} steps, gradients from 1e-12 to 1"
    return Check("Adam, float32: step / learning rate", over, difference, ADAM_LIMIT)


def placeholder_checks(dataset: Dataset, steps: int = STEPS) -> list[Check]:
    """Check that stage 1 of S0 does nothing in either program, bit for bit."""
    case = make_case(dataset, "S0", 0)
    mine, after = our_steps(case, steps)
    # Relative to nothing, because PyTorch's loss is zero too.
    gap = trajectory(case, steps)
    moved = gap.parameters
    # A digest, because a difference of 0.0 would let -0.0 pass for 0.0.
    if digest(after) != digest(case.params):
        moved = float("inf")
    over = f"{len(mine)} steps"
    return [
        Check("S0: loss in either program", over, max(*map(abs, mine), *gap.losses), 0.0),
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
    carried = share_of_largest(logits(params, as_image(image)), theirs)
    back = share_of_largest(logits(converted, as_image(image)), theirs)
    over = f"{len(image)} images"
    return [
        Check("ours in PyTorch: logits, share of largest", over, carried, LOGIT_LIMIT),
        Check("PyTorch's in ours: logits, share of largest", over, back, LOGIT_LIMIT),
    ]


def accuracy_check(mine: list[float], theirs: list[float]) -> Check:
    """Limit the difference of the mean test accuracies to three of its standard errors."""
    means = (statistics.mean(mine), statistics.mean(theirs))
    error = ((statistics.variance(mine) + statistics.variance(theirs)) / len(mine)) ** 0.5
    limit = ERRORS * error
    over = f"{len(mine)} seeds, {means[0]:.4f} and {means[1]:.4f}"
    return Check("test accuracy, difference of the means", over, abs(means[0] - means[1]), limit)


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
