"""Elementwise operations of jax as nodes of ONNX."""

from collections.abc import Callable
from functools import partial

import numpy as np

from twostage_jax.errors import UserError
from twostage_jax.runs.deploy.onnx_graph import Emit, Equation, Graph, Result, Tensor, Value


def _elementwise(
    write: Callable[[Graph, list[str]], str], graph: Graph, equation: Equation, values: list[Value]
) -> Result:
    """Write an operation that broadcasts; its result stays compact if all its inputs are."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    large = [x for x in values if not isinstance(x, Tensor) and x.ndim and x.size > 1]
    is_compact = all(value.is_compact for value in tensors) and not large
    name = write(graph, [graph.name(value) for value in values])
    return [Tensor(name, equation.shapes[0], is_compact)]


def _node(kind: str) -> Emit:
    return partial(_elementwise, lambda graph, names: graph.add(kind, names))


def _chain(*kinds: str) -> Emit:
    """Apply several nodes one after the other; only the first has all inputs."""

    def write(graph: Graph, names: list[str]) -> str:
        for kind in kinds:
            names = [graph.add(kind, names)]
        return names[0]

    return partial(_elementwise, write)


def _square(graph: Graph, names: list[str]) -> str:
    return graph.add("Mul", [names[0], names[0]])


def _is_finite(graph: Graph, names: list[str]) -> str:
    either = [graph.add("IsNaN", names), graph.add("IsInf", names)]
    return graph.add("Not", [graph.add("Or", either)])


def _log1p(graph: Graph, names: list[str]) -> str:
    return graph.add("Log", [graph.add("Add", [*names, graph.constant(np.array(1, np.float32))])])


def _expm1(graph: Graph, names: list[str]) -> str:
    return graph.add("Sub", [graph.add("Exp", names), graph.constant(np.array(1, np.float32))])


def _erfc(graph: Graph, names: list[str]) -> str:
    return graph.add("Sub", [graph.constant(np.array(1, np.float32)), graph.add("Erf", names)])


def _clamp(graph: Graph, names: list[str]) -> str:
    low, value, high = names
    return graph.add("Min", [graph.add("Max", [low, value]), high])


def _select(graph: Graph, names: list[str]) -> str:
    if len(names) != 3:
        raise UserError(
            "the network selects among more than two arrays, which cannot be written as ONNX"
        )
    condition, otherwise, value = names
    return graph.add("Where", [condition, value, otherwise])


def _remainder(graph: Graph, names: list[str]) -> str:
    return graph.add("Mod", names, fmod=1)


def _with_float(kind: str, number: float, is_first: bool = False) -> Emit:
    """Write a node of the value and a number of its type."""

    def emit(graph: Graph, equation: Equation, values: list[Value]) -> Result:
        constant = np.array(number, equation.dtypes[0])
        pair = [constant, *values] if is_first else [*values, constant]
        return _node(kind)(graph, equation, pair)

    return emit


def _power(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    exponent = np.array(equation.params["y"], equation.dtypes[0])
    return _node("Pow")(graph, equation, [*values, exponent])


def _round(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    if int(equation.params["rounding_method"]) == 1:
        return _node("Round")(graph, equation, values)  # to even
    half = np.array(0.5, equation.dtypes[0])

    def write(graph: Graph, names: list[str]) -> str:
        larger = graph.add("Add", [graph.add("Abs", names), graph.constant(half)])
        return graph.add("Mul", [graph.add("Sign", names), graph.add("Floor", [larger])])

    return _elementwise(write, graph, equation, values)


def _cast(graph: Graph, equation: Equation, values: list[Value]) -> Result:
    def write(graph: Graph, names: list[str]) -> str:
        return graph.add("Cast", names, to=equation.dtypes[0].name)

    return _elementwise(write, graph, equation, values)


_SIMPLE = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min",
    "pow": "Pow", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "tanh": "Tanh", "erf": "Erf",
    "logistic": "Sigmoid", "neg": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor",
    "ceil": "Ceil", "sin": "Sin", "cos": "Cos", "and": "And", "or": "Or", "not": "Not",
    "eq": "Equal", "lt": "Less", "gt": "Greater", "le": "LessOrEqual", "ge": "GreaterOrEqual",
}  # fmt: skip
ELEMENTWISE: dict[str, Emit] = {
    **{name: _node(kind) for name, kind in _SIMPLE.items()},
    "ne": _chain("Equal", "Not"),
    "rsqrt": _chain("Sqrt", "Reciprocal"),
    "square": partial(_elementwise, _square),
    "log1p": partial(_elementwise, _log1p),
    "expm1": partial(_elementwise, _expm1),
    "erfc": partial(_elementwise, _erfc),
    "is_finite": partial(_elementwise, _is_finite),
    "clamp": partial(_elementwise, _clamp),
    "select_n": partial(_elementwise, _select),
    "rem": partial(_elementwise, _remainder),
    "exp2": _with_float("Pow", 2.0, is_first=True),
    "integer_pow": _power,
    "round": _round,
    "convert_element_type": _cast,
}
