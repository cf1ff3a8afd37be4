"""The blog's program in PyTorch, from as printed to the best we can make of it.

Run as a process of its own, `python -m twostage_jax.bench.pytorch JOB.json`, it prints one line of
JSON with its times and its test accuracy. No jax in here. Modes:

- `printed`: `DataLoader` over a data set that makes each image a PIL image, a tensor and a
  normalised tensor, as torchvision's MNIST with `ToTensor` and `Normalize` does; eager, Adam.
- `tensors`: the same, the data as one normalised tensor, shuffled by `randperm`.
- `eager`, `compiled`: tensors, fused Adam, features encoded once for stage 2; `compiled` adds
  `torch.compile` on the CPU, and on a GPU a CUDA graph of the whole step.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

MODES = ("printed", "tensors", "eager", "compiled")
WIDTHS, HEAD = (256, 128), (64,)
LEARNING_RATE, BATCH = 0.001, 32
TUNING_STEPS = 300


def mlp(*widths: int) -> nn.Sequential:
    """`Linear` layers with ReLU between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class TwoStageNetwork(nn.Module):
    """The blog's network, with the mirrored decoder that its text describes.

    Args:
        pixels: values of an image.
        classes: number of classes.
    """

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.stage1 = mlp(pixels, *WIDTHS)
        self.stage2 = mlp(WIDTHS[-1], *HEAD, classes)
        self.decoder = mlp(WIDTHS[-1], *reversed(WIDTHS[:-1]), pixels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[B, K]` of images `[B, pixels]`."""
        return self.stage2(self.stage1(x))

    def placeholder(self, x: torch.Tensor) -> torch.Tensor:
        """Stage 1 of S0, as printed: zero, with zero gradient."""
        features = self.stage1(x)
        return F.mse_loss(features, features.detach())

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """Stage 1 of S1, as meant."""
        return F.mse_loss(self.decoder(self.stage1(x)), x)

    def classify(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Stage 2, on images."""
        return F.cross_entropy(self.stage2(self.stage1(x).detach()), y)

    def classify_features(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Stage 2, on features."""
        return F.cross_entropy(self.stage2(x), y)

    def stage1_parameters(self, objective: str) -> list[nn.Parameter]:
        """What stage 1 trains."""
        decoder = [] if objective == "placeholder" else list(self.decoder.parameters())
        return [*self.stage1.parameters(), *decoder]


class Images(Dataset):
    """An image at a time, as torchvision's MNIST gives it through `ToTensor` and `Normalize`."""

    def __init__(self, image: np.ndarray, label: np.ndarray) -> None:
        self.image, self.label = torch.tensor(image), torch.tensor(label)

    def __len__(self) -> int:
        """How many."""
        return len(self.image)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Image float32 `[C, H, W]` in [-1, 1], and label."""
        picture = Image.fromarray(self.image[index].squeeze(-1).numpy())
        array = np.array(picture, copy=True)
        array = array.reshape(*array.shape[:2], -1)
        tensor = torch.from_numpy(array).permute(2, 0, 1).contiguous().float().div(255)
        mean, std = torch.tensor([0.5]).view(-1, 1, 1), torch.tensor([0.5]).view(-1, 1, 1)
        return tensor.clone().sub_(mean).div_(std), int(self.label[index])


def normalised(image: np.ndarray, device: str) -> torch.Tensor:
    """Images uint8 `[N, H, W, C]` as `[N, H*W*C]` in [-1, 1]."""
    tensor = torch.tensor(image, device=device).flatten(1)
    return (tensor.float() / 255 - 0.5) / 0.5


def make_step(
    loss: Callable[..., torch.Tensor], optimiser: torch.optim.Optimizer
) -> Callable[..., torch.Tensor]:
    """One step of Adam on a batch: `(*tensors) -> loss`."""

    def step(*batch: torch.Tensor) -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(*batch)
        value.backward()
        optimiser.step()
        return value.detach()

    return step


def captured(step: Callable[..., torch.Tensor], optimiser: Any, batch: tuple) -> Callable:
    """`step` as one CUDA graph for batches of this shape; others run as they are."""
    inputs = [tensor.clone() for tensor in batch]
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(*inputs)
    # What warming up has changed is taken back.
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
        for state in optimiser.state.values():
            for tensor in state.values():
                tensor.zero_()

    def replay(*batch: torch.Tensor) -> torch.Tensor:
        if batch[0].shape != inputs[0].shape:
            return step(*batch)
        for mine, given in zip(inputs, batch, strict=True):
            mine.copy_(given)
        graph.replay()
        return loss.clone()

    return replay


def batches(tensors: tuple[torch.Tensor, ...], order: torch.Tensor) -> Iterable[tuple]:
    """The batches of an epoch in the order given."""
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        yield tuple(tensor[rows] for tensor in tensors)


class Program:
    """Both stages in one mode; times are seconds, losses means over the batches of an epoch."""

    def __init__(self, mode: str, device: str, net: TwoStageNetwork) -> None:
        self.mode, self.device, self.net = mode, device, net.to(device)
        self.report: dict[str, Any] = {"pretrain": [], "head": [], "encode": 0.0, "compile": 0.0}
        self.losses: dict[str, list[float]] = {"pretrain": [], "head": []}

    def best(self) -> bool:
        """Whether this is one of the modes that try to win."""
        return self.mode in ("eager", "compiled")

    def step(self, loss: Callable, parameters: list, example: tuple) -> Callable:
        """The step of this mode."""
        graph = self.mode == "compiled" and self.device == "cuda"
        options: dict[str, Any] = {"fused": True, "capturable": graph} if self.best() else {}
        optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE, **options)
        if self.mode == "compiled" and not graph:
            loss = torch.compile(loss, dynamic=False)
        step = make_step(loss, optimiser)
        return captured(step, optimiser, example) if graph else step

    def train(self, stage: str, epochs: int, loss: Callable, parameters: list, data: Any) -> None:
        """Train a stage on a `DataLoader` or a tuple of tensors."""
        began = time.perf_counter()
        tensors = () if isinstance(data, DataLoader) else data
        step = self.step(loss, parameters, tuple(tensor[:BATCH] for tensor in tensors))
        self.synchronise()
        preparing = time.perf_counter() - began
        for number in range(epochs):
            began = time.perf_counter()
            total, count = 0.0, 0
            for batch in self.epoch(data, len(_inputs(loss))):
                value = step(*batch)
                # The printed program asks for each loss; the best ones do not wait for it.
                total, count = total + (value if self.best() else value.item()), count + 1
                if self.mode == "compiled" and number == 0 and count == 1:
                    # The first step compiles, which is a column of its own.
                    self.synchronise()
                    self.report["compile"] += preparing + time.perf_counter() - began
                    began = time.perf_counter()
            self.losses[stage].append(float(total) / count)
            self.synchronise()
            self.report[stage].append(time.perf_counter() - began)

    def epoch(self, data: Any, inputs: int) -> Iterable[tuple]:
        """The batches of one epoch, shuffled."""
        if not isinstance(data, DataLoader):
            return batches(data, torch.randperm(len(data[0]), device=self.device))
        flat = ((x.view(len(x), -1).to(self.device), y.to(self.device)) for x, y in data)
        return (batch[:inputs] for batch in flat)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Features of all images, once."""
        began = time.perf_counter()
        with torch.no_grad():
            features = torch.cat([self.net.stage1(part) for part in images.split(1000)])
        self.synchronise()
        self.report["encode"] = time.perf_counter() - began
        return features

    def accuracy(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Share of images whose class is found."""
        with torch.no_grad():
            found = [self.net(part).argmax(1) for part in images.split(1000)]
        return (torch.cat(found) == labels).float().mean().item()

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def _inputs(loss: Callable) -> tuple[str, ...]:
    return ("x", "y") if "classify" in loss.__name__ else ("x",)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Both stages as `job` says, and what they took."""
    torch.manual_seed(job["seed"])
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    mode, device, objective = job["mode"], job["device"], job["objective"]
    if mode in ("eager", "compiled"):
        torch.set_float32_matmul_precision("high")  # as jax does by default
    with np.load(job["data"], allow_pickle=False) as arrays:  # noqa: TID251 (we wrote it)
        data = {name: arrays[name] for name in arrays.files}
    net = TwoStageNetwork(data["x_train"][0].size, job["classes"])
    program, epochs = Program(mode, device, net), job["epochs"]
    stage_1 = net.placeholder if objective == "placeholder" else net.reconstruct
    trained, labels = net.stage1_parameters(objective), torch.tensor(data["y_train"]).long()
    if mode == "printed":
        loader = DataLoader(Images(data["x_train"], data["y_train"]), BATCH, shuffle=True)
        program.train("pretrain", epochs, stage_1, trained, loader)
        program.train("head", epochs, net.classify, list(net.stage2.parameters()), loader)
    else:
        images, labels = normalised(data["x_train"], device), labels.to(device)
        program.train("pretrain", epochs, stage_1, trained, (images,))
        loss, inputs = net.classify, images
        if program.best():
            loss, inputs = net.classify_features, program.encode(images)
        program.train("head", epochs, loss, list(net.stage2.parameters()), (inputs, labels))
    test = normalised(data["x_test"], device), torch.tensor(data["y_test"], device=device)
    accuracy = program.accuracy(*test)
    report = {**program.report, "accuracy": accuracy, "losses": program.losses}
    if device == "cuda":
        report["device_bytes"] = torch.cuda.max_memory_allocated()
    return report


def tune(job: dict[str, Any]) -> dict[str, Any]:
    """The number of threads, out of `job["candidates"]`, with which stage 1 is fastest."""
    with np.load(job["data"], allow_pickle=False) as arrays:  # noqa: TID251 (we wrote it)
        images = normalised(arrays["x_train"][: BATCH * TUNING_STEPS], "cpu")
    seconds = {}
    for threads in job["candidates"]:
        torch.set_num_threads(threads)
        net = TwoStageNetwork(images.shape[1], 10)
        program = Program(job["mode"], "cpu", net)
        trained = net.stage1_parameters("autoencoder")
        program.train("pretrain", 4, net.reconstruct, trained, (images,))
        seconds[threads] = min(program.report["pretrain"][1:])
    return {"threads": min(seconds, key=seconds.__getitem__), "seconds": seconds}


if __name__ == "__main__":
    task = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps(tune(task) if "candidates" in task else run(task)))
