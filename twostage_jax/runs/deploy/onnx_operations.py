"""Operations of jax as nodes of ONNX: those of our encoders and heads, and common ones of users.

`onnx_elementwise.py` has the elementwise ones.
"""

from collections.abc import Sequence

import numpy as np

from twostage_jax.engine.bundle import Bundle
from twostage_jax.errors import UserError
from twostage_jax.runs.deploy.onnx_elementwise import ELEMENTWISE
from twostage_jax.runs.deploy.onnx_graph import (
    Emit,
    Equation,
    Graph,
    Result,
    Tensor,
    Value,
    convert,
    trace,
)
from twostage_jax.trees import PyTree

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _same(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    return [value if isinstance(value, Tensor) else graph.name(value) for value in values]


def _reshape(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    shapes = equation.shapes[0]
    varying = sum(first != second for first, second in zip(*shapes, strict=True))
    if varying == 1:
        # ONNX computes one size; no shape has to be computed for it.
        sizes = [x if x == y else -1 for x, y in zip(*shapes, strict=True)]
        target = graph.integers(sizes)
    else:
        target = graph.shape(shapes)
    return [graph.add("Reshape", [graph.full(values[0]), target])]


def _broadcast(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    """Add axes of size 1; elementwise operations broadcast them without a copy."""
    axes = equation.params["broadcast_dimensions"]
    value = values[0]
    rank = len(equation.shapes[0][0])
    missing = [axis for axis in range(rank) if axis not in axes]
    if isinstance(value, Tensor):
        name = value.name
        if missing:
            name = graph.add("Unsqueeze", [name, graph.integers(missing)])
    else:
        name = graph.constant(np.expand_dims(value, missing))
    return [Tensor(name, equation.shapes[0], is_compact=True)]


def _iota(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    axis = equation.params["dimension"]
    first, second = equation.shapes[0]
    if first[axis] != second[axis]:
        raise UserError(
            "the network numbers the images of a batch, which cannot be written as ONNX"
        )
    count = np.arange(first[axis], dtype=equation.dtypes[0])
    name = graph.constant(count.reshape([-1 if i == axis else 1 for i in range(len(first))]))
    return [Tensor(name, equation.shapes[0], is_compact=True)]


def _transpose(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    order = list(equation.params["permutation"])
    return [graph.add("Transpose", [graph.full(values[0])], perm=order)]


def _concatenate(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    axis = equation.params["dimension"]
    # Padding by the values at the edge also pads axes by nothing.
    values = [value for value in values if _shape(value)[axis]]
    return [graph.add("Concat", [graph.full(value) for value in values], axis=axis)]


def _stack(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    axis = equation.params["axis"]
    axes = graph.integers([axis])
    parts = [graph.add("Unsqueeze", [graph.full(value), axes]) for value in values]
    return [graph.add("Concat", parts, axis=axis)]


def _slice(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    value = values[0]
    assert isinstance(value, Tensor)
    first, second = equation.both
    axes = []
    for axis, sizes in enumerate(zip(*value.shapes, strict=True)):
        starts = (first["start_indices"][axis], second["start_indices"][axis])
        ends = (first["limit_indices"][axis], second["limit_indices"][axis])
        step = first["strides"][axis] if first["strides"] else 1
        if starts != (0, 0) or ends != sizes or step != 1:
            axes.append(axis)
    if not axes:
        return [value]
    lists = []
    for name in ("start_indices", "limit_indices"):
        sizes = [tuple(params[name][axis] for axis in axes) for params in equation.both]
        lists.append(graph.shape((sizes[0], sizes[1])))
    steps = [first["strides"][axis] if first["strides"] else 1 for axis in axes]
    lists += [graph.integers(axes), graph.integers(steps)]
    return [graph.add("Slice", [graph.full(value), *lists])]


def _pad(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    config = equation.params["padding_config"]
    if any(inner or low < 0 or high < 0 for low, high, inner in config):
        raise UserError(
            "the network pads between pixels or by negative sizes, which cannot be written as ONNX"
        )
    pads = graph.integers([*(low for low, _, _ in config), *(high for _, high, _ in config)])
    return [graph.add("Pad", [graph.full(values[0]), pads, graph.name(values[1])])]


def _reduce(kind: str) -> Emit:
    def emit(graph: Graph, equation: Equation, values: list[Value]) -> Result:
        axes = graph.integers(equation.params["axes"])
        return [graph.add(kind, [graph.full(values[0]), axes], keepdims=0)]

    return emit


def _arg(kind: str) -> Emit:
    def emit(graph: Graph, equation: Equation, values: list[Value]) -> Result:
        axis = equation.params["axes"][0]
        index = graph.add(kind, [graph.full(values[0])], axis=axis, keepdims=0)
        return [graph.add("Cast", [index], to=equation.dtypes[0].name)]

    return emit


def _top_k(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    count = graph.integers([equation.params["k"]])
    largest, index = graph.add_all("TopK", [graph.full(values[0]), count], 2, axis=-1)
    return [largest, graph.add("Cast", [index], to=equation.dtypes[1].name)]


def _sort(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    if len(values) > 1:
        raise UserError(
            "the network sorts several arrays together, which cannot be written as ONNX"
        )
    axis = equation.params["dimension"]
    count = graph.integers([equation.shapes[0][0][axis]])
    inputs = [graph.full(values[0]), count]
    return [graph.add_all("TopK", inputs, 2, axis=axis, largest=0)[0]]


def _product(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
    ranks = [len(_shape(value)) for value in values]
    names = [graph.full(value) for value in values]
    is_plain = left_sum == (ranks[0] - 1,) and right_sum == (0,) and ranks[1] == 2
    if is_plain and not left_batch:
        return [graph.add("MatMul", names)]
    letters = iter(LETTERS)
    left = [next(letters) for _ in range(ranks[0])]
    right = [next(letters) for _ in range(ranks[1])]
    for i, j in zip((*left_sum, *left_batch), (*right_sum, *right_batch), strict=True):
        right[j] = left[i]
    result = [left[i] for i in left_batch]
    result += [x for i, x in enumerate(left) if i not in (*left_sum, *left_batch)]
    result += [x for i, x in enumerate(right) if i not in (*right_sum, *right_batch)]
    formula = f"{''.join(left)},{''.join(right)}->{''.join(result)}"
    return [graph.add("Einsum", names, equation=formula)]


def _shape(value: Value) -> Sequence[int]:
    return value.shapes[0] if isinstance(value, Tensor) else value.shape


def _gather(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    """Write the two forms of `x[index]`: along one axis, and for each row of the first axes."""
    numbers = equation.params["dimension_numbers"]
    sizes = equation.params["slice_sizes"]
    source, index = values
    shape = _shape(source)
    last = len(_shape(index)) - 1
    rank = len(equation.shapes[0][0])
    batching = tuple(numbers.operand_batching_dims)
    axis = numbers.start_index_map[0] if len(numbers.start_index_map) == 1 else -1
    rest = [i for i in range(len(shape)) if i not in (axis, *batching)]
    is_single = numbers.collapsed_slice_dims == (axis,) and all(sizes[i] == shape[i] for i in rest)
    # The axes of the index are where the axis of the source was.
    places = [place for place in range(rank) if place not in numbers.offset_dims]
    if is_single and not batching and places == list(range(axis, axis + last)):
        name = graph.add("Squeeze", [graph.full(index), graph.integers([last])])
        return [graph.add("Gather", [graph.full(source), name], axis=axis)]
    first = tuple(range(axis))
    both = (batching, tuple(numbers.start_indices_batching_dims))
    if is_single and both == (first, first) and places == list(range(last)):
        name = graph.add("Cast", [graph.full(index)], to="int64")
        return [graph.add("GatherND", [graph.full(source), name], batch_dims=axis)]
    raise UserError("the network selects elements in a way that ONNX cannot")


def _convolution(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    params = equation.params
    numbers = params["dimension_numbers"]
    if any(step != 1 for step in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise UserError("the network has a transposed convolution, which cannot be written as ONNX")
    image, kernel = (graph.full(value) for value in values)
    image = graph.add("Transpose", [image], perm=list(numbers.lhs_spec))
    kernel = graph.add("Transpose", [kernel], perm=list(numbers.rhs_spec))
    pads = [low for low, _ in params["padding"]] + [high for _, high in params["padding"]]
    result = graph.add(
        "Conv",
        [image, kernel],
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        pads=pads,
        group=params["feature_group_count"],
    )
    inverse = np.argsort(numbers.out_spec).tolist()
    return [graph.add("Transpose", [result], perm=inverse)]


def _window(kind: str) -> Emit:
    """Write a pooling of `[B, H, W, C]`."""

    def emit(graph: Graph, equation: Equation, values: list[Value]) -> Result:
        params: dict[str, PyTree] = dict(equation.params)
        window = params["window_dimensions"]
        ones = [*params["base_dilation"], *params["window_dilation"], window[0], window[-1]]
        if len(window) != 4 or any(size != 1 for size in ones):
            raise UserError("the network pools in a way that cannot be written as ONNX")
        padding = params["padding"][1:3]
        image = graph.add("Transpose", [graph.full(values[0])], perm=[0, 3, 1, 2])
        options: dict[str, PyTree] = {
            "kernel_shape": list(window[1:3]),
            "strides": list(params["window_strides"][1:3]),
            "pads": [low for low, _ in padding] + [high for _, high in padding],
        }
        if kind == "AveragePool":
            options["count_include_pad"] = 1
        pooled = graph.add(kind, [image], **options)
        if kind == "AveragePool":
            size = np.array(window[1] * window[2], equation.dtypes[0])
            pooled = graph.add("Mul", [pooled, graph.constant(size)])
        return [graph.add("Transpose", [pooled], perm=[0, 2, 3, 1])]

    return emit


OPERATIONS: dict[str, Emit] = {
    **ELEMENTWISE,
    "stop_gradient": _same,
    "copy": _same,
    "copy_p": _same,
    "optimization_barrier": _same,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "broadcast_in_dim": _broadcast,
    "iota": _iota,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "slice": _slice,
    "pad": _pad,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "top_k": _top_k,
    "sort": _sort,
    "dot_general": _product,
    "gather": _gather,
    "conv_general_dilated": _convolution,
    "reduce_window_max": _window("MaxPool"),
    "reduce_window_sum": _window("AveragePool"),
}


def add_probabilities(graph: Graph, bundle: Bundle) -> str:
    """Add the network of a bundle; return the name of the mean probabilities `[N, K]`.

    Raises:
        UserError: a network that the graph cannot express.
    """
    traces = trace(lambda images: bundle.apply(bundle.arrays, images)[0], bundle.image_shape)
    logits = graph.full(convert(graph, traces, OPERATIONS)[0])
    members = graph.add("Softmax", [logits], axis=-1)
    return graph.add("ReduceMean", [members, graph.integers([0])], keepdims=0)
