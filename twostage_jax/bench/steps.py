"""Ours and PyTorch step by step: from one start in float64, from equal states in float32.

Two correct programs differ in float32, for two reasons:

- XLA adds the squared errors of a batch one after the other: of n terms, the rounding of the sum
  is about `sqrt(n) * 2**-24`, 9.4e-6 for 32 images of 784 pixels. PyTorch adds in pairs (1e-7).
  This concerns the reported loss only: its gradient does not contain the sum.
- Products summed in another order differ by 1e-7. Sooner or later this decides on which side of
  zero the input of some ReLU is, and Adam turns the changed gradient into changes of the size of
  the learning rate. One unit that is active for one image in one program alone changes the loss of
  later steps by 1e-6 to 1e-3, and that of its own step by 1e-7.

Therefore float32 is compared from equal states: before every step ours gets PyTorch's parameters
and moments.
"""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
import optax

from twostage_jax.bench.pairs import (
    ADAM,
    BATCH,
    FROZEN_ADAM,
    RATE,
    Arrays,
    compiled_train,
    make_order,
    make_ours,
    start_params,
    torch_adam,
    torch_network,
    torch_steps,
    torch_tensors,
)
from twostage_jax.data.dataset import Dataset
from twostage_jax.engine.state import TrainState
from twostage_jax.stages.stage import Params, Stage
from twostage_jax.stages.torch_names import from_torch_state_dict, torch_state_dict

if TYPE_CHECKING:  # PyTorch is optional
    import torch

    from twostage_jax.bench.pairs import Tensors
    from twostage_jax.bench.torch.network import TwoStageNetwork

STAGES = ("stage 1", "stage 2", "S0")
DECAY = 0.9  # of Adam's first moment, in both programs


class Case(NamedTuple):
    """One stage in both programs before its first step. A test replaces a part of ours."""

    stage: Stage
    tx: optax.GradientTransformation
    params: Params  # of ours; NumPy's
    data: Arrays
    net: "TwoStageNetwork"
    loss: "Callable[..., torch.Tensor]"
    parameters: "list[torch.nn.Parameter]"  # that PyTorch trains
    tensors: "Tensors"
    order: np.ndarray  # of the examples, int32 [N]
    double: bool  # float64


class Trajectory(NamedTuple):
    """Relative difference of the loss in each step, and of the parameters after the last one."""

    losses: list[float]
    parameters: float


class StepGap(NamedTuple):
    """Relative differences of one step from equal states."""

    loss: float
    gradient: float  # the largest over the parameter arrays, each by its norm
    update: float  # the same of the changes of the parameters


def make_case(dataset: Dataset, name: str, seed: int, double: bool = False) -> Case:
    """Make a stage of `STAGES` in both programs, with equal initial values.

    Ours gets the images and features as PyTorch computes them, so that only the training is
    compared.
    """
    ours = make_ours(dataset)
    params = start_params(dataset, seed)
    net = torch_network(params)
    images, labels = torch_tensors(dataset.train)
    dtype = np.float64 if double else np.float32
    if double:
        net = net.double()
        images = images.double()
    tensors = (images,)
    tx = ADAM
    if name == "stage 1":
        groups = ("encoder", "decoder")
        stage = ours.autoencoder
        loss = net.reconstruct
        parameters = net.stage1_parameters("autoencoder")
    elif name == "stage 2":
        groups = ("encoder", "head")
        stage = ours.on_features
        tx = FROZEN_ADAM
        loss = net.classify_features
        parameters = list(net.stage2.parameters())
        tensors = (net.stage1(images).detach(), labels)
    else:
        groups = ("encoder",)
        stage = ours.placeholder
        loss = net.placeholder
        parameters = net.stage1_parameters("placeholder")
    chosen = {group: jax.device_get(params[group]) for group in groups}
    start = jax.tree.map(lambda array: np.asarray(array, dtype), chosen)
    inputs = tensors[0].numpy()
    if name != "stage 2":
        inputs = inputs.reshape(dataset.train["image"].shape)
    data = {"image": inputs, "label": dataset.train["label"]}
    order = make_order(seed, 1, len(labels))[0]
    return Case(stage, tx, start, data, net, loss, parameters, tensors, order, double)


def our_step(case: Case) -> Callable[[TrainState, int], tuple[TrainState, float]]:
    """Make the training of one batch by its number: `(state, number) -> (state, loss)`."""
    # A training of one epoch on one batch is one step of the engine.
    train = compiled_train(case.stage, case.tx, 1)
    within = np.arange(BATCH, dtype=np.int32)[None]

    def step(state: TrainState, number: int) -> tuple[TrainState, float]:
        rows = case.order[number * BATCH : (number + 1) * BATCH]
        batch = {name: values[rows] for name, values in case.data.items()}
        state, metrics = train(state, batch, jax.random.key(0), within)
        return state, float(metrics["loss"][0])

    return step


def start_state(case: Case) -> TrainState:
    """Make the state before the first step."""
    groups = jax.tree.map(jax.numpy.asarray, case.params)
    return TrainState(groups, case.tx.init(groups), jax.numpy.zeros((), np.int32))


def full_batches(case: Case, steps: int) -> int:
    """Return the number of steps, at most that of the full batches in an epoch."""
    return min(steps, len(case.order) // BATCH)


def our_steps(case: Case, steps: int) -> tuple[list[float], Params]:
    """Train the first batches of an epoch; return their losses and the parameters."""
    losses = []
    with jax.enable_x64(case.double):
        step = our_step(case)
        state = start_state(case)
        for number in range(full_batches(case, steps)):
            state, loss = step(state, number)
            losses.append(loss)
        return losses, jax.device_get(state.params)


def trajectory(case: Case, steps: int) -> Trajectory:
    """Train both programs from the same start and compare every loss and the last parameters."""
    mine, after = our_steps(case, steps)
    theirs = torch_steps(case.loss, torch_adam(case.parameters), case.tensors, case.order)
    pairs = zip(mine, itertools.islice(theirs, len(mine)), strict=True)
    # S0's losses are zero: only an absolute difference is possible there.
    losses = [abs(a - b) / (abs(b) or 1.0) for a, b in pairs]
    return Trajectory(losses, parameter_gap(after, case.net))


def step_gaps(case: Case, steps: int) -> list[StepGap]:
    """Compare single steps in float32, each from PyTorch's state before this step."""
    step = our_step(case)
    state = start_state(case)
    optimiser = torch_adam(case.parameters)
    names = {parameter: name for name, parameter in case.net.named_parameters()}
    trained = [names[parameter] for parameter in case.parameters]
    theirs = torch_steps(case.loss, optimiser, case.tensors, case.order)
    gaps = []
    for number in range(full_batches(case, steps)):
        if number:
            state = _their_state(state, case, optimiser, trained, number)
        before = torch_state_dict(state.params)
        state, mine = step(state, number)
        expected = next(theirs)
        after = torch_state_dict(state.params)
        moments = torch_state_dict(_first_moments(state))
        gradients = []
        updates = []
        for name, parameter in zip(trained, case.parameters, strict=True):
            assert parameter.grad is not None
            moment = optimiser.state[parameter]["exp_avg"]
            # The moments before the step were equal, so their difference is that of the gradients.
            gradients.append(_norm_ratio((moments[name] - moment) / (1 - DECAY), parameter.grad))
            moved = parameter.detach() - before[name]
            updates.append(_norm_ratio(after[name] - before[name] - moved, moved))
        gaps.append(StepGap(abs(mine - expected) / expected, max(gradients), max(updates)))
    return gaps


def _their_state(
    state: TrainState, case: Case, optimiser: "torch.optim.Adam", trained: Sequence[str], count: int
) -> TrainState:
    """Return `state` with PyTorch's parameters, moments and number of steps."""

    def ours(values: Mapping[str, "torch.Tensor"]) -> Params:
        # Copies: PyTorch changes its tensors in place.
        return jax.tree.map(jax.numpy.asarray, from_torch_state_dict(values))

    moments = {}
    for field, key in (("mu", "exp_avg"), ("nu", "exp_avg_sq")):
        values = (optimiser.state[parameter][key] for parameter in case.parameters)
        moments[field] = ours(dict(zip(trained, values, strict=True)))

    def replaced(node: object) -> object:
        if not isinstance(node, optax.ScaleByAdamState):
            return node
        fields = {field: {**getattr(node, field), **groups} for field, groups in moments.items()}
        return node._replace(count=jax.numpy.asarray(count, np.int32), **fields)

    params = ours(case.net.state_dict())
    opt_state = jax.tree.map(replaced, state.opt_state, is_leaf=_is_adam_state)
    return state._replace(
        params={group: params[group] for group in state.params}, opt_state=opt_state
    )


def _is_adam_state(node: object) -> bool:
    return isinstance(node, optax.ScaleByAdamState)


def _first_moments(state: TrainState) -> Params:
    """Find the means of the gradients in Adam's state, also inside that of `freeze`."""
    nodes = jax.tree.leaves(state.opt_state, is_leaf=_is_adam_state)
    (adam,) = filter(_is_adam_state, nodes)
    # Frozen groups have no moments.
    return {name: group for name, group in adam.mu.items() if jax.tree.leaves(group)}


def adam_gap(tx: optax.GradientTransformation = ADAM, steps: int = 200) -> float:
    """Largest difference of Adam's steps on equal gradients, as a share of the learning rate.

    The gradients are random, of sizes from 1e-12 to 1, so that Adam's epsilon of 1e-8 matters for
    some of them. In a training, it matters for those few that are nearly zero.
    """
    import torch

    random = np.random.RandomState(0)
    size = 10.0 ** np.linspace(-12, 0, 1000)
    theirs = torch.nn.Parameter(torch.zeros(1000))
    optimiser = torch_adam([theirs])
    update = jax.jit(tx.update)
    state = tx.init(np.zeros(1000, np.float32))
    largest = 0.0
    for _ in range(steps):
        gradient = (size * random.randn(1000)).astype(np.float32)
        mine, state = update(gradient, state)
        theirs.grad = torch.tensor(gradient)
        # From zero, because a rounding of the parameter would be larger than that of the step.
        with torch.no_grad():
            theirs.zero_()
        optimiser.step()
        expected = theirs.detach().numpy()
        largest = max(largest, float(np.abs(np.asarray(mine) - expected).max()))
    return largest / RATE


def parameter_gap(params: Params, net: "TwoStageNetwork") -> float:
    """Return the largest `share_of_largest` over all parameters of ours."""
    state = net.state_dict()
    mine = torch_state_dict(params)
    return max(share_of_largest(mine[name], state[name].numpy()) for name in mine)


def share_of_largest(
    values: "np.ndarray | jax.Array | torch.Tensor", expected: np.ndarray
) -> float:
    """Return the largest difference as a share of the largest expected value."""
    # Single values may be close to zero, and their relative differences say nothing.
    return float(np.abs(np.asarray(values) - expected).max() / np.abs(expected).max())


def median(gaps: Sequence[StepGap], field: str) -> float:
    """Return the median of a field over the steps."""
    return statistics.median(getattr(gap, field) for gap in gaps)


def _norm_ratio(difference: "torch.Tensor", expected: "torch.Tensor") -> float:
    return (difference.norm() / expected.norm()).item()
