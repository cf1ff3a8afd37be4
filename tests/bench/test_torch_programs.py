"""PyTorch's side of the speed benchmark, and its convolutional pair."""

import jax
import numpy as np
import pytest

from twostage_jax.bench.conv import ConvEncoder
from twostage_jax.bench.speed import TASK

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # threads that wait for a busy core make a step 20 times slower

from twostage_jax.bench.torch import pytorch, tasks  # noqa: E402
from twostage_jax.bench.torch.network import conv_encoder  # noqa: E402


@pytest.fixture
def task(arrays):
    """A task of one epoch on the tiny set."""
    whole = {**TASK, "data": arrays, "device": "cpu", "classes": 3}
    return {**whole, "seed": 0, "threads": None, "epochs": 1}


@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 6, 3)])
def test_both_convolutional_encoders_are_the_same_function(shape):
    image = np.random.RandomState(0).rand(2, *shape).astype(np.float32)
    module = ConvEncoder()
    params = module.init(jax.random.key(0), image)
    net = conv_encoder(shape)
    layers = params["params"]
    with torch.no_grad():
        for name, layer in (("conv_0", net[1]), ("conv_1", net[3])):
            kernel = np.array(layers[name]["kernel"])
            kernel = kernel.reshape(3, 3, -1, layer.out_channels).transpose(3, 2, 0, 1)
            layer.weight.copy_(torch.tensor(kernel))
            layer.bias.copy_(torch.tensor(np.array(layers[name]["bias"])))
        # PyTorch flattens its images with the channels first.
        kernel = np.array(layers["dense"]["kernel"]).reshape(-1, 32, 128).transpose(2, 1, 0)
        net[6].weight.copy_(torch.tensor(kernel.reshape(128, -1)))
        net[6].bias.copy_(torch.tensor(np.array(layers["dense"]["bias"])))
        theirs = net(torch.tensor(image).flatten(1)).numpy()
    np.testing.assert_allclose(module.apply(params, image), theirs, atol=1e-5)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == sum(array.size for array in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mode": "workers"},
        {"mode": "eager", "batch": 64},
        {"mode": "eager", "network": "conv"},
        {"objective": "placeholder"},
    ],
    ids=str,
)
def test_every_program_trains_both_stages(changes, task):
    record = pytorch.run({**task, **changes})
    assert len(record["pretrain"]) == len(record["head"]) == 1
    assert 0 <= record["accuracy"] <= 1
    assert (record["losses"]["pretrain"] == [0.0]) == (changes == {"objective": "placeholder"})
    assert (record["encode"] > 0) == (changes.get("mode") == "eager")


def test_threads_are_tuned_for_the_network_of_the_task(task):
    conv = {**task, "mode": "eager", "network": "conv"}
    tuned = tasks.tune(conv, [1], pytorch.trial)
    assert tuned["threads"] == 1 and list(tuned["seconds"]) == [1]
