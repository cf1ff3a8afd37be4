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
from twostage_jax.trees import tree_leaves

_PREFIXES = {"encoder": "stage1", "decoder": "decoder", "head": "stage2"}
_GROUPS = {prefix: group for group, prefix in _PREFIXES.items()}
_KINDS = {"kernel": "weight", "bias": "bias"}
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
        name = f"{_PREFIXES[group]}.{2 * int(layer)}.{_KINDS[kind]}"
        state[name] = _transposed(jax.device_get(leaf))
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
    problems = [f"{name} is unknown" for name in arrays if not _TORCH_NAME.fullmatch(name)]
    valid = {name: array for name, array in arrays.items() if _TORCH_NAME.fullmatch(name)}
    problems += _problems(valid) if arrays else ["it is empty"]
    if problems:
        raise UserError(
            f"not the state of a TwoStageNetwork: {'; '.join(problems)}; the entries are "
            "{stage1,stage2,decoder}.{0,2,…}.{weight,bias}"
        )
    params: Params = {}
    for name, array in arrays.items():
        prefix, module, kind = name.split(".")
        layers = params.setdefault(_GROUPS[prefix], {"params": {}})["params"]
        layer = layers.setdefault(f"dense_{int(module) // 2}", {})
        layer["kernel" if kind == "weight" else "bias"] = _transposed(array)
    return params


def _transposed(array: ArrayLike) -> np.ndarray:
    # A contiguous copy, because a view would keep the other layout for everything after it.
    return np.ascontiguousarray(np.asarray(array).T)


def _problems(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Phrases for all missing entries and wrong shapes."""
    last: dict[str, int] = {}
    for name in arrays:
        prefix, module, _ = name.split(".")
        last[prefix] = max(last.get(prefix, 0), int(module))
    # The first array with an axis fixes its size for all others. stage1 comes first, because the
    # other two are built on its features.
    sizes: dict[str, int] = {}
    problems = []
    for prefix in sorted(last, key=list(_GROUPS).index):
        source = "pixels" if prefix == "stage1" else "features"
        for module in range(0, last[prefix] + 1, 2):
            target = f"{prefix}.{module}"
            if module == last[prefix]:
                target = {"stage1": "features", "decoder": "pixels"}.get(prefix, target)
            for kind, axes in (("weight", (target, source)), ("bias", (target,))):
                problems += _mismatch(f"{prefix}.{module}.{kind}", arrays, axes, sizes)
            source = target
    return problems


def _mismatch(
    name: str, arrays: Mapping[str, np.ndarray], axes: tuple[str, ...], sizes: dict[str, int]
) -> list[str]:
    """Phrase for an entry that is missing or does not fit; `sizes` learns the sizes of its axes."""
    if name not in arrays:
        return [f"{name} is missing"]
    shape = list(arrays[name].shape)
    if len(shape) != len(axes):
        letters = "[out, in]" if len(axes) == 2 else "[out]"
        return [f"{name} has shape {shape}, expected {letters}"]
    expected = [sizes.setdefault(axis, size) for axis, size in zip(axes, shape, strict=True)]
    return [] if shape == expected else [f"{name} has shape {shape}, expected {expected}"]
