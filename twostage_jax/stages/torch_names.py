"""Our parameters under the names and layouts of the blog's PyTorch `TwoStageNetwork`, and back.

`stage1` is our group `encoder`, `stage2` our `head`, and `decoder` the mirrored decoder. Layer `i`
of a group is module `2i` of a `Sequential`, with a ReLU after it; PyTorch keeps a weight as
`[out, in]`, Linen a kernel as `[in, out]`. All arrays are NumPy's: no PyTorch is needed.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from twostage_jax.errors import UserError
from twostage_jax.stages.stage import Params
from twostage_jax.trees import tree_leaves

PREFIXES = {"encoder": "stage1", "decoder": "decoder", "head": "stage2"}
_GROUPS = {prefix: group for group, prefix in PREFIXES.items()}
_OURS = re.compile(r"(encoder|decoder|head)/params/dense_(\d+)/(kernel|bias)")
_THEIRS = re.compile(r"(stage1|decoder|stage2)\.(\d+)\.(weight|bias)")


def torch_state_dict(params: Params) -> dict[str, np.ndarray]:
    """`{"stage1.0.weight": [out, in], "stage1.0.bias": [out], …}` for groups of `ts.MLP`s.

    Args:
        params: groups out of `encoder`, `decoder` and `head`, each of an `MLP`.

    Raises:
        UserError: every parameter that has no name there, by path.
    """
    state, unknown = {}, []
    for path, leaf in tree_leaves(params).items():
        match = _OURS.fullmatch(path)
        if not match:
            unknown.append(path)
            continue
        group, layer, what = match.groups()
        array = np.asarray(jax.device_get(leaf))
        name = f"{PREFIXES[group]}.{2 * int(layer)}"
        if what == "kernel":
            state[f"{name}.weight"] = np.ascontiguousarray(array.T)
        else:
            state[f"{name}.bias"] = array
    if unknown:
        raise UserError(
            f"no name in TwoStageNetwork for {', '.join(unknown)}: give the groups encoder, "
            "decoder and head, each of a ts.MLP"
        )
    return state


def from_torch_state_dict(state: Mapping[str, Any]) -> Params:
    """The parameter groups that a `TwoStageNetwork` holds; the inverse of `torch_state_dict`.

    Args:
        state: what `state_dict()` returns, its values as NumPy arrays or tensors on the CPU.

    Raises:
        UserError: every entry that is unknown, missing or misshaped, in one message.
    """
    layers: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    problems = []
    for name, value in state.items():
        match = _THEIRS.fullmatch(name)
        if match and not int(match[2]) % 2:
            layer = layers.setdefault(match[1], {}).setdefault(int(match[2]), {})
            layer[match[3]] = np.asarray(value)
        else:
            problems.append(f"{name} is unknown")
    for prefix, found in layers.items():
        problems += _missing(prefix, found) or _misshaped(prefix, found)
    problems = problems or _misfits(layers)
    if problems or not layers:
        raise UserError(
            f"not the state of a TwoStageNetwork: {'; '.join(problems) or 'it is empty'}; entries "
            "are {stage1,stage2,decoder}.{0,2,…}.{weight,bias}"
        )
    return {_GROUPS[prefix]: _group(found) for prefix, found in layers.items()}


def _missing(prefix: str, layers: Mapping[int, Mapping[str, Any]]) -> list[str]:
    names = [f"{i}.{what}" for i in range(0, max(layers) + 1, 2) for what in ("weight", "bias")]
    there = {f"{i}.{what}" for i, layer in layers.items() for what in layer}
    return [f"{prefix}.{name} is missing" for name in names if name not in there]


def _misshaped(prefix: str, layers: Mapping[int, Mapping[str, np.ndarray]]) -> list[str]:
    problems, width = [], None
    for index, layer in sorted(layers.items()):
        weight, bias = layer["weight"].shape, layer["bias"].shape
        if len(weight) != 2 or width not in (None, weight[1]):
            expected = "[out, in]" if width is None else f"[out, {width}]"
            problems.append(f"{prefix}.{index}.weight is {list(weight)}, expected {expected}")
        if bias != weight[:1]:
            expected = list(weight[:1])
            problems.append(f"{prefix}.{index}.bias is {list(bias)}, expected {expected}")
        width = weight[0] if weight else None
    return problems


def _misfits(layers: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]]) -> list[str]:
    """Groups that do not fit each other: the features of stage1 go into the other two."""
    if "stage1" not in layers:
        return []
    first, last = min(layers["stage1"]), max(layers["stage1"])
    inputs = layers["stage1"][first]["weight"].shape[1]
    features = layers["stage1"][last]["weight"].shape[0]
    problems = []
    for prefix in ("stage2", "decoder"):
        found = layers.get(prefix)
        if found and found[0]["weight"].shape[1] != features:
            shape = list(found[0]["weight"].shape)
            problems.append(f"{prefix}.0.weight is {shape}, expected [out, {features}]")
    decoder = layers.get("decoder")
    if decoder and (shape := decoder[max(decoder)]["weight"].shape)[0] != inputs:
        problems.append(f"decoder.{max(decoder)}.weight is {list(shape)}, expected [{inputs}, in]")
    return problems


def _group(layers: Mapping[int, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    dense = {
        f"dense_{index // 2}": {
            "kernel": np.ascontiguousarray(layer["weight"].T),
            "bias": np.ascontiguousarray(layer["bias"]),
        }
        for index, layer in sorted(layers.items())
    }
    return {"params": dense}
