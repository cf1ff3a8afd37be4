"""The examples in docstrings: they run, and every public name has one."""

import doctest
import importlib
import inspect

import pytest

import twostage_jax as ts
from tests import tiny
from tests.house.source import MODULES

WITH_EXAMPLES = [module for module, path in MODULES.items() if ">>>" in path.read_text()]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_of_a_module_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may write `runs/`
    name = f"twostage_jax.{module}".rstrip(".")
    with tiny.undrawn():
        failures, count = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert failures == 0 and count > 0


def test_every_public_name_has_an_example():
    missing = []
    for name in ts.__all__:
        value = getattr(ts, name)
        documented = inspect.isclass(value) or callable(value)
        if documented and ">>>" not in (inspect.getdoc(value) or ""):
            missing.append(name)
    assert not missing, ", ".join(missing)
