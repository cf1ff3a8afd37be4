"""A run as a PyTorch module: weights in a file, and a `model.py` that needs torch alone.

The networks are the blog's `TwoStageNetwork`: an encoder and a head of dense layers, `stage1` and
`stage2`, each a `Sequential`. PyTorch is not imported here.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.errors import UserError
from twostage_jax.runs.opened import Run
from twostage_jax.stages.nets.mlp import MLP
from twostage_jax.stages.stage import Params
from twostage_jax.stages.torch_names import torch_state_dict
from twostage_jax.trees import PyTree

SOLVED = ("linear", "ridge")  # solved heads that are one dense layer


class TorchModel(NamedTuple):
    """Weights and source of a PyTorch module.

    Attributes:
        arrays: by name, `members.M.stage1.0.weight` and so on.
        source: content of `model.py`.
    """

    arrays: dict[str, np.ndarray]
    source: str


def make_torch_model(run: Run, weights: str, temperature: float | None) -> TorchModel:
    """Return the PyTorch module of a run.

    Args:
        run: a finished run.
        weights: name of the file with the weights.
        temperature: of the calibration, or None.

    Raises:
        UserError: an encoder or a head that is no network of dense layers.
    """
    _check_networks(run)
    members = [_dense_groups(params, run.config.head.protocol) for params in _members(run)]
    states = [torch_state_dict(params) for params in members]
    arrays = {
        f"members.{member}.{name}": np.asarray(value)
        for member, state in enumerate(states)
        for name, value in state.items()
    }
    widths = {stage: _widths(states[0], stage) for stage in ("stage1", "stage2")}
    source = SOURCE.format(
        weights=weights,
        classes=list(run.classes),
        shape=tuple(run.manifest.preprocessing.image_shape),
        members=len(members),
        stage1=widths["stage1"],
        stage2=widths["stage2"],
        temperature=temperature,
    )
    return TorchModel(arrays, source)


def _check_networks(run: Run) -> None:
    protocol = run.config.head.protocol
    is_dense = isinstance(run.head, MLP) or protocol in SOLVED
    if not (isinstance(run.encoder, MLP) and is_dense):
        raise UserError(
            f"PyTorch needs an encoder mlp and a head mlp, linear or ridge, and {run.folder} has "
            f"{run.config.pretrain.encoder} and {protocol}: use --format onnx"
        )


def _members(run: Run) -> list[Params]:
    """Return the groups encoder and head of each member, without a member axis."""
    predictor = run.predictor
    return [
        {
            name: jax.tree.map(lambda x: x[member] if axis == 0 else x, predictor.params[name])  # noqa: B023
            for name, axis in predictor.axes.items()
        }
        for member in range(predictor.trials)
    ]


def _dense_groups(params: Params, protocol: str) -> Params:
    """Return the groups with the head as an `MLP`; a solved head becomes one dense layer."""
    head: Mapping[str, PyTree] = params["head"]
    if protocol in SOLVED:
        # The logits are `scale · (features · kernel + bias)`; `linear` has no scale.
        scale = head.get("scale", np.float32(1))
        layer = {"kernel": scale * head["kernel"], "bias": scale * head["bias"]}
        head = {"params": {"dense_0": layer}}
    else:
        # A loss may keep arrays of its own beside the layers.
        layers = {n: x for n, x in head["params"].items() if n.startswith("dense_")}
        head = {"params": layers}
    return {"encoder": params["encoder"], "head": head}


def _widths(state: Mapping[str, np.ndarray], stage: str) -> Sequence[int]:
    """Return input and output sizes of the layers of a `Sequential`."""
    weights = [np.shape(x) for n, x in state.items() if n.startswith(stage) and "weight" in n]
    return [weights[0][1], *(shape[0] for shape in weights)]


SOURCE = '''"""A classifier that twostage-jax exported; it needs torch alone.

    import torch
    from model import load

    model = load()
    images = torch.zeros(5, *model.shape, dtype=torch.uint8)  # [N, H, W, C], 0 to 255
    probability = model(images)  # [N, K], the mean over the members
    print([model.classes[k] for k in probability.argmax(-1)])
"""

import json
from pathlib import Path

import torch
from torch import nn

WEIGHTS = {weights!r}  # in the folder of this file
CLASSES = {classes!r}
SHAPE = {shape!r}
MEMBERS = {members!r}
STAGE1 = {stage1!r}
STAGE2 = {stage2!r}
TEMPERATURE = {temperature!r}  # of the calibration; None if there was no validation split


def sequential(widths):
    """Dense layers with ReLU between them."""
    layers = []
    for before, after in zip(widths, widths[1:]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class TwoStageNetwork(nn.Module):
    """Images uint8 [N, H, W, C] to logits [N, K]."""

    def __init__(self):
        super().__init__()
        self.stage1 = sequential(STAGE1)
        self.stage2 = sequential(STAGE2)

    def forward(self, images):
        x = (images.float() / 255 - 0.5) / 0.5
        return self.stage2(self.stage1(x.flatten(1)))


class Classifier(nn.Module):
    """Images uint8 [N, H, W, C] to probabilities [N, K]."""

    classes = CLASSES
    shape = SHAPE
    temperature = TEMPERATURE

    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList(TwoStageNetwork() for _ in range(MEMBERS))

    @torch.no_grad()
    def forward(self, images):
        return torch.stack([member(images).softmax(-1) for member in self.members]).mean(0)

    def calibrated(self, images):
        """Probabilities at the temperature that was fitted on validation."""
        logs = self(images).clamp_min(torch.finfo(torch.float32).tiny).log()
        return (logs / (TEMPERATURE or 1.0)).softmax(-1)


def read_weights(path):
    """Tensors of a safetensors file by name."""
    content = bytearray(Path(path).read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    state = {{}}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        values = torch.frombuffer(content[start + first : start + last], dtype=torch.float32)
        state[name] = values.reshape(entry["shape"])
    return state


def load(path=Path(__file__).parent / WEIGHTS):
    """The classifier with its weights."""
    model = Classifier()
    model.load_state_dict(read_weights(path))
    return model.eval()
'''
