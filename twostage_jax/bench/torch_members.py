"""Many trainings in PyTorch: with `torch.func` all in one program, or one after the other.

Run as a process of its own, `python -m twostage_jax.bench.torch_members JOB.json`, it prints one
line of JSON with its times, of all members together, and their mean test accuracy. No jax in here.
Both modes keep the data as one normalised tensor, use fused Adam, encode features once, and give
each member initial values and an order of its own:

- `func`: the members' parameters stacked, `vmap` of the gradient of one, and one Adam on the
  stacks, which is an Adam for each member, as it works on each value by itself.
- `serial`: the best eager program of `bench.pytorch` in a loop over the members.

A job with `share` trains one encoder, and the members are heads on its features.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional as F

from twostage_jax.bench.pytorch import BATCH, LEARNING_RATE, Program, TwoStageNetwork, normalised

MODES = ("func", "serial")
CHUNK = 1000  # images that are encoded at a time
TUNING_STEPS, TUNING_EPOCHS = 50, 4
Params = dict[str, torch.Tensor]


class Stack(NamedTuple):
    """Modules of one shape: `module` as the function, `params` the values of all, `[M, ...]`."""

    module: nn.Module
    params: Params

    def __call__(self, params: Params, x: torch.Tensor) -> torch.Tensor:
        """What one of them gives, with its values."""
        return functional_call(self.module, params, (x,))


def stacked(modules: Sequence[nn.Module]) -> Stack:
    """`Stack` of modules of one shape."""
    return Stack(modules[0], stack_module_state(list(modules))[0])


def reconstruction(stack: Stack) -> Callable[..., torch.Tensor]:
    """Stage 1 of one member: `(params, image) -> loss`."""
    return lambda params, x: F.mse_loss(stack(params, x), x)


def classification(stack: Stack) -> Callable[..., torch.Tensor]:
    """Stage 2 of one member: `(params, feature, label) -> loss`."""
    return lambda params, x, y: F.cross_entropy(stack(params, x), y)


def make_step(loss: Callable[..., torch.Tensor], params: Params) -> Callable[..., torch.Tensor]:
    """One step of each member's Adam on its own batch: `(*tensors [M, B, ...]) -> losses [M]`."""
    optimiser = torch.optim.Adam(list(params.values()), lr=LEARNING_RATE, fused=True)
    both = vmap(grad_and_value(loss))

    def step(*batch: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():  # or autograd would record the gradient's own computation
            gradients, losses = both(params, *batch)
        for name, parameter in params.items():
            parameter.grad = gradients[name]
        optimiser.step()
        return losses

    return step


def rows_of(tensor: torch.Tensor, rows: torch.Tensor, own: bool) -> torch.Tensor:
    """Rows `[M, B]` of a tensor `[N, ...]`, or of each member's own in `[M, N, ...]`."""
    flat = rows
    if own:
        first = torch.arange(len(tensor), device=rows.device)[:, None] * tensor.shape[1]
        flat, tensor = rows + first, tensor.flatten(0, 1)
    return tensor.index_select(0, flat.flatten()).view(*rows.shape, *tensor.shape[1:])


def epoch(step: Callable, data: Sequence[tuple[torch.Tensor, bool]], order: torch.Tensor) -> Any:
    """One epoch in the order `[M, N]`, on tensors and whether members have their own: mean loss."""
    total, count = torch.zeros(len(order), device=order.device), 0
    for rows in order.split(BATCH, 1):
        total += step(*(rows_of(tensor, rows, own) for tensor, own in data))
        count += 1
    return total / count


class Clock:
    """Seconds of each epoch, for all members together, and the members' mean losses."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.report: dict[str, Any] = {"pretrain": [], "head": [], "encode": 0.0}
        self.losses: dict[str, list[float]] = {"pretrain": [], "head": []}

    def train(self, stage: str, epochs: int, step: Callable, data: Any, members: int) -> None:
        """Train a stage, each member in an order of its own."""
        for _ in range(epochs):
            began = self.now()
            count = len(data[-1][0])  # of labels, or of images where there are none
            orders = [torch.randperm(count, device=self.device) for _ in range(members)]
            losses = epoch(step, data, torch.stack(orders))
            self.report[stage].append(self.now() - began)
            self.losses[stage].append(losses.mean().item())

    def add(self, program: Program) -> None:
        """Add what one member took in a loop over them."""
        for stage in ("pretrain", "head"):
            before = self.report[stage] or [0.0] * len(program.report[stage])
            after = program.report[stage] or [0.0] * len(before)
            self.report[stage] = [a + b for a, b in zip(before, after, strict=True)]
        self.report["encode"] += program.report["encode"]

    def now(self) -> float:
        """Seconds, once the device is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def encoded(stack: Stack, images: torch.Tensor) -> torch.Tensor:
    """Features `[M, N, D]` of all images by all members."""
    with torch.no_grad():
        apply = vmap(stack, in_dims=(0, None))
        return torch.cat([apply(stack.params, part) for part in images.split(CHUNK)], 1)


def run_func(job: dict[str, Any], data: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Both stages of all members with `torch.func`."""
    members, device = job["members"], job["device"]
    clock, pixels = Clock(device), data["x_train"].shape[1]
    nets = [TwoStageNetwork(pixels, job["classes"]).to(device) for _ in range(members)]
    encoders = nets[:1] if job["share"] else nets
    images, labels = data["x_train"], data["y_train"]
    whole = stacked([nn.Sequential(net.stage1, net.decoder) for net in encoders])
    step = make_step(reconstruction(whole), whole.params)
    clock.train("pretrain", job["epochs"][0], step, [(images, False)], len(encoders))
    # In the sequence the encoder is module 0.
    trained = {name[2:]: p for name, p in whole.params.items() if name.startswith("0.")}
    encoder, began = Stack(nets[0].stage1, trained), clock.now()
    own, features = not job["share"], encoded(encoder, images)
    features = features if own else features[0]
    clock.report["encode"] = clock.now() - began
    heads = stacked([net.stage2 for net in nets])
    step = make_step(classification(heads), heads.params)
    clock.train("head", job["epochs"][1], step, [(features, own), (labels, False)], members)
    with torch.no_grad():
        test = encoded(encoder, data["x_test"]).expand(members, -1, -1)
        logits = vmap(heads)(heads.params, test)
    accuracies = (logits.argmax(-1) == data["y_test"]).float().mean(1).tolist()
    return {**clock.report, "losses": clock.losses, "accuracies": accuracies}


def run_serial(job: dict[str, Any], data: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Both stages of one member after the other."""
    images, labels, device = data["x_train"], data["y_train"], job["device"]
    clock, accuracies = Clock(device), []
    encoder, features = None, images
    for _ in range(job["members"]):
        net = TwoStageNetwork(images.shape[1], job["classes"])
        program = Program("eager", device, net)
        if encoder is None or not job["share"]:
            trained = net.stage1_parameters("autoencoder")
            program.train("pretrain", job["epochs"][0], net.reconstruct, trained, (images,))
            encoder, features = net.stage1, program.encode(images)
        net.stage1 = encoder
        trained, on = list(net.stage2.parameters()), (features, labels)
        program.train("head", job["epochs"][1], net.classify_features, trained, on)
        clock.add(program)
        accuracies.append(program.accuracy(data["x_test"], data["y_test"]))
    return {**clock.report, "accuracies": accuracies}


def run(job: dict[str, Any]) -> dict[str, Any]:
    """All members as `job` says, and what they took."""
    torch.manual_seed(job["seed"])
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    torch.set_float32_matmul_precision("high")  # as jax does by default
    mode = run_func if job["mode"] == "func" else run_serial
    report = mode(job, tensors(job["data"], job["device"]))
    report["accuracy"] = sum(report["accuracies"]) / len(report["accuracies"])
    if job["device"] == "cuda":
        report["device_bytes"] = torch.cuda.max_memory_allocated()
    return report


def tensors(path: str, device: str) -> dict[str, torch.Tensor]:
    """Images and labels of both parts, on the device."""
    with np.load(path, allow_pickle=False) as arrays:  # noqa: TID251 (we wrote it)
        data = {name: arrays[name] for name in arrays.files}
    found = {f"x_{part}": normalised(data[f"x_{part}"], device) for part in ("train", "test")}
    labels = {f"y_{part}": torch.tensor(data[f"y_{part}"]) for part in ("train", "test")}
    return found | {name: label.long().to(device) for name, label in labels.items()}


def tune(job: dict[str, Any]) -> dict[str, Any]:
    """The number of threads, out of `job["candidates"]`, with which `func` is fastest."""
    data = tensors(job["data"], "cpu")
    data = {name: values[: BATCH * TUNING_STEPS] for name, values in data.items()}
    stage, epochs = (
        ("head", (0, TUNING_EPOCHS)) if job["share"] else ("pretrain", (TUNING_EPOCHS, 0))
    )
    seconds = {}
    for threads in job["candidates"]:
        torch.set_num_threads(threads)
        seconds[threads] = min(run_func(job | {"epochs": epochs}, data)[stage][1:])
    return {"threads": min(seconds, key=seconds.__getitem__), "seconds": seconds}


if __name__ == "__main__":
    task = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps(tune(task) if "candidates" in task else run(task)))
