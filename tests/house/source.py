"""The package's source as syntax trees."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "twostage_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def nodes(kind, files=tuple(FILES)) -> Iterator[tuple[str, ast.AST]]:
    """All syntax nodes of a kind, with `file:line`."""
    for path in files:
        for node in ast.walk(tree(path)):
            if isinstance(node, kind):
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", node


def module_name(path: Path) -> str:
    """`store.lock` for `twostage_jax/store/lock.py`, `store` for its `__init__.py`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """The package's modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    inside = {name.removeprefix("twostage_jax.") for name in names if name.startswith("twostage_")}
    # `from twostage_jax.a import b` imports the module `a.b` if there is one, else a name of `a`.
    deeper = {name for name in inside if name in MODULES}
    return {name for name in deeper if not any(other.startswith(f"{name}.") for other in deeper)}


def room(module: str) -> str:
    return module.partition(".")[0]
