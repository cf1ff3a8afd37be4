"""Our parameters under the names and layouts of the blog's PyTorch `TwoStageNetwork`, and back.

`stage1` is our group `encoder`, `stage2` our `head`, and `decoder` the mirrored decoder. Layer `i`
of a group is module `2i` of a `Sequential`, with a ReLU between layers. PyTorch stores a weight as
`[out, in]`, Linen a kernel as `[in, out]`. Both directions copy: nothing shares memory. PyTorch is
never imported.
"""

import re
import sys
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.errors import UserError, printable, shown
from twostage_jax.stages.stage import Params
from twostage_jax.trees import PyTree, tree_leaves

_PREFIXES = {"encoder": "stage1", "decoder": "decoder", "head": "stage2"}
_GROUPS = {prefix: group for group, prefix in _PREFIXES.items()}
_KINDS = {"kernel": "weight", "bias": "bias"}
_OUR_NAME = re.compile(r"(encoder|decoder|head)/params/dense_(\d+)/(kernel|bias)")
_TORCH_NAME = re.compile(r"(stage1|decoder|stage2)\.(\d*[02468])\.(weight|bias)")
# Keys under which checkpoints hold the state of the model.
_NESTED = ("state_dict", "model_state_dict", "model")
# Names that wrappers add: torch.compile, DataParallel, FSDP, activation checkpointing.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def torch_state_dict(params: Params) -> dict[str, PyTree]:
    """Convert our parameters to `{"stage1.0.weight": [out, in], "stage1.0.bias": [out], …}`.

    The values are copies: tensors on the CPU if PyTorch has been imported, as `load_state_dict`
    takes them, else NumPy arrays. The module to load them into:

        class TwoStageNetwork(torch.nn.Module):  # for ts.MLP((256, 128)) and ts.MLP((64, 10))
            def __init__(self):
                super().__init__()
                linear, relu = torch.nn.Linear, torch.nn.ReLU
                self.stage1 = torch.nn.Sequential(linear(784, 256), relu(), linear(256, 128))
                self.stage2 = torch.nn.Sequential(linear(128, 64), relu(), linear(64, 10))

            def forward(self, image):  # [B, H, W] or [B, H, W, C], as (x/255 - 0.5)/0.5
                return self.stage2(self.stage1(image.flatten(1)))

        model = TwoStageNetwork()
        model.load_state_dict(ts.torch_state_dict(params))

    Args:
        params: any of the groups `encoder`, `decoder` and `head`, all of them `ts.MLP`s.

    Raises:
        UserError: parameters without a name in `TwoStageNetwork`, all of which are listed, or
            parameters with a member axis.

    >>> import twostage_jax as ts
    >>> params = {"encoder": ts.MLP((8,)).init(jax.random.key(0), jnp.ones((1, 4)))}
    >>> tuple(ts.torch_state_dict(params)["stage1.0.weight"].shape)
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
        if jnp.ndim(leaf) != (2 if kind == "kernel" else 1):
            raise UserError(
                f"{path} has shape {list(jnp.shape(leaf))}: give the parameters of one member, for "
                "instance jax.tree.map(lambda leaf: leaf[0], params)"
            )
        name = f"{_PREFIXES[group]}.{2 * int(layer)}.{_KINDS[kind]}"
        state[name] = _as_tensor(_transposed(jax.device_get(leaf)))
    if unknown:
        raise UserError(
            f"no name in TwoStageNetwork for {', '.join(unknown)}: give the groups encoder, "
            "decoder and head, each of a ts.MLP"
        )
    return state


def from_torch_state_dict(state: Mapping[str, PyTree] | Iterable[tuple[str, PyTree]]) -> Params:
    """Convert the state of a `TwoStageNetwork` to our groups; the inverse of `torch_state_dict`.

    Args:
        state: result of `state_dict()` or `named_parameters()`, or a checkpoint with that under
            `state_dict`, `model_state_dict` or `model`. Values are tensors of any device and float
            type, NumPy arrays or lists. A prefix that all names share (`module.`, `_orig_mod.`,
            `model.`) is removed.

    Returns:
        Groups of float32 NumPy arrays (float64 stays if jax has it enabled), copied.

    Raises:
        UserError: unknown, missing or unreadable entries and wrong shapes; all of them are listed.

    >>> import twostage_jax as ts
    >>> state = {"stage1.0.weight": np.zeros((8, 4)), "stage1.0.bias": np.zeros(8)}
    >>> ts.from_torch_state_dict(state)["encoder"]["params"]["dense_0"]["kernel"].shape
    (4, 8)
    """
    problems: list[str] = []
    arrays: dict[str, np.ndarray] = {}
    entries = _entries(state)
    for name, value in entries.items():
        if not _TORCH_NAME.fullmatch(name):
            problems.append(f"{printable(name)} is unknown")
            continue
        try:
            arrays[name] = _as_array(value)
        except Exception as error:  # another library's tensor may raise anything
            problems.append(f"{name} cannot be read: {error}")
    if not problems:
        problems = _problems(arrays) if arrays else ["it is empty"]
    elif len(arrays) == len([name for name in entries if _TORCH_NAME.fullmatch(name)]):
        problems += _problems(arrays)  # with unreadable entries, shapes would be found missing
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


def _entries(state: PyTree) -> dict[str, PyTree]:
    """Return the entries of a state by their names in `TwoStageNetwork`.

    Raises:
        UserError: not a state, or two entries with one name.
    """
    for key in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    try:
        pairs = dict(state).items()
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{shown(state)} is not the state of a PyTorch model: give model.state_dict(), or "
            "torch.load(file) for a file"
        ) from error
    entries: dict[str, PyTree] = {}
    prefixes = set()
    for name, value in pairs:
        parts = [part for part in str(name).split(".") if part not in _WRAPPERS]
        start = next((i for i, part in enumerate(parts) if part in _GROUPS), 0)
        prefixes.add(tuple(parts[:start]))
        entries[".".join(parts)] = value
    if len(entries) != len(pairs):
        raise UserError("two entries of the state differ only in a prefix: give one model's state")
    if len(prefixes) == 1:
        skip = len(".".join((*prefixes.pop(), "")))
        entries = {name[skip:]: value for name, value in entries.items()}
    return entries


def _as_array(value: PyTree) -> np.ndarray:
    """Return an array or tensor of any kind as a float array.

    Raises:
        ValueError: values that are not floats, or none.
    """
    if hasattr(value, "detach"):
        value = value.detach()
        if value.is_meta:
            raise ValueError("it is on the meta device and has no values")
        if value.is_quantized:
            value = value.dequantize()
        if str(value.layout) != "torch.strided":
            value = value.to_dense()
        # NumPy has no bfloat16 and no 8-bit floats.
        value = value.cpu()
        value = (
            value.float() if value.is_floating_point() and value.itemsize < 4 else value
        ).numpy()
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"its values are {array.dtype} instead of floats")
    return array.astype(jax.dtypes.canonicalize_dtype(jnp.promote_types(array.dtype, np.float32)))


def _as_tensor(array: np.ndarray) -> PyTree:
    """Return a tensor if PyTorch has been imported, which takes seconds, else the array."""
    torch = sys.modules.get("torch")
    if torch is None:
        return array
    if array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float32)  # bfloat16, which PyTorch cannot take from NumPy
    return torch.from_numpy(array)


def _transposed(array: np.ndarray) -> np.ndarray:
    # Always a copy, also of a bias, in a layout that everything after it keeps.
    return np.array(array.T, order="C")


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
