"""The structure itself: imports go down only, the core pulls in nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "twostage_jax"
LEVELS = [
    {"errors", "compilation", "quiet"},
    {"bounds", "sweep", "validate", "reading"},
    {"folder"},
    {
        "stage",
        "nets",
        "optimiser",
        "metrics",
        "uncertainty",
        "data",
        "config",
        "changes",
        "interrupt",
        "terminal",
        "placement",
        "plots",
        "record",
        "sums",
    },
    {
        "sources",
        "pretrain",
        "head",
        "engine",
        "scoring",
        "encoding",
        "checkpoint",
        "health",
        "lock",
        "memory",
        "members",
        "torch_names",
    },
    {"chunks", "networks", "show"},
    {"ensembles", "results"},
    {"runs", "training"},
    {"judging", "programs"},
    {"entry", "evaluation"},
    {"pipeline", "bench"},
    {"commands"},
    {"cli"},
    {"__main__"},
]


def level(module: str) -> int:
    return next(number for number, names in enumerate(LEVELS) if module in names)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "twostage_jax":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("twostage_jax."):
            names.add(node.module.split(".")[1])
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_imports_go_down(path):
    if path == PACKAGE / "__init__.py":
        return
    module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported(path) - {module}:
        assert level(name) < level(module), f"{module} imports {name}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_files_and_functions_stay_small(path):
    assert path.read_text().count("\n") <= 350
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            size = (node.end_lineno or 0) - node.lineno + 1
            assert size <= 50, f"{node.name} has {size} lines"


def test_names_for_type_checkers_are_the_ones_there_are():
    import twostage_jax

    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    seen = {
        (node.module or "").removeprefix("twostage_jax."): sorted(a.name for a in node.names)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("twostage_jax.")
    }
    assert seen == {module: sorted(names) for module, names in twostage_jax._HOME.items()}


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


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
        "import sys, twostage_jax as ts\nfrom twostage_jax.data.tfds import prepare as tfds\n"
        "[getattr(ts, name) for name in ts.__all__]\n"
        "print([m for m in ('tensorflow', 'torch', 'sklearn') if m in sys.modules])"
    )
    assert run_python(code) == "[]"
