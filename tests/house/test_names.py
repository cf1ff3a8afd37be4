"""The public names: lazy, cheap to import, and the same in every place that lists them."""

import ast
import subprocess
import sys

import pytest

import twostage_jax as ts
from tests.house.source import PACKAGE, tree
from twostage_jax.config import schema


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


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
    families = pytest.importorskip("twostage_jax.stages.families")
    assert tuple(schema.OBJECTIVES) == tuple(families.OBJECTIVES)
    assert tuple(schema.PROTOCOLS) == tuple(families.HEADS)


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, twostage_jax; print([m for m in ('jax', 'numpy', 'rich') if m in sys.modules])"
    )
    assert run_python(code) == "[]"


def test_parsing_the_command_line_does_not_import_jax():
    code = (
        "import sys\nfrom twostage_jax import cli\n"
        "status = cli.main(['run', '--pretrain.epocs', '3'])\n"
        "print(status, 'jax' in sys.modules, 'numpy' in sys.modules)"
    )
    assert run_python(code) == "2 False False"


def test_the_core_needs_neither_tensorflow_nor_torch():
    code = (
        "import sys, twostage_jax as ts\nfrom twostage_jax.data.tfds import prepare\n"
        "[getattr(ts, name) for name in ts.__all__]\n"
        "print([m for m in ('tensorflow', 'torch', 'sklearn') if m in sys.modules])"
    )
    assert run_python(code) == "[]"
