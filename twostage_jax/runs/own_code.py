"""A user's own modules and functions: imported, made, and named in every error."""

import contextlib
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping

from flax import linen as nn
from flax.errors import FlaxError

from twostage_jax.errors import UserError
from twostage_jax.stages.modules import check_module
from twostage_jax.stages.signature import call
from twostage_jax.trees import PyTree

# Words in the messages of jax, NumPy and Flax about arrays that do not fit.
SHAPE_WORDS = re.compile(r"shape|dimension|broadcast|rank|axis|axes|size", re.IGNORECASE)


def find_function(name: str, family: Mapping[str, Callable]) -> Callable:
    """Return a function of the family, or import `package.module:function`."""
    return family[name] if name in family else _import(name)


def make_module(name: str) -> nn.Module:
    """Import `package.module:name`: a module, or a class or function that makes one.

    Raises:
        UserError: not a Linen module, or a class that needs arguments.
    """
    imported = _import(name)
    if isinstance(imported, nn.Module):
        return imported
    if isinstance(imported, type) or not callable(imported):
        # Checked before the call, because a class of another library may need arguments.
        check_module(imported, name)
    try:
        inspect.signature(imported).bind()
    except TypeError as error:
        raise UserError(
            f"cannot make {name} without arguments: {error}; give every field a default value"
        ) from error
    module = call_named(name, imported, {}, {})
    check_module(module, name)
    return module


def call_named(
    name: str, function: Callable, offered: Mapping[str, object], settings: Mapping[str, PyTree]
) -> PyTree:
    """Call a function with the modules it asks for; errors of the user's own code name it."""
    try:
        return call(function, offered, settings)
    except UserError:
        raise
    except Exception as error:  # a user's code may raise anything
        if ":" not in name:
            # Our own function failed: that is a bug, and its traceback is needed.
            raise
        raise UserError(f"cannot make {name!r}: {type(error).__name__}: {error}") from error


def _import(name: str) -> Callable:
    """Import `package.module:name`. No other function imports a user's own code."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"cannot import {name!r}: {error}; give package.module:name as Python finds it from "
            "this folder (PYTHONPATH=. for a file in it)"
        ) from error
    except Exception as error:  # a user's file may raise anything
        raise UserError(f"cannot import {name!r}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def trace_errors(name: str, image_shape: tuple[int, ...]) -> Iterator[None]:
    """Convert any error of a user's module into a `UserError` that names the stage.

    Only an error about shapes is blamed on the images.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a user's module may raise anything
        reason = " ".join(str(error).split())[:300]
        about_shapes = isinstance(error, (TypeError, ValueError, FlaxError))
        if about_shapes and SHAPE_WORDS.search(reason):
            text = f"{name} does not fit images {list(image_shape)}: {reason}"
        else:
            kind = type(error).__name__
            text = f"{name} cannot be traced: {kind}: {reason}; --debug shows the line"
        raise UserError(text) from error
