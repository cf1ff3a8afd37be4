"""The blog's program in PyTorch, as printed and with all optimisations that we know.

As a process, `python -m twostage_jax.bench.torch.pytorch TASK.json` prints one line of JSON with
its times and its test accuracy. It imports no jax. Modes:

- `printed`: a `DataLoader` over a data set that makes each image a PIL image, a tensor and a
  normalised tensor, as torchvision's MNIST with `ToTensor` and `Normalize` does; eager, Adam.
- `workers`: the same, with a worker process for each core.
- `eager`, `compiled`: the data as one normalised tensor, shuffled by `randperm`; fused Adam;
  features encoded once for stage 2. `compiled` adds `torch.compile` on the CPU, and a CUDA graph of
  the whole step on a GPU.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from twostage_jax.bench.torch import tasks
from twostage_jax.bench.torch.network import (
    BATCH,
    Batches,
    Images,
    Tensors,
    TwoStageNetwork,
    conv_encoder,
    loader_batches,
    normalised,
    read_arrays,
    tensor_batches,
)

LEARNING_RATE = 0.001
CHUNK = 1000  # images that are encoded at a time
TUNING_STEPS = 300
Loss = Callable[..., torch.Tensor]
Step = Callable[..., torch.Tensor]


class Task(TypedDict):
    """The content of the file that the program reads."""

    mode: str
    objective: str  # `autoencoder` (S1) or `placeholder` (S0)
    device: str
    data: str  # path of an npz file
    classes: int
    seed: int
    threads: int | None
    epochs: int
    batch: int  # of stage 1; stage 2 has the blog's
    network: str  # `mlp`, or `conv` for a convolutional encoder


def make_step(loss: Loss, optimiser: torch.optim.Optimizer) -> Step:
    """Make one step of the optimiser on a batch: `(*tensors) -> loss`."""

    def step(*batch: torch.Tensor) -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(*batch)
        value.backward()
        optimiser.step()
        return value.detach()

    return step


def captured(step: Step, optimiser: torch.optim.Optimizer, batch: Tensors) -> Step:
    """Record `step` as one CUDA graph for batches of this shape; other batches run eagerly."""
    inputs = [tensor.clone() for tensor in batch]
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    before = [parameter.detach().clone() for parameter in parameters]
    # CUDA graphs need some warm-up steps on another stream.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(*inputs)
    # Undo the warm-up steps.
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
        for state in optimiser.state.values():
            for tensor in state.values():
                tensor.zero_()

    def replay(*batch: torch.Tensor) -> torch.Tensor:
        if batch[0].shape != inputs[0].shape:
            return step(*batch)
        for target, source in zip(inputs, batch, strict=True):
            target.copy_(source)
        graph.replay()
        return loss.clone()

    return replay


@dataclass
class Times:
    """Seconds of a program, and mean losses over the batches of each epoch."""

    pretrain: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)
    encode: float = 0.0
    compile: float = 0.0
    losses: dict[str, list[float]] = field(default_factory=lambda: {"pretrain": [], "head": []})

    def stage(self, name: str) -> list[float]:
        """Return the seconds of each epoch of a stage."""
        return self.pretrain if name == "pretrain" else self.head


class Trainer:
    """Training of stages in one mode, with the times of their epochs."""

    def __init__(self, mode: str, device: str) -> None:
        self.mode = mode
        self.device = device
        self.times = Times()
        self.best = mode not in ("printed", "workers")

    def train(self, stage: str, epochs: int, make: Callable[[], Step], data: Batches) -> None:
        """Train a stage with the step that `make` makes.

        Records the seconds of each epoch and its mean loss, over all members if there are several.
        """
        began = time.perf_counter()
        step = make()
        self.synchronise()
        preparing = time.perf_counter() - began
        for number in range(epochs):
            began = time.perf_counter()
            total = 0.0
            count = 0
            for batch in data.shuffled():
                value = step(*batch)
                # The printed program asks for every loss; the best modes do not wait for it.
                total = total + (value if self.best else value.item())
                count += 1
                if self.mode == "compiled" and number == 0 and count == 1:
                    # The first step compiles; compilation has a column of its own.
                    self.synchronise()
                    self.times.compile += preparing + time.perf_counter() - began
                    began = time.perf_counter()
            self.times.losses[stage].append(torch.as_tensor(total).mean().item() / count)
            # A GPU works on after the last call has returned.
            self.synchronise()
            self.times.stage(stage).append(time.perf_counter() - began)

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()


class Program(Trainer):
    """Both stages of the blog's program in one mode."""

    def __init__(self, mode: str, device: str, net: TwoStageNetwork) -> None:
        super().__init__(mode, device)
        self.net = net.to(device)

    def make_step(self, loss: Loss, parameters: list[nn.Parameter], example: Tensors) -> Step:
        """Make the training step of this mode."""
        # The printed program uses the plain Adam, whose loop over parameters is in Python.
        if not self.best:
            return make_step(loss, torch.optim.Adam(parameters, lr=LEARNING_RATE))
        graph = self.mode == "compiled" and self.device == "cuda"
        adam = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True, capturable=graph)
        if graph:
            return captured(make_step(loss, adam), adam, example)
        if self.mode == "compiled":
            # Without dynamic shapes: the last, smaller batch of an epoch is compiled once more.
            loss = torch.compile(loss, dynamic=False)
        return make_step(loss, adam)

    def pretrain(self, epochs: int, data: Batches, objective: str = "autoencoder") -> None:
        """Train stage 1."""
        net = self.net
        loss = net.placeholder if objective == "placeholder" else net.reconstruct
        parameters = net.stage1_parameters(objective)
        self.train(
            "pretrain", epochs, partial(self.make_step, loss, parameters, data.example), data
        )

    def train_head(self, epochs: int, data: Batches) -> None:
        """Train stage 2, in the best modes on features."""
        net = self.net
        loss = net.classify_features if self.best else net.classify
        parameters = list(net.stage2.parameters())
        self.train("head", epochs, partial(self.make_step, loss, parameters, data.example), data)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features of all images once."""
        began = time.perf_counter()
        # In chunks, so that peak memory does not grow with the number of images.
        with torch.no_grad():
            features = torch.cat([self.net.stage1(chunk) for chunk in images.split(CHUNK)])
        self.synchronise()
        self.times.encode = time.perf_counter() - began
        return features

    def accuracy(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Return the share of images that are classified correctly."""
        with torch.no_grad():
            predicted = [self.net(chunk).argmax(1) for chunk in images.split(CHUNK)]
        return (torch.cat(predicted) == labels).float().mean().item()


def run(task: Task) -> dict[str, object]:
    """Train both stages and return their times and the test accuracy."""
    torch.manual_seed(task["seed"])
    if task["threads"]:
        torch.set_num_threads(task["threads"])
    device = task["device"]
    arrays = read_arrays(task["data"])
    shape = arrays["x_train"].shape[1:]
    program = Program(task["mode"], device, make_network(task["network"], shape, task["classes"]))
    if program.best:
        torch.set_float32_matmul_precision("high")  # the default of jax
        _train_best(program, task, arrays)
    else:
        _train_printed(program, task, arrays)
    images = normalised(arrays["x_test"], device)
    accuracy = program.accuracy(images, torch.tensor(arrays["y_test"], device=device))
    report = {**vars(program.times), "accuracy": accuracy}
    if device == "cuda":
        report["device_bytes"] = torch.cuda.max_memory_allocated()
    return report


def _train_printed(program: Program, task: Task, arrays: dict[str, np.ndarray]) -> None:
    workers = (os.cpu_count() or 1) if task["mode"] == "workers" else 0
    loader = DataLoader(
        Images(arrays["x_train"], arrays["y_train"]),
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    images = loader_batches(loader, 1, program.device)
    program.pretrain(task["epochs"], images, task["objective"])
    program.train_head(task["epochs"], loader_batches(loader, 2, program.device))


def _train_best(program: Program, task: Task, arrays: dict[str, np.ndarray]) -> None:
    images = normalised(arrays["x_train"], program.device)
    labels = torch.tensor(arrays["y_train"]).long().to(program.device)
    program.pretrain(task["epochs"], tensor_batches(images, size=task["batch"]), task["objective"])
    program.train_head(task["epochs"], tensor_batches(program.encode(images), labels))


def make_network(name: str, shape: Sequence[int], classes: int) -> TwoStageNetwork:
    """Make the network of a task for images of a shape `(H, W, C)`."""
    encoder = conv_encoder(shape) if name == "conv" else None
    return TwoStageNetwork(math.prod(shape), classes, encoder)


def trial(task: Task) -> float:
    """Return the seconds of the fastest of three epochs of stage 1 on a part of the data."""
    some = read_arrays(task["data"])["x_train"][: BATCH * TUNING_STEPS]
    images = normalised(some, "cpu")
    net = make_network(task["network"], some.shape[1:], task["classes"])
    program = Program(task["mode"], "cpu", net)
    program.pretrain(4, tensor_batches(images, size=task["batch"]))
    # The first epoch warms up.
    return min(program.times.pretrain[1:])


if __name__ == "__main__":
    tasks.main(run, trial)
