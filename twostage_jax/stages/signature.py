"""Signatures of objectives and heads: a parameter's name declares what the function needs."""

import inspect
from collections.abc import Callable, Mapping
from typing import TypeVar

from twostage_jax.errors import UserError
from twostage_jax.stages.stage import Head, Scalar

Result = TypeVar("Result")


def numbers(function: Callable[..., object]) -> dict[str, float]:
    """Defaults of the parameters that are numbers and can be set or swept, by name.

    Raises:
        UserError: a function whose parameters cannot be passed by name.
    """
    return {
        name: parameter.default
        for name, parameter in _parameters(function).items()
        if type(parameter.default) in (int, float)  # a bool is no number here
    }


def parameter_names(function: Callable[..., object]) -> tuple[str, ...]:
    """Names of everything that a function asks for.

    Raises:
        UserError: a function whose parameters cannot be passed by name.
    """
    return tuple(_parameters(function))


def call(
    function: Callable[..., Result],
    offered: Mapping[str, object],
    settings: Mapping[str, Scalar],
) -> Result:
    """Call a function with everything that it asks for by name.

    Args:
        function: an objective or a head function.
        offered: arguments by name, for instance `encoder` and `decoder`, or `classes`. The
            function receives only those that its signature names.
        settings: values for its numbers, Python numbers or traced arrays. If the default is a
            whole number, a Python number must be whole too.

    Raises:
        UserError: a required parameter that nobody offers, a setting that the function does not
            take, a fraction for a whole number, or a parameter that cannot be passed by name.
    """
    name = _name(function)
    parameters = _parameters(function)
    arguments = {key: value for key, value in offered.items() if key in parameters}
    # An offered argument may have a number as its default; it is not for the user to set.
    defaults = {key: value for key, value in numbers(function).items() if key not in arguments}
    for key, value in settings.items():
        if key not in defaults:
            allowed = ", ".join(defaults) or "none"
            raise UserError(f"{name} takes no number {key!r}: choose from {allowed}")
        # The command line parses all numbers as floats; traced arrays stay as they are.
        if isinstance(defaults[key], int) and isinstance(value, float):
            if not value.is_integer():
                raise UserError(f"{key} is {value}: give a whole number")
            value = int(value)
        arguments[key] = value
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise UserError(
                f"{name} requires {key!r}: give it a default, or ask for some of "
                f"{', '.join(offered)}"
            )
    return function(**arguments)


def check_head(head: object, name: str = "the head function") -> Head:
    """Return `head` if it is a `Head` with either a stage or a solver.

    Raises:
        UserError: another type, or a head with both or neither; the message names the function.
    """
    if not isinstance(head, Head):
        raise UserError(
            f"{name} returned {type(head).__name__}: return ts.Head(logits, stage=…) or "
            "ts.Head(logits, solve=…)"
        )
    if head.solve is not None and head.tune is not None:
        raise UserError(f"{name} returned a Head with solve and tune: only a stage can be tuned")
    if (head.stage is None) == (head.solve is None):
        count = "neither stage nor solve" if head.stage is None else "both stage and solve"
        raise UserError(f"{name} returned a Head with {count}: give exactly one of them")
    return head


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", repr(function))


def _parameters(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """Parameters of a function, all of which can be passed by name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:  # not callable, or written in C
        raise UserError(f"{_name(function)} has no signature: give a Python function") from error
    for parameter in parameters.values():
        # `**settings` would swallow a misspelt number.
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UserError(
                f"{_name(function)} takes {parameter}, which has no name to pass it by: declare "
                "each parameter by its own name"
            )
    return parameters
