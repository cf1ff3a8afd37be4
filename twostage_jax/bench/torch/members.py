"""Many trainings in PyTorch: all in one program with `torch.func`, or one after the other.

As a process, `python -m twostage_jax.bench.torch.members TASK.json` prints one line of JSON with
the times of all members together and their mean test accuracy. It imports no jax. Both modes keep
the data as one normalised tensor, use fused Adam, encode features once, and give each member its
own initial values and its own order of examples:

- `func`: the members' parameters are stacked, the gradient of one member is mapped over the stack
  with `vmap`, and one Adam updates the stack. As Adam works on each value separately, this equals
  one Adam for each member.
- `serial`: the best eager program of `bench.torch.pytorch` in a loop over the members.

With `share`, one encoder is trained and the members are heads on its features.
"""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple, TypedDict

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional as F

from twostage_jax.bench.torch import tasks
from twostage_jax.bench.torch.network import (
    BATCH,
    Batches,
    Tensors,
    TwoStageNetwork,
    normalised,
    read_arrays,
    tensor_batches,
)
from twostage_jax.bench.torch.pytorch import (
    CHUNK,
    LEARNING_RATE,
    Loss,
    Program,
    Step,
    Times,
    Trainer,
)

TUNING_STEPS = 50
TUNING_EPOCHS = 4
Params = dict[str, torch.Tensor]


class Task(TypedDict):
    """The content of the file that the program reads."""

    mode: str  # `func` or `serial`
    share: bool
    members: int
    device: str
    data: str  # path of an npz file
    classes: int
    seed: int
    threads: int | None
    epochs: tuple[int, int]


class Stack(NamedTuple):
    """Modules of one shape: `module` as the function, `params` with the values `[M, ...]`."""

    module: nn.Module
    params: Params

    def __call__(self, params: Params, x: torch.Tensor) -> torch.Tensor:
        """Apply the module with the values of one member."""
        return functional_call(self.module, params, (x,))


class Input(NamedTuple):
    """A tensor `[N, ...]` that all members share, or `[M, N, ...]` if it is `per_member`."""

    tensor: torch.Tensor
    per_member: bool = False

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return each member's rows `[M, B, ...]`, with indices `[M, B]`."""
        tensor = self.tensor
        index = rows
        if self.per_member:
            # One flat index_select is faster than a gather on each member.
            starts = torch.arange(len(tensor), device=rows.device)[:, None] * tensor.shape[1]
            index = rows + starts
            tensor = tensor.flatten(0, 1)
        selected = tensor.index_select(0, index.flatten())
        return selected.view(*rows.shape, *tensor.shape[1:])


class Trained(NamedTuple):
    """The times of all members together, and the test accuracy of each member."""

    times: Times
    accuracies: list[float]


def stacked(modules: Sequence[nn.Module]) -> Stack:
    """Stack modules of one shape."""
    return Stack(modules[0], stack_module_state(list(modules))[0])


def reconstruction(stack: Stack) -> Loss:
    """Make the stage-1 loss of one member: `(params, image) -> loss`."""

    def loss(params: Params, x: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(stack(params, x), x)

    return loss


def classification(stack: Stack) -> Loss:
    """Make the stage-2 loss of one member: `(params, feature, label) -> loss`."""

    def loss(params: Params, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(stack(params, x), y)

    return loss


def make_step(loss: Loss, params: Params) -> Step:
    """Make one Adam step of all members: `(*tensors [M, B, ...]) -> losses [M]`."""
    optimiser = torch.optim.Adam(list(params.values()), lr=LEARNING_RATE, fused=True)
    gradient_and_loss = vmap(grad_and_value(loss))

    def step(*batch: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():  # otherwise autograd records the computation of the gradient
            gradients, losses = gradient_and_loss(params, *batch)
        for name, parameter in params.items():
            parameter.grad = gradients[name]
        optimiser.step()
        return losses

    return step


def member_batches(inputs: Sequence[Input], members: int) -> Batches:
    """Make the batches `[M, B, ...]` of all members, each with its own order of examples."""
    tensor = inputs[-1].tensor  # the last input has no member axis

    def shuffled() -> Iterable[Tensors]:
        # One permutation for each member, as single trainings have.
        orders = [torch.randperm(len(tensor), device=tensor.device) for _ in range(members)]
        for rows in torch.stack(orders).split(BATCH, 1):
            yield tuple(part.rows(rows) for part in inputs)

    return Batches((), shuffled)


def encoded(stack: Stack, images: torch.Tensor) -> torch.Tensor:
    """Compute the features `[M, N, D]` of all images for all members."""
    with torch.no_grad():
        apply = vmap(stack, in_dims=(0, None))
        return torch.cat([apply(stack.params, chunk) for chunk in images.split(CHUNK)], 1)


def run_func(task: Task, data: dict[str, torch.Tensor]) -> Trained:
    """Train both stages of all members with `torch.func`."""
    members = task["members"]
    device = task["device"]
    trainer = Trainer("func", device)
    images = data["x_train"]
    nets = [TwoStageNetwork(images.shape[1], task["classes"]).to(device) for _ in range(members)]
    encoder = _train_encoders(task, trainer, nets[:1] if task["share"] else nets, images)
    began = time.perf_counter()
    features = encoded(encoder, images)
    if task["share"]:
        features = features[0]  # one encoder: its features have no copy for each member
    trainer.synchronise()
    trainer.times.encode = time.perf_counter() - began
    heads = stacked([net.stage2 for net in nets])
    make = partial(make_step, classification(heads), heads.params)
    inputs = [Input(features, not task["share"]), Input(data["y_train"])]
    trainer.train("head", task["epochs"][1], make, member_batches(inputs, members))
    with torch.no_grad():
        test = encoded(encoder, data["x_test"]).expand(members, -1, -1)
        logits = vmap(heads)(heads.params, test)
    accuracies = (logits.argmax(-1) == data["y_test"]).float().mean(1).tolist()
    return Trained(trainer.times, accuracies)


def _train_encoders(
    task: Task, trainer: Trainer, nets: Sequence[TwoStageNetwork], images: torch.Tensor
) -> Stack:
    autoencoders = stacked([nn.Sequential(net.stage1, net.decoder) for net in nets])
    make = partial(make_step, reconstruction(autoencoders), autoencoders.params)
    data = member_batches([Input(images)], len(nets))
    trainer.train("pretrain", task["epochs"][0], make, data)
    # The encoder is module 0 of the sequence; the decoder is not needed any more.
    prefix = "0."
    params = {
        name.removeprefix(prefix): values
        for name, values in autoencoders.params.items()
        if name.startswith(prefix)
    }
    return Stack(nets[0].stage1, params)


def run_serial(task: Task, data: dict[str, torch.Tensor]) -> Trained:
    """Train both stages of one member after the other."""
    images = data["x_train"]
    programs: list[Program] = []
    accuracies = []
    features = images
    for _ in range(task["members"]):
        net = TwoStageNetwork(images.shape[1], task["classes"])
        program = Program("eager", task["device"], net)
        if not programs or not task["share"]:
            program.pretrain(task["epochs"][0], tensor_batches(images))
            features = program.encode(images)
        else:
            net.stage1 = programs[0].net.stage1  # for the test accuracy
        program.train_head(task["epochs"][1], tensor_batches(features, data["y_train"]))
        programs.append(program)
        accuracies.append(program.accuracy(data["x_test"], data["y_test"]))
    times = [program.times for program in programs]
    total = Times(
        pretrain=_summed([t.pretrain for t in times if t.pretrain]),
        head=_summed([t.head for t in times]),
        encode=sum(t.encode for t in times),
    )
    return Trained(total, accuracies)


def _summed(epochs: Sequence[Sequence[float]]) -> list[float]:
    """Add up the seconds of each epoch over the members."""
    return [sum(seconds) for seconds in zip(*epochs, strict=True)]


def run(task: Task) -> dict[str, object]:
    """Train all members and return their times and accuracies."""
    torch.manual_seed(task["seed"])
    if task["threads"]:
        torch.set_num_threads(task["threads"])
    torch.set_float32_matmul_precision("high")  # the default of jax
    train = run_func if task["mode"] == "func" else run_serial
    result = train(task, read_tensors(task["data"], task["device"]))
    report = {**vars(result.times), "accuracies": result.accuracies}
    report["accuracy"] = sum(result.accuracies) / len(result.accuracies)
    if task["device"] == "cuda":
        report["device_bytes"] = torch.cuda.max_memory_allocated()
    return report


def read_tensors(path: str, device: str) -> dict[str, torch.Tensor]:
    """Read images and labels of both splits onto the device."""
    arrays = read_arrays(path)
    tensors = {}
    for split in ("train", "test"):
        tensors[f"x_{split}"] = normalised(arrays[f"x_{split}"], device)
        tensors[f"y_{split}"] = torch.tensor(arrays[f"y_{split}"]).long().to(device)
    return tensors


def trial(task: Task) -> float:
    """Return the seconds of the fastest of three epochs of `func` on a part of the data."""
    data = read_tensors(task["data"], "cpu")
    data = {name: values[: BATCH * TUNING_STEPS] for name, values in data.items()}
    epochs = (0, TUNING_EPOCHS) if task["share"] else (TUNING_EPOCHS, 0)
    times = run_func({**task, "epochs": epochs}, data).times
    # The first epoch warms up.
    return min(times.stage("head" if task["share"] else "pretrain")[1:])


if __name__ == "__main__":
    tasks.main(run, trial)
