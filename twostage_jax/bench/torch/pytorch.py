"""The blog's program in PyTorch, as printed and with all optimisations that we know.

As a process, `python -m twostage_jax.bench.torch.pytorch TASK.json` prints one line of JSON with
its times and its test accuracy. It imports no jax. Modes:

- `printed`: a `DataLoader` over a data set that makes each image a PIL image, a tensor and a
  normalised tensor, as torchvision's MNIST with `ToTensor` and `Normalize` does; eager, Adam.
- `tensors`: the same with the data as one normalised tensor, shuffled by `randperm`.
- `eager`, `compiled`: tensors, fused Adam, features encoded once for stage 2. `compiled` adds
  `torch.compile` on the CPU, and a CUDA graph of the whole step on a GPU.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

WIDTHS = (256, 128)
HEAD = (64,)
LEARNING_RATE = 0.001
BATCH = 32
CHUNK = 1000  # images that are encoded at a time
TUNING_STEPS = 300
Tensors = tuple[torch.Tensor, ...]
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


class TuningTask(TypedDict):
    """The task of finding the fastest number of threads."""

    mode: str
    data: str
    candidates: list[int]


def mlp(*widths: int) -> nn.Sequential:
    """Make `Linear` layers with ReLU between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class TwoStageNetwork(nn.Module):
    """The blog's network, with the mirrored decoder that its text describes.

    Args:
        pixels: number of values in an image.
        classes: number of classes.
    """

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.stage1 = mlp(pixels, *WIDTHS)
        self.stage2 = mlp(WIDTHS[-1], *HEAD, classes)
        self.decoder = mlp(WIDTHS[-1], *reversed(WIDTHS[:-1]), pixels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `[B, K]` of images `[B, pixels]`."""
        return self.stage2(self.stage1(x))

    def placeholder(self, x: torch.Tensor) -> torch.Tensor:
        """Loss of stage 1 of S0, as printed: zero, with zero gradient."""
        features = self.stage1(x)
        return F.mse_loss(features, features.detach())

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """Loss of stage 1 of S1, the program as meant by its text."""
        return F.mse_loss(self.decoder(self.stage1(x)), x)

    def classify(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of stage 2 on images."""
        return F.cross_entropy(self.stage2(self.stage1(x).detach()), y)

    def classify_features(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of stage 2 on features."""
        return F.cross_entropy(self.stage2(x), y)

    def stage1_parameters(self, objective: str) -> list[nn.Parameter]:
        """Return the parameters that stage 1 trains."""
        decoder = [] if objective == "placeholder" else list(self.decoder.parameters())
        return [*self.stage1.parameters(), *decoder]


class Images(Dataset):
    """Single images, made as torchvision's MNIST does with `ToTensor` and `Normalize`."""

    def __init__(self, image: np.ndarray, label: np.ndarray) -> None:
        self.image = torch.tensor(image)
        self.label = torch.tensor(label)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return an image float32 `[C, H, W]` in [-1, 1], and its label."""
        picture = Image.fromarray(self.image[index].squeeze(-1).numpy())
        array = np.array(picture, copy=True)
        array = array.reshape(*array.shape[:2], -1)
        tensor = torch.from_numpy(array).permute(2, 0, 1).contiguous().float().div(255)
        mean = torch.tensor([0.5]).view(-1, 1, 1)
        std = torch.tensor([0.5]).view(-1, 1, 1)
        return tensor.clone().sub_(mean).div_(std), int(self.label[index])


def normalised(image: np.ndarray, device: str) -> torch.Tensor:
    """Convert images uint8 `[N, H, W, C]` to `[N, H*W*C]` in [-1, 1]."""
    tensor = torch.tensor(image, device=device).flatten(1)
    return (tensor.float() / 255 - 0.5) / 0.5


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """Read `x_train`, `y_train`, `x_test` and `y_test`."""
    with np.load(path, allow_pickle=False) as arrays:  # noqa: TID251 (the harness wrote it)
        return {name: arrays[name] for name in arrays.files}


class Batches(NamedTuple):
    """The batches of a data set.

    Attributes:
        example: a batch of the full size; empty for a `DataLoader`.
        shuffled: makes the batches of an epoch in a random order.
    """

    example: Tensors
    shuffled: Callable[[], Iterable[Tensors]]


def batches(tensors: Tensors, order: torch.Tensor) -> Iterable[Tensors]:
    """Yield the batches of an epoch in a given order."""
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        yield tuple(tensor[rows] for tensor in tensors)


def tensor_batches(*tensors: torch.Tensor) -> Batches:
    """Make the batches of tensors that are on the device."""

    def shuffled() -> Iterable[Tensors]:
        order = torch.randperm(len(tensors[0]), device=tensors[0].device)
        return batches(tensors, order)

    return Batches(tuple(tensor[:BATCH] for tensor in tensors), shuffled)


def loader_batches(loader: DataLoader, inputs: int, device: str) -> Batches:
    """Make the batches of a `DataLoader`: images alone, or images and labels (`inputs` 2)."""

    def shuffled() -> Iterable[Tensors]:
        for image, label in loader:
            batch = (image.view(len(image), -1).to(device), label.to(device))
            yield batch[:inputs]

    return Batches((), shuffled)


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


class Program:
    """Both stages of the blog's program in one mode."""

    def __init__(self, mode: str, device: str, net: TwoStageNetwork) -> None:
        self.mode = mode
        self.device = device
        self.net = net.to(device)
        self.times = Times()
        self.best = mode in ("eager", "compiled")

    def make_step(self, loss: Loss, parameters: list[nn.Parameter], example: Tensors) -> Step:
        """Make the training step of this mode."""
        if not self.best:
            return make_step(loss, torch.optim.Adam(parameters, lr=LEARNING_RATE))
        graph = self.mode == "compiled" and self.device == "cuda"
        adam = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True, capturable=graph)
        if graph:
            return captured(make_step(loss, adam), adam, example)
        if self.mode == "compiled":
            loss = torch.compile(loss, dynamic=False)
        return make_step(loss, adam)

    def train(
        self, stage: str, epochs: int, loss: Loss, parameters: list[nn.Parameter], data: Batches
    ) -> None:
        """Train a stage and record the seconds and the mean loss of each epoch."""
        began = time.perf_counter()
        step = self.make_step(loss, parameters, data.example)
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
            self.times.losses[stage].append(float(total) / count)
            self.synchronise()
            self.times.stage(stage).append(time.perf_counter() - began)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features of all images once."""
        began = time.perf_counter()
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

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def run(task: Task) -> dict[str, object]:
    """Train both stages and return their times and the test accuracy."""
    torch.manual_seed(task["seed"])
    if task["threads"]:
        torch.set_num_threads(task["threads"])
    device = task["device"]
    arrays = read_arrays(task["data"])
    net = TwoStageNetwork(arrays["x_train"][0].size, task["classes"])
    program = Program(task["mode"], device, net)
    if program.best:
        torch.set_float32_matmul_precision("high")  # the default of jax
    if task["mode"] == "printed":
        _train_printed(program, task, arrays)
    else:
        _train_tensors(program, task, arrays)
    images = normalised(arrays["x_test"], device)
    accuracy = program.accuracy(images, torch.tensor(arrays["y_test"], device=device))
    report = {**vars(program.times), "accuracy": accuracy}
    if device == "cuda":
        report["device_bytes"] = torch.cuda.max_memory_allocated()
    return report


def _train_printed(program: Program, task: Task, arrays: dict[str, np.ndarray]) -> None:
    net = program.net
    loader = DataLoader(Images(arrays["x_train"], arrays["y_train"]), BATCH, shuffle=True)
    images = loader_batches(loader, 1, program.device)
    _train_stage_1(program, task, images)
    labelled = loader_batches(loader, 2, program.device)
    program.train("head", task["epochs"], net.classify, list(net.stage2.parameters()), labelled)


def _train_tensors(program: Program, task: Task, arrays: dict[str, np.ndarray]) -> None:
    net = program.net
    images = normalised(arrays["x_train"], program.device)
    labels = torch.tensor(arrays["y_train"]).long().to(program.device)
    _train_stage_1(program, task, tensor_batches(images))
    loss = net.classify
    inputs = images
    if program.best:
        loss = net.classify_features
        inputs = program.encode(images)
    data = tensor_batches(inputs, labels)
    program.train("head", task["epochs"], loss, list(net.stage2.parameters()), data)


def _train_stage_1(program: Program, task: Task, data: Batches) -> None:
    net = program.net
    loss = net.placeholder if task["objective"] == "placeholder" else net.reconstruct
    parameters = net.stage1_parameters(task["objective"])
    program.train("pretrain", task["epochs"], loss, parameters, data)


def tune(task: TuningTask) -> dict[str, object]:
    """Find the number of threads, out of `candidates`, with which stage 1 is fastest."""
    arrays = read_arrays(task["data"])
    images = normalised(arrays["x_train"][: BATCH * TUNING_STEPS], "cpu")
    seconds = {}
    for threads in task["candidates"]:
        torch.set_num_threads(threads)
        net = TwoStageNetwork(images.shape[1], 10)
        program = Program(task["mode"], "cpu", net)
        parameters = net.stage1_parameters("autoencoder")
        program.train("pretrain", 4, net.reconstruct, parameters, tensor_batches(images))
        # The first epoch warms up.
        seconds[threads] = min(program.times.pretrain[1:])
    return {"threads": min(seconds, key=seconds.__getitem__), "seconds": seconds}


if __name__ == "__main__":
    content = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps(tune(content) if "candidates" in content else run(content)))
