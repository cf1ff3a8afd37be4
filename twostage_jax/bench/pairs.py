"""The same training in ours and in PyTorch: one start, one order of examples."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from twostage_jax.data.dataset import Dataset
from twostage_jax.engine.compile import compile_all, compiler_options
from twostage_jax.engine.epoch import make_epoch
from twostage_jax.engine.loop import lower_epoch
from twostage_jax.engine.passes import encode, evaluate
from twostage_jax.engine.state import TrainState, init_state
from twostage_jax.engine.train import make_train
from twostage_jax.stages.freezing import freeze
from twostage_jax.stages.heads.trained import classifier, make_logits
from twostage_jax.stages.nets.mlp import MLP, Identity, mirror
from twostage_jax.stages.optimiser import adam
from twostage_jax.stages.pretrain.placeholder import placeholder
from twostage_jax.stages.pretrain.reconstruction import autoencoder
from twostage_jax.stages.stage import Params, Stage
from twostage_jax.stages.torch_names import torch_state_dict

BATCH, RATE = 32, 0.001


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


def train_ours(dataset: Dataset, seed: int, epochs: int) -> tuple[Params, float]:
    """Both stages from the shared start and order: parameters and test accuracy."""
    ours, params = make_ours(dataset), start_params(make_ours(dataset), dataset, seed)
    data, tx = jax.device_put(dataset.train), adam(RATE)
    order = make_order(seed, 2 * epochs, len(dataset.train["label"]))

    def train(stage: Stage, tx: Any, data: Any, order: np.ndarray, **groups: Any) -> Params:
        state = init_state(stage, tx, jax.random.key(0), dataset.train, **groups)
        run = jax.jit(make_train(stage, tx, BATCH, epochs), compiler_options=compiler_options())
        return run(state, data, jax.random.key(1), order)[0].params

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
