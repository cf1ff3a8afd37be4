"""The public names: lazy, cheap to import, and the same in every place that lists them."""

import ast
import subprocess
import sys

import pytest

import twostage_jax as ts
from tests.house.source import PACKAGE, tree
from twostage_jax.config import choices
from twostage_jax.stages import families


def test_names_for_type_checkers_are_the_lazy_names():
    listed = {
        (node.module or "").removeprefix("twostage_jax."): sorted(a.name for a in node.names)
        for node in ast.walk(tree(PACKAGE / "__init__.py"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("twostage_jax.")
    }
    assert listed == {module: sorted(names) for module, names in ts._HOME.items()}


def test_every_public_name_exists_and_an_unknown_one_is_an_attribute_error():
    assert [name for name in ts.__all__ if getattr(ts, name) is None] == []
    assert dir(ts) == ts.__all__
    with pytest.raises(AttributeError, match="nothing"):
        _ = ts.nothing


def test_the_command_line_offers_the_objectives_and_heads_that_exist():
    assert tuple(choices.OBJECTIVES) == tuple(families.OBJECTIVES)
    assert tuple(choices.ENCODERS) == tuple(families.ENCODERS)
    assert tuple(choices.PROTOCOLS) == tuple(families.HEADS)
    assert tuple(choices.AUGMENTATIONS) == tuple(families.AUGMENTATIONS)


# One process in three steps: each import stays for the next one.
PROGRAM = """
import sys, twostage_jax as ts
print([name for name in ("jax", "numpy", "rich") if name in sys.modules])
from twostage_jax import cli
print(cli.main(["run", "--pretrain.epocs", "3"]))
print([name for name in ("jax", "numpy") if name in sys.modules])
from twostage_jax.data.tfds import prepare
[getattr(ts, name) for name in ts.__all__]
print([name for name in ("tensorflow", "torch", "sklearn") if name in sys.modules])
"""


def test_imports_are_lazy_and_the_core_needs_neither_tensorflow_nor_torch():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    importing, status, parsing, everything = done.stdout.splitlines()
    assert importing == "[]"
    assert (status, parsing) == ("2", "[]")
    assert everything == "[]"
