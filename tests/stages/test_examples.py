"""The examples in docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

from twostage_jax import stages

MODULES = [module.name for module in pkgutil.walk_packages(stages.__path__, f"{stages.__name__}.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_the_results_they_show(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
