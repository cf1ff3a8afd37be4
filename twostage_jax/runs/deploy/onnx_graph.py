"""A graph of ONNX operations from a function of jax whose first axis is the batch.

It is written as an ONNX file (`onnx.py`) or as a program for PyTorch (`torch_program.py`).

The function is traced with two batch sizes. A size that differs between the traces depends on the
batch, and everything else is a constant. So the graph takes any number of images, and no module
needs to be traced with a symbolic size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from twostage_jax.errors import UserError
from twostage_jax.trees import PyTree

TRACED = (5, 7)  # batch sizes; primes, so that no other size equals one of them times a number
Sizes = tuple[int, ...]
# Equations that only contain other equations.
NESTED = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2")


class Tensor(NamedTuple):
    """A value of the graph that depends on the images.

    Attributes:
        name: its name in the graph.
        shapes: its shape in both traces.
        is_compact: True if axes may still have size 1, which elementwise operations broadcast.
    """

    name: str
    shapes: tuple[Sizes, Sizes]
    is_compact: bool = False


Value = Tensor | np.ndarray


class Equation(NamedTuple):
    """One operation in both traces; `params` are those of the first trace."""

    name: str
    params: Mapping[str, PyTree]
    both: tuple[Mapping[str, PyTree], Mapping[str, PyTree]]
    shapes: tuple[tuple[Sizes, Sizes], ...]  # of each result
    dtypes: tuple[np.dtype, ...]


class Node(NamedTuple):
    """An operation of the graph, with the names of ONNX.

    Attributes:
        kind: name of the operation.
        inputs: names of its inputs.
        outputs: names of its results.
        attributes: its settings by name; `to` of `Cast` is the name of a type, such as float32.
    """

    kind: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, PyTree]


class Graph:
    """Nodes and constants of a graph that is being written.

    Attributes:
        nodes: in the order in which they are computed.
        constants: by name.
        images: the input, uint8 `[N, H, W, C]`.
    """

    def __init__(self, image_shape: Sizes) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self._names: dict[tuple[str, Sizes, bytes], str] = {}
        first, second = ((size, *image_shape) for size in TRACED)
        self.images = Tensor("images", (first, second))
        self._count: str | None = None

    def add(self, kind: str, inputs: Sequence[str], **attributes: PyTree) -> str:
        """Add a node with one result; return the name of the result."""
        return self.add_all(kind, inputs, 1, **attributes)[0]

    def add_all(
        self, kind: str, inputs: Sequence[str], count: int, **attributes: PyTree
    ) -> list[str]:
        """Add a node; return the names of its results."""
        names = [f"{kind.lower()}_{len(self.nodes)}_{index}" for index in range(count)]
        self.nodes.append(Node(kind, list(inputs), names, attributes))
        return names

    def constant(self, values: np.ndarray) -> str:
        """Return the name of a constant; equal constants are stored once."""
        values = np.ascontiguousarray(values)
        key = (values.dtype.name, values.shape, values.tobytes())
        if key not in self._names:
            self._names[key] = f"constant_{len(self._names)}"
            self.constants[self._names[key]] = values
        return self._names[key]

    def integers(self, values: Sequence[int]) -> str:
        """Return the name of a constant list of int64."""
        return self.constant(np.array(values, np.int64))

    def shape(self, shapes: tuple[Sizes, Sizes]) -> str:
        """Return the name of a shape, computed from the number of images if it depends on it."""
        sizes = [self._size(*pair) for pair in zip(*shapes, strict=True)]
        if all(isinstance(size, int) for size in sizes):
            return self.integers([size for size in sizes if isinstance(size, int)])
        names = [self.integers([x]) if isinstance(x, int) else x for x in sizes]
        return self.add("Concat", names, axis=0)

    def _size(self, first: int, second: int) -> int | str:
        """Return a size, or the name of `factor · N + offset`."""
        if first == second:
            return first
        factor, rest = divmod(second - first, TRACED[1] - TRACED[0])
        if rest:
            raise UserError("an axis does not grow in proportion to the number of images")
        if self._count is None:
            shape = self.add("Shape", [self.images.name])
            self._count = self.add("Gather", [shape, self.integers([0])], axis=0)
        product = self.add("Mul", [self._count, self.integers([factor])])
        return self.add("Add", [product, self.integers([first - factor * TRACED[0]])])

    def name(self, value: Value) -> str:
        """Return the name of a value; elementwise operations broadcast its axes of size 1."""
        return value.name if isinstance(value, Tensor) else self.constant(value)

    def full(self, value: Value) -> str:
        """Return the name of a value with all its axes in full size."""
        if isinstance(value, Tensor) and value.is_compact:
            return self.add("Expand", [value.name, self.shape(value.shapes)])
        return self.name(value)

    def used_nodes(self, output: str) -> list[Node]:
        """Return the nodes that an output depends on."""
        needed = {output}
        used = []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                used.append(node)
        return used[::-1]

    def used_constants(self, nodes: Sequence[Node]) -> dict[str, np.ndarray]:
        """Return the constants that are inputs of nodes."""
        names = {name for node in nodes for name in node.inputs}
        return {name: values for name, values in self.constants.items() if name in names}


Result = list[str | Tensor]  # names, or values that are compact
Emit = Callable[[Graph, Equation, list[Value]], Result]


def trace(function: Callable[[PyTree], jax.Array], image_shape: Sizes) -> list[ClosedJaxpr]:
    """Trace a function of images uint8 `[N, H, W, C]` with both batch sizes."""
    shapes = [jax.ShapeDtypeStruct((size, *image_shape), np.uint8) for size in TRACED]
    return [jax.make_jaxpr(function)(shape) for shape in shapes]


def convert(
    graph: Graph, traces: Sequence[ClosedJaxpr], operations: Mapping[str, Emit]
) -> list[Value]:
    """Add a traced function to the graph; return its results.

    Raises:
        UserError: an operation that is not in `operations`, or one that differs with the batch.
    """
    first, second = traces
    consts = [np.asarray(value) for value in first.consts]
    return _convert(graph, (first.jaxpr, second.jaxpr), [*consts], [graph.images], operations)


def _convert(
    graph: Graph,
    jaxprs: tuple[Jaxpr, Jaxpr],
    consts: Sequence[Value],
    inputs: Sequence[Value],
    operations: Mapping[str, Emit],
) -> list[Value]:
    first, second = jaxprs
    names = [equation.primitive.name for equation in first.eqns]
    if names != [equation.primitive.name for equation in second.eqns]:
        raise UserError("the network computes differently for other numbers of images")
    values: dict[PyTree, Value] = {}
    values |= dict(zip([*first.constvars, *first.invars], [*consts, *inputs], strict=True))

    def read(variable: PyTree) -> Value:
        if isinstance(variable, Literal):
            kind: PyTree = variable.aval
            return np.asarray(variable.val, kind.dtype)
        return values[variable]

    for left, right in zip(first.eqns, second.eqns, strict=True):
        arguments = [read(variable) for variable in left.invars]
        nested = [_inner(equation.params) for equation in (left, right)]
        if left.primitive.name in NESTED and all(nested):
            inner = (nested[0].jaxpr, nested[1].jaxpr)
            inner_consts = [np.asarray(value) for value in nested[0].consts]
            results = _convert(graph, inner, inner_consts, arguments, operations)
        else:
            results = _apply(graph, left, right, arguments, operations)
        values |= dict(zip(left.outvars, results, strict=True))
    return [read(variable) for variable in first.outvars]


def _inner(params: Mapping[str, PyTree]) -> PyTree:
    """Return the function inside an equation; None without one."""
    return next((params[name] for name in ("jaxpr", "call_jaxpr") if name in params), None)


def _apply(
    graph: Graph,
    left: PyTree,
    right: PyTree,
    arguments: list[Value],
    operations: Mapping[str, Emit],
) -> list[Value]:
    """Add one equation, or compute it if it depends on constants alone."""
    pairs = zip(left.outvars, right.outvars, strict=True)
    shapes = tuple((x.aval.shape, y.aval.shape) for x, y in pairs)
    dtypes = tuple(np.dtype(x.aval.dtype) for x in left.outvars)
    name = left.primitive.name
    is_constant = not any(isinstance(value, Tensor) for value in arguments)
    if is_constant and all(first == second for first, second in shapes):
        result = left.primitive.bind(*arguments, **left.params)
        results = result if left.primitive.multiple_results else [result]
        return [np.asarray(value) for value in results]
    if name not in operations:
        raise UserError(
            f"the network uses the operation {name}, which cannot be written as ONNX or for "
            "PyTorch: use another encoder or head, or --format twostage"
        )
    equation = Equation(name, left.params, (left.params, right.params), shapes, dtypes)
    emitted = operations[name](graph, equation, arguments)
    return [
        value if isinstance(value, Tensor) else Tensor(value, shape)
        for value, shape in zip(emitted, shapes, strict=True)
    ]
