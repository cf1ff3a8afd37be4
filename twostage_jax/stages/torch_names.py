"""Our parameters under the names and layouts of the blog's PyTorch `TwoStageNetwork`, and back.

`stage1` is our group `encoder`, `stage2` our `head`, and `decoder` the mirrored decoder. Layer `i`
of a group is module `2i` of a `Sequential`, with a ReLU between layers. PyTorch stores a weight as
`[out, in]`, Linen a kernel as `[in, out]`. All arrays are NumPy's: PyTorch is not needed.
"""

import re
from collections.abc import Mapping

import jax
import numpy as np
from numpy.typing import ArrayLike

from twostage_jax.errors import UserError
from twostage_jax.stages.stage import Params
from twostage_jax.trees import tree_differences, tree_leaves, tree_signature

PREFIXES = {"encoder": "stage1", "decoder": "decoder", "head": "stage2"}
_GROUPS = {prefix: group for group, prefix in PREFIXES.items()}
_OUR_NAME = re.compile(r"(encoder|decoder|head)/params/dense_(\d+)/(kernel|bias)")
_TORCH_NAME = re.compile(r"(stage1|decoder|stage2)\.(\d*[02468])\.(weight|bias)")


def torch_state_dict(params: Params) -> dict[str, np.ndarray]:
    """Convert our parameters to `{"stage1.0.weight": [out, in], "stage1.0.bias": [out], …}`.

    Args:
        params: any of the groups `encoder`, `decoder` and `head`, all of them `ts.MLP`s.

    Raises:
        UserError: parameters without a name in `TwoStageNetwork`; all of them are listed.

    >>> import jax.numpy as jnp
    >>> import twostage_jax as ts
    >>> params = {"encoder": ts.MLP((8,)).init(jax.random.key(0), jnp.ones((1, 4)))}
    >>> ts.torch_state_dict(params)["stage1.0.weight"].shape
    (8, 4)
    """
    state = {}
    unknown = []
    for path, leaf in tree_leaves(params).items():
        match = _OUR_NAME.fullmatch(path)
        if match is None:
            unknown.append(path)
            continue
        group, layer, kind = match.groups()
        array = np.asarray(jax.device_get(leaf))
        module = f"{PREFIXES[group]}.{2 * int(layer)}"
        if kind == "kernel":
            state[f"{module}.weight"] = np.ascontiguousarray(array.T)
        else:
            state[f"{module}.bias"] = array
    if unknown:
        raise UserError(
            f"no name in TwoStageNetwork for {', '.join(unknown)}: give the groups encoder, "
            "decoder and head, each of a ts.MLP"
        )
    return state


def from_torch_state_dict(state: Mapping[str, ArrayLike]) -> Params:
    """Convert the state of a `TwoStageNetwork` to our groups; the inverse of `torch_state_dict`.

    Args:
        state: result of `state_dict()`, with NumPy arrays or CPU tensors as values.

    Raises:
        UserError: unknown or missing entries and wrong shapes; all of them are listed.

    >>> import numpy as np
    >>> import twostage_jax as ts
    >>> state = {"stage1.0.weight": np.zeros((8, 4)), "stage1.0.bias": np.zeros(8)}
    >>> ts.from_torch_state_dict(state)["encoder"]["params"]["dense_0"]["kernel"].shape
    (4, 8)
    """
    arrays = {name: np.asarray(value) for name, value in state.items()}
    problems = _problems(arrays)
    if problems:
        raise UserError(
            f"not the state of a TwoStageNetwork: {'; '.join(problems)}; the entries are "
            "{stage1,stage2,decoder}.{0,2,…}.{weight,bias}"
        )
    params: Params = {}
    for prefix, layers in _layers(arrays).items():
        dense = {}
        for layer in layers:
            kernel = np.ascontiguousarray(arrays[f"{prefix}.{layer}.weight"].T)
            bias = np.ascontiguousarray(arrays[f"{prefix}.{layer}.bias"])
            dense[f"dense_{layer // 2}"] = {"kernel": kernel, "bias": bias}
        params[_GROUPS[prefix]] = {"params": dense}
    return params


def _problems(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Phrases for all entries that are unknown, missing or of a wrong shape."""
    if not arrays:
        return ["it is empty"]
    problems = []
    valid = {}
    for name, array in arrays.items():
        axes = "[out, in]" if name.endswith("weight") else "[out]"
        if not _TORCH_NAME.fullmatch(name):
            problems.append(f"{name} is unknown")
        elif array.ndim != len(axes.split(",")):
            problems.append(f"{name} has shape {list(array.shape)}, expected {axes}")
        else:
            valid[name] = array
    expected = _expected(valid)
    # An entry with a wrong number of axes is listed already; it is not missing.
    required = {
        name: leaf for name, leaf in expected.items() if name not in arrays or name in valid
    }
    return problems + tree_differences(tree_signature(required), tree_signature(valid))


def _expected(arrays: Mapping[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    """Entries of the complete state that `arrays` belong to, shapes following from layer sizes."""
    features = pixels = None
    expected = {}
    layers = _layers(arrays)
    for prefix in sorted(layers, key=list(_GROUPS).index):  # stage1 first: it fixes sizes
        # The features of stage1 are the input of the other two.
        inputs = None if prefix == "stage1" else features
        for layer in layers[prefix]:
            weight = arrays.get(f"{prefix}.{layer}.weight")
            bias = arrays.get(f"{prefix}.{layer}.bias")
            rows = weight if weight is not None else bias
            outputs = 0 if rows is None else rows.shape[0]
            if prefix == "decoder" and layer == layers[prefix][-1]:
                outputs = pixels or outputs  # the decoder ends in the image
            if inputs is None and weight is not None:
                inputs = weight.shape[1]
            if prefix == "stage1" and layer == 0:
                pixels = inputs
            shapes = {"weight": (outputs, inputs or 0), "bias": (outputs,)}
            for kind, shape in shapes.items():
                array = arrays.get(f"{prefix}.{layer}.{kind}")
                dtype = np.float32 if array is None else array.dtype  # any type is accepted
                expected[f"{prefix}.{layer}.{kind}"] = jax.ShapeDtypeStruct(shape, dtype)
            inputs = outputs or None
        features = inputs if prefix == "stage1" else features
    return expected


def _layers(arrays: Mapping[str, np.ndarray]) -> dict[str, range]:
    """Module numbers `0, 2, …` of each prefix, up to the highest one in a state."""
    last: dict[str, int] = {}
    for name in arrays:
        prefix, module, _ = name.split(".")
        last[prefix] = max(last.get(prefix, 0), int(module))
    return {prefix: range(0, module + 1, 2) for prefix, module in last.items()}
