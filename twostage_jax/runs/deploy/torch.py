"""A run as a PyTorch module: weights in a file, and a `model.py` that needs torch alone.

An encoder and a head of dense layers become the blog's `TwoStageNetwork` with `stage1` and
`stage2`, each a `Sequential`. All other networks are written operation by operation. PyTorch is not
imported here.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.engine.bundle import make_bundle
from twostage_jax.runs.deploy.onnx_graph import Graph
from twostage_jax.runs.deploy.onnx_operations import add_probabilities
from twostage_jax.runs.deploy.torch_program import torch_program
from twostage_jax.runs.deploy.torch_source import dense_network, torch_source, traced_network
from twostage_jax.runs.opened import Run
from twostage_jax.stages.nets.mlp import MLP
from twostage_jax.stages.stage import Params
from twostage_jax.stages.torch_names import torch_state_dict
from twostage_jax.trees import PyTree

SOLVED = ("linear", "ridge")  # solved heads that are one dense layer


class TorchModel(NamedTuple):
    """Weights and source of a PyTorch module.

    Attributes:
        arrays: by name: `members.M.stage1.0.weight` and so on for dense layers.
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
        UserError: a network with an operation that cannot be written for PyTorch.
    """
    protocol = run.config.head.protocol
    is_dense = isinstance(run.encoder, MLP) and (isinstance(run.head, MLP) or protocol in SOLVED)
    arrays, network = _dense(run) if is_dense else _traced(run)
    about = {
        "WEIGHTS": weights,
        "CLASSES": list(run.classes),
        "SHAPE": tuple(run.manifest.preprocessing.image_shape),
        "TEMPERATURE": temperature,
    }
    return TorchModel(arrays, torch_source(about, network))


def _dense(run: Run) -> tuple[dict[str, np.ndarray], str]:
    """Return the arrays and the source of the blog's network, for each member."""
    members = [_dense_groups(params, run.config.head.protocol) for params in _members(run)]
    states = [torch_state_dict(params) for params in members]
    arrays = {
        f"members.{member}.{name}": np.asarray(value)
        for member, state in enumerate(states)
        for name, value in state.items()
    }
    widths = [_widths(states[0], stage) for stage in ("stage1", "stage2")]
    return arrays, dense_network(len(members), *widths)


def _traced(run: Run) -> tuple[dict[str, np.ndarray], str]:
    """Return the arrays and the source of a network that is written operation by operation."""
    bundle = make_bundle(run.predictor)
    graph = Graph(bundle.image_shape)
    program = torch_program(graph, add_probabilities(graph, bundle))
    return program.arrays, traced_network(program)


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
