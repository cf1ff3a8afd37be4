"""The source code loads no code from files: no pickles, no `eval`, no shells."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [path for name in ("twostage_jax", "scripts") for path in (ROOT / name).rglob("*.py")]
UNPICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
RUNNING = {"eval", "exec", "compile", "__import__"}
LOADING = {("yaml", "load"), ("torch", "load"), ("np", "load"), ("numpy", "load"), ("os", "system")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_in_the_source_loads_code(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            assert not UNPICKLING & {name.split(".")[0] for name in names}
            if "torch" in {name.split(".")[0] for name in names}:
                assert "bench" in path.parts or path.stem in ("torch_names", "bench", "blog_mnist")
        if not isinstance(node, ast.Call):
            continue
        for keyword in node.keywords:
            if keyword.arg == "allow_pickle":
                assert isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        function = node.func
        assert not (isinstance(function, ast.Name) and function.id in RUNNING)
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            found = (function.value.id, function.attr)
            safe = any(keyword.arg == "allow_pickle" for keyword in node.keywords)
            assert found not in LOADING or (safe and found[1] == "load")


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("import pickle\n", "TID251"),
        ("import numpy as np\n\nnp.load('a')\n", "TID251"),
        ("import torch\n\ntorch.load('a')\n", "TID251"),
        ("import yaml\n\nyaml.load('a')\n", "TID251"),
        ("eval('1')\n", "S307"),
        ("exec('1')\n", "S102"),
        ("import marshal\n", "TID251"),
    ],
)
def test_lint_refuses_what_loads_code(line, rule):
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff comes with the extra dev")
    command = [str(ruff), "check", "--no-cache", "--stdin-filename", "twostage_jax/new.py", "-"]
    done = subprocess.run(command, input=line, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and rule in done.stdout
