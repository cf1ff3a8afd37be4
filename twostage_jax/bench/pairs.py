"""The same training in ours and in PyTorch: equal initial values, equal order of examples.

Ours runs through the public functions `init_state`, `make_train`, `encode` and `evaluate`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import jax
import numpy as np
import optax

from twostage_jax.data.dataset import Dataset
from twostage_jax.engine.compile import compiler_options
from twostage_jax.engine.passes import encode, evaluate
from twostage_jax.engine.state import TrainState, init_state
from twostage_jax.engine.train import make_train
from twostage_jax.stages.freezing import freeze
from twostage_jax.stages.heads.trained import classifier, make_logits
from twostage_jax.stages.nets.mlp import MLP, Identity, mirror
from twostage_jax.stages.optimiser import adam
from twostage_jax.stages.pretrain.placeholder import placeholder
from twostage_jax.stages.pretrain.reconstruction import autoencoder
from twostage_jax.stages.stage import Metrics, Params, Stage
from twostage_jax.stages.torch_names import torch_state_dict

if TYPE_CHECKING:  # PyTorch is optional
    import torch

    from twostage_jax.bench.torch.network import TwoStageNetwork

    Tensors: TypeAlias = tuple[torch.Tensor, ...]

# The blog's recipe.
BATCH = 32
RATE = 0.001
WIDTHS = (256, 128)
Arrays = Mapping[str, np.ndarray | jax.Array]


# One object each, so that trainings of several seeds share one compiled program.
ADAM = adam(RATE)
FROZEN_ADAM = freeze(ADAM, "encoder")


class Ours(NamedTuple):
    """The blog's network as modules, and its stages; `on_features` trains on encoded images."""

    encoder: MLP
    head: MLP
    autoencoder: Stage
    placeholder: Stage
    classifier: Stage
    on_features: Stage


@cache
def _make_network(pixels: int, classes: int) -> Ours:
    """Make the blog's network."""
    encoder = MLP(WIDTHS, torch_init=True)
    decoder = MLP(mirror(WIDTHS, pixels), torch_init=True)
    head = MLP((64, classes), torch_init=True)
    stage_2 = classifier(encoder, head)
    # The initial values need images, and the training gets the features.
    on_features = Stage(stage_2.init, classifier(Identity(), head).loss)
    stage_1 = autoencoder(encoder, decoder)
    return Ours(encoder, head, stage_1, placeholder(encoder), stage_2, on_features)


def make_ours(dataset: Dataset) -> Ours:
    """Make the blog's network for the shapes of `dataset`."""
    return _make_network(int(np.prod(dataset.image_shape)), len(dataset.classes))


def start_params(dataset: Dataset, seed: int) -> Params:
    """Draw the initial values of all three groups."""
    ours = make_ours(dataset)
    examples = {name: values[:2] for name, values in dataset.train.items()}
    keys = jax.random.split(jax.random.key(seed))
    first = init_state(ours.autoencoder, ADAM, keys[0], examples).params
    encoder = first["encoder"]
    second = init_state(ours.classifier, ADAM, keys[1], examples, encoder=encoder).params
    return {**first, "head": second["head"]}


@cache
def compiled_train(
    stage: Stage, tx: optax.GradientTransformation, epochs: int
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compile the training of a stage, with the options that the package uses."""
    train = make_train(stage, tx, BATCH, epochs)
    return jax.jit(train, compiler_options=compiler_options())


def make_order(seed: int, epochs: int, count: int) -> np.ndarray:
    """Draw an order of the examples for each epoch, int32 `[epochs, count]`, for both programs."""
    # NumPy's, because the two frameworks draw different orders from one seed.
    random = np.random.RandomState(seed)
    return np.stack([random.permutation(count) for _ in range(epochs)]).astype(np.int32)


def torch_network(params: Params) -> "TwoStageNetwork":
    """Make a `TwoStageNetwork` with our weights."""
    # Imports PyTorch, so that the state below is one of tensors.
    from twostage_jax.bench.torch.network import TwoStageNetwork

    state = torch_state_dict(params)
    net = TwoStageNetwork(state["stage1.0.weight"].shape[1], len(state["stage2.2.bias"]))
    net.load_state_dict(state)
    return net


def torch_steps(
    loss: "Callable[..., torch.Tensor]",
    optimiser: "torch.optim.Adam",
    tensors: "Tensors",
    order: np.ndarray,
) -> Iterator[float]:
    """Yield the loss of each step of PyTorch, on the batches of that order."""
    import torch

    from twostage_jax.bench.torch.network import batches
    from twostage_jax.bench.torch.pytorch import make_step

    step = make_step(loss, optimiser)
    for batch in batches(tensors, torch.tensor(order).long()):
        yield step(*batch).item()  # a generator: a caller may stop at any step


def torch_adam(parameters: "Iterable[torch.nn.Parameter]") -> "torch.optim.Adam":
    """Make PyTorch's Adam with the blog's learning rate."""
    import torch

    return torch.optim.Adam(list(parameters), lr=RATE)


def torch_tensors(split: Arrays) -> "Tensors":
    """Convert images and labels of a split to the tensors of PyTorch's S1."""
    import torch

    from twostage_jax.bench.torch.network import normalised

    images = normalised(np.asarray(split["image"]), "cpu")
    return images, torch.tensor(np.asarray(split["label"])).long()


def train_ours(dataset: Dataset, seed: int, epochs: int) -> tuple[Params, float]:
    """Train both stages of ours; return the parameters and the test accuracy."""
    ours = make_ours(dataset)
    start = start_params(dataset, seed)
    order = make_order(seed, 2 * epochs, len(dataset.train["label"]))
    data = jax.device_put(dataset.train)
    groups = {name: start[name] for name in ("encoder", "decoder")}
    params = _train(ours.autoencoder, ADAM, dataset, data, order[:epochs], groups)
    # Linen's type of `apply` also allows a pair of output and changed collections.
    apply = cast(Callable[..., jax.Array], ours.encoder.apply)
    data = {**data, "image": encode(apply, params["encoder"], data["image"])}
    groups = {"encoder": params["encoder"], "head": start["head"]}
    params |= _train(ours.on_features, FROZEN_ADAM, dataset, data, order[epochs:], groups)
    scores = evaluate(make_logits(ours.encoder, ours.head), params, dataset.test)
    # Scores are float32; the share of correct images must equal PyTorch's to the last bit.
    count = len(dataset.test["label"])
    return params, round(float(scores["accuracy"]) * count) / count


def _train(
    stage: Stage,
    tx: optax.GradientTransformation,
    dataset: Dataset,
    data: Arrays,
    order: np.ndarray,
    groups: Params,
) -> Params:
    state = init_state(stage, tx, jax.random.key(0), dataset.train, **groups)
    train = compiled_train(stage, tx, len(order))
    return dict(train(state, data, jax.random.key(1), order)[0].params)


def train_torch(dataset: Dataset, seed: int, epochs: int) -> float:
    """Train both stages of PyTorch's S1 from the same start; return the test accuracy."""
    net = torch_network(start_params(dataset, seed))
    images, labels = torch_tensors(dataset.train)
    order = make_order(seed, 2 * epochs, len(labels))
    adam = torch_adam(net.stage1_parameters("autoencoder"))
    for _ in torch_steps(net.reconstruct, adam, (images,), order[:epochs].ravel()):
        pass
    adam = torch_adam(net.stage2.parameters())
    for _ in torch_steps(net.classify, adam, (images, labels), order[epochs:].ravel()):
        pass
    predicted = net(torch_tensors(dataset.test)[0]).argmax(1).numpy()
    return float((predicted == dataset.test["label"]).mean())
