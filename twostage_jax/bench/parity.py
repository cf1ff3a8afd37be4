"""Proof that ours and PyTorch's S1 and S0 compute the same: a certificate with every difference.

Both start from the same weights, carried over by `torch_names`, and see the same examples in the
same order. Ours goes through the engine's compiled loop, a step at a time.
"""

import functools
import statistics
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from twostage_jax import folder as folders
from twostage_jax.bench.harness import default_data
from twostage_jax.compilation import compile_all, compiler_options
from twostage_jax.data import Dataset
from twostage_jax.encoding import encode
from twostage_jax.engine import lower_epoch, make_epoch, make_train
from twostage_jax.errors import UserError
from twostage_jax.head import classifier, make_logits
from twostage_jax.nets import MLP, Identity, mirror
from twostage_jax.optimiser import adam
from twostage_jax.pretrain import autoencoder, placeholder
from twostage_jax.scoring import evaluate
from twostage_jax.sources import load
from twostage_jax.stage import Params, Stage, TrainState, as_image, digest, freeze, init_state
from twostage_jax.terminal import Terminal
from twostage_jax.torch_names import from_torch_state_dict, torch_state_dict

STEPS, FIRST_STEPS, BATCH, RATE = 200, 20, 32, 0.001
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


class Ours(NamedTuple):
    """The blog's network as modules, and its stages."""

    encoder: MLP
    head: MLP
    autoencoder: Stage
    placeholder: Stage
    classifier: Stage


def make_ours(dataset: Dataset) -> Ours:
    """The blog's network for the shapes of `dataset`."""
    mlp = functools.partial(MLP, torch_init=True)
    size = int(np.prod(dataset.image_shape))
    encoder, head = mlp((256, 128)), mlp((64, len(dataset.classes)))
    decoder = mlp(mirror((256, 128), size))
    stages = autoencoder(encoder, decoder), placeholder(encoder), classifier(encoder, head)
    return Ours(encoder, head, *stages)


def start_params(ours: Ours, dataset: Dataset, seed: int) -> Params:
    """Initial values of all three groups."""
    few = {name: values[:2] for name, values in dataset.train.items()}
    keys = jax.random.split(jax.random.key(seed))
    tx = optax.sgd(0.0)
    first = init_state(ours.autoencoder, tx, keys[0], few).params
    second = init_state(ours.classifier, tx, keys[1], few, encoder=first["encoder"]).params
    return {**first, "head": second["head"]}


def make_order(seed: int, epochs: int, count: int) -> np.ndarray:
    """Which example comes when, int32 `[epochs, count]`, for both."""
    random = np.random.RandomState(seed)
    return np.stack([random.permutation(count) for _ in range(epochs)]).astype(np.int32)


def our_steps(
    stage: Stage, tx: Any, state: TrainState, data: Any, order: np.ndarray, steps: int
) -> tuple[list[float], Params]:
    """Losses of the first `steps` steps of one epoch of the engine, and where they lead."""
    epoch = make_epoch(stage, tx, BATCH, state, data)
    epoch = compile_all(lower_epoch(epoch, state, data))
    state, rows = jax.device_put(state, may_alias=False), jax.device_put(order)
    losses = []
    for step in range(min(steps, epoch.full)):
        zeros = jax.device_put(epoch.zeros)
        bounds = jax.device_put((np.int32(step), np.int32(step + 1)))
        state, sums = epoch.advance(state, zeros, data, rows, jax.random.key(0), *bounds)
        losses.append(float(sums["loss"]) / float(sums["count"]))
    return losses, jax.device_get(state.params)


def torch_network(params: Params) -> Any:
    """A `TwoStageNetwork` with our weights."""
    import torch

    from twostage_jax.bench.pytorch import TwoStageNetwork

    arrays = torch_state_dict(params)
    net = TwoStageNetwork(arrays["stage1.0.weight"].shape[1], len(arrays["stage2.2.bias"]))
    net.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    return net


def torch_steps(
    loss: Callable, parameters: list, tensors: tuple, order: np.ndarray, steps: int | None = None
) -> Iterator[float]:
    """Losses of PyTorch's steps in that order."""
    import torch

    from twostage_jax.bench.pytorch import batches, make_step

    step = make_step(loss, torch.optim.Adam(parameters, lr=RATE))
    for number, batch in enumerate(batches(tensors, torch.tensor(order).long())):
        if number == steps:
            break
        yield step(*batch).item()


def torch_tensors(split: dict[str, np.ndarray]) -> tuple[Any, Any]:
    """Images and labels of a split as PyTorch's S1 takes them."""
    import torch

    from twostage_jax.bench.pytorch import normalised

    return normalised(split["image"], "cpu"), torch.tensor(split["label"]).long()


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
    exact = stage_1_gap(dataset, 0, steps, double=True)
    single = [stage_1_gap(dataset, seed, steps, double=False) for seed in SEEDS]
    together = sum(max(gap.losses) <= LOSS for gap in single)
    first = max(max(gap.losses[:FIRST_STEPS]) for gap in single)
    second, over = stage_2_gap(dataset, 0, steps), f"{len(exact.losses)} steps"
    few = f"first {FIRST_STEPS} steps, {len(single)} seeds; {together} of them for {over}"
    return [
        Check("stage 1, float64: loss", over, max(exact.losses), LOSS),
        Check("stage 1, float64: parameters", over, exact.parameters, PARAMETERS),
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


def train_ours(dataset: Dataset, seed: int, epochs: int) -> tuple[Params, float]:
    """Both stages from the shared start and order: parameters and test accuracy."""
    ours, params = make_ours(dataset), start_params(make_ours(dataset), dataset, seed)
    data, tx = jax.device_put(dataset.train), adam(RATE)
    key, order = jax.random.key(0), make_order(seed, 2 * epochs, len(dataset.train["label"]))

    def train(stage: Stage, tx: Any, data: Any, order: np.ndarray, **groups: Any) -> Params:
        state = init_state(stage, tx, key, dataset.train, **groups)
        run = jax.jit(make_train(stage, tx, BATCH, epochs), compiler_options=compiler_options())
        return run(state, data, key, order)[0].params

    first = {name: params[name] for name in ("encoder", "decoder")}
    moved = train(ours.autoencoder, tx, data, order[:epochs], **first)
    encoder = moved["encoder"]
    apply: Any = ours.encoder.apply
    features = encode(apply, encoder, data["image"])
    on_features = Stage(ours.classifier.init, classifier(Identity(), ours.head).loss)
    groups = {"encoder": encoder, "head": params["head"]}
    tx, data = freeze(tx, "encoder"), {**data, "image": features}
    params = {**moved, **train(on_features, tx, data, order[epochs:], **groups)}
    scores = evaluate(make_logits(ours.encoder, ours.head), params, dataset.test)
    return params, float(scores["accuracy"])


def train_torch(dataset: Dataset, seed: int, epochs: int) -> float:
    """Test accuracy of PyTorch's S1 from the shared start and order."""
    net = torch_network(start_params(make_ours(dataset), dataset, seed))
    images, labels = torch_tensors(dataset.train)
    order = make_order(seed, 2 * epochs, len(labels))
    trained = net.stage1_parameters("autoencoder")
    for _ in torch_steps(net.reconstruct, trained, (images,), order[:epochs].ravel()):
        pass
    trained = list(net.stage2.parameters())
    for _ in torch_steps(net.classify, trained, (images, labels), order[epochs:].ravel()):
        pass
    found = net(torch_tensors(dataset.test)[0]).argmax(1).numpy()
    return float((found == dataset.test["label"]).mean())


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
