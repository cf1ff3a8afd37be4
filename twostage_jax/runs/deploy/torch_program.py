"""A graph of operations as lines of PyTorch."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from twostage_jax.errors import UserError
from twostage_jax.runs.deploy.onnx_graph import Graph, Node
from twostage_jax.trees import PyTree

# Types that PyTorch computes with, and the types that stand for others.
TYPES = {
    name: f"torch.{name}"
    for name in ("bool", "uint8", "int8", "int32", "int64", "float16", "bfloat16", "float32")
} | {"uint32": "torch.int64"}


class Program(NamedTuple):
    """Lines of Python, and the arrays that they use.

    Attributes:
        lines: assignments; `images` is the input, uint8 `[N, H, W, C]`.
        output: name of the result.
        arrays: by name; the lines use them as attributes of `self`.
    """

    lines: list[str]
    output: str
    arrays: dict[str, np.ndarray]


def torch_program(graph: Graph, output: str) -> Program:
    """Return a graph as lines of PyTorch.

    Raises:
        UserError: an operation that the lines cannot express.
    """
    nodes = graph.used_nodes(output)
    writer = _Writer(graph.used_constants(nodes))
    lines = []
    for node in nodes:
        names = ", ".join(node.outputs)
        lines.append(f"{names} = {writer.expression(node)}")
    return Program(lines, output, writer.arrays)


class _Writer:
    """Expressions of nodes; arrays that stay arrays are collected.

    Args:
        constants: constants of the graph by name.
    """

    def __init__(self, constants: Mapping[str, np.ndarray]) -> None:
        self._constants = constants
        self.arrays: dict[str, np.ndarray] = {}

    def expression(self, node: Node) -> str:
        """Return the expression for the results of a node."""
        if node.kind in SIMPLE:
            return SIMPLE[node.kind].format(*map(self.tensor, node.inputs))
        if node.kind not in WRITERS:
            raise UserError(
                f"the network uses the operation {node.kind}, which cannot be written for PyTorch: "
                "use --format onnx or twostage"
            )
        return WRITERS[node.kind](self, node)

    def tensor(self, name: str) -> str:
        """Return the expression for an input that is a tensor."""
        if name not in self._constants:
            return name
        values = self._constants[name]
        if values.dtype == np.uint32:
            values = values.astype(np.int64)
        if values.dtype.name not in TYPES:
            raise UserError(
                f"the network has values of type {values.dtype}, which cannot be written for "
                "PyTorch: use --format onnx or twostage"
            )
        self.arrays[name] = values
        return f"self.{name}"

    def numbers(self, name: str) -> str:
        """Return the expression for an input that is a list of integers, such as a shape."""
        if name in self._constants:
            return str(self._constants[name].tolist())
        return f"{name}.tolist()"


def _reduction(pattern: str) -> Callable[[_Writer, Node], str]:
    def write(writer: _Writer, node: Node) -> str:
        return pattern.format(writer.tensor(node.inputs[0]), writer.numbers(node.inputs[1]))

    return write


def _on_axis(pattern: str) -> Callable[[_Writer, Node], str]:
    def write(writer: _Writer, node: Node) -> str:
        return pattern.format(writer.tensor(node.inputs[0]), node.attributes["axis"])

    return write


def _cast(writer: _Writer, node: Node) -> str:
    return f"{writer.tensor(node.inputs[0])}.to({TYPES[node.attributes['to']]})"


def _concatenate(writer: _Writer, node: Node) -> str:
    parts = ", ".join(map(writer.tensor, node.inputs))
    return f"torch.cat([{parts}], {node.attributes['axis']})"


def _transpose(writer: _Writer, node: Node) -> str:
    return f"{writer.tensor(node.inputs[0])}.permute({node.attributes['perm']})"


def _einsum(writer: _Writer, node: Node) -> str:
    inputs = ", ".join(map(writer.tensor, node.inputs))
    return f"torch.einsum({node.attributes['equation']!r}, {inputs})"


def _top(writer: _Writer, node: Node) -> str:
    count = writer.numbers(node.inputs[1])
    largest = bool(node.attributes.get("largest", 1))
    return f"top({writer.tensor(node.inputs[0])}, {count}[0], {node.attributes['axis']}, {largest})"


def _take(writer: _Writer, node: Node) -> str:
    source, index = map(writer.tensor, node.inputs)
    return f"take({source}, {index}, {node.attributes['axis']})"


def _take_by_row(writer: _Writer, node: Node) -> str:
    source, index = map(writer.tensor, node.inputs)
    return f"take_by_row({source}, {index}, {node.attributes['batch_dims']})"


def _slice(writer: _Writer, node: Node) -> str:
    lists = ", ".join(map(writer.numbers, node.inputs[1:]))
    return f"cut({writer.tensor(node.inputs[0])}, {lists})"


def _pad(writer: _Writer, node: Node) -> str:
    image, pads, value = node.inputs
    return f"pad({writer.tensor(image)}, {writer.numbers(pads)}, {writer.tensor(value)}.item())"


def _window(pattern: str) -> Callable[[_Writer, Node], str]:
    def write(writer: _Writer, node: Node) -> str:
        settings: Mapping[str, PyTree] = node.attributes
        inputs: Sequence[str] = list(map(writer.tensor, node.inputs))
        return pattern.format(*inputs, rank=len(settings["strides"]), **settings)

    return write


SIMPLE = {
    "Add": "{} + {}", "Sub": "{} - {}", "Mul": "{} * {}", "Div": "divide({}, {})",
    "Max": "torch.maximum({}, {})", "Min": "torch.minimum({}, {})", "Pow": "torch.pow({}, {})",
    "Exp": "{}.exp()", "Log": "{}.log()", "Sqrt": "{}.sqrt()", "Reciprocal": "{}.reciprocal()",
    "Tanh": "{}.tanh()", "Erf": "{}.erf()", "Sigmoid": "{}.sigmoid()", "Neg": "-{}",
    "Abs": "{}.abs()", "Sign": "{}.sign()", "Floor": "{}.floor()", "Ceil": "{}.ceil()",
    "Round": "{}.round()", "Sin": "{}.sin()", "Cos": "{}.cos()", "Mod": "torch.fmod({}, {})",
    "And": "{} & {}", "Or": "{} | {}", "Not": "~{}", "Equal": "{} == {}", "Less": "{} < {}",
    "Greater": "{} > {}", "LessOrEqual": "{} <= {}", "GreaterOrEqual": "{} >= {}",
    "IsNaN": "{}.isnan()", "IsInf": "{}.isinf()", "Where": "torch.where({}, {}, {})",
    "MatMul": "{} @ {}", "Shape": "torch.tensor({0}.shape, device={0}.device)",
}  # fmt: skip
WRITERS: dict[str, Callable[[_Writer, Node], str]] = {
    "Cast": _cast,
    "Concat": _concatenate,
    "Transpose": _transpose,
    "Einsum": _einsum,
    "TopK": _top,
    "Gather": _take,
    "GatherND": _take_by_row,
    "Slice": _slice,
    "Pad": _pad,
    "Softmax": _on_axis("{}.softmax({})"),
    "ArgMax": _on_axis("{}.argmax({})"),
    "ArgMin": _on_axis("{}.argmin({})"),
    "ReduceMean": _reduction("{}.mean({})"),
    "ReduceSum": _reduction("{}.sum({})"),
    "ReduceMax": _reduction("{}.amax({})"),
    "ReduceMin": _reduction("{}.amin({})"),
    "ReduceProd": _reduction("product({}, {})"),
    "Reshape": _reduction("{}.reshape({})"),
    "Expand": _reduction("{}.expand({})"),
    "Unsqueeze": _reduction("unsqueeze({}, {})"),
    "Squeeze": _reduction("{}.squeeze({})"),
    "Conv": _window("convolve({}, {}, {rank}, {strides}, {pads}, {dilations}, {group})"),
    "MaxPool": _window("pool({}, {kernel_shape}, {strides}, {pads}, True)"),
    "AveragePool": _window("pool({}, {kernel_shape}, {strides}, {pads}, False)"),
}
# Functions that the lines call.
FUNCTIONS = """
def divide(x, y):
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def top(x, count, axis, largest):
    # Sorted, and the first of equal values comes first; `torch.topk` does not promise that.
    values, index = x.sort(dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, count), index.narrow(axis, 0, count)


def take(x, index, axis):
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def take_by_row(x, index, axis):
    # For each row of the first axes, the elements of `axis` at the row's own index.
    index, rest = index.squeeze(-1), x.shape[axis + 1 :]
    rows = index.reshape(*x.shape[:axis], -1, *(1 for _ in rest))
    rows = rows.expand(*rows.shape[: axis + 1], *rest)
    return x.gather(axis, rows).reshape(*index.shape, *rest)


def cut(x, starts, ends, axes, steps):
    parts = [slice(None)] * x.dim()
    for start, end, axis, step in zip(starts, ends, axes, steps):
        parts[axis] = slice(start, end, step)
    return x[tuple(parts)]


def product(x, axes):
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis)
    return x


def unsqueeze(x, axes):
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x


def pad(x, pads, value):
    # `pads` has the sizes before the last axes, then those after them.
    pairs = [*zip(pads[: len(pads) // 2], pads[len(pads) // 2 :])]
    return nn.functional.pad(x, [size for pair in pairs[::-1] for size in pair], value=value)


def convolve(x, kernel, rank, strides, pads, dilations, group):
    function = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[rank - 1]
    return function(pad(x, pads, 0.0), kernel, None, strides, 0, dilations, group)


def pool(x, size, strides, pads, is_max):
    if is_max:
        return nn.functional.max_pool2d(pad(x, pads, float("-inf")), size, strides)
    return nn.functional.avg_pool2d(pad(x, pads, 0.0), size, strides)
"""
