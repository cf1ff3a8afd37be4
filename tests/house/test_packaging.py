"""The package as pip installs it: declared dependencies, wheel, sdist, extras."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import twostage_jax as ts
from tests.house.source import FILES, PACKAGE, ROOT, nodes

TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = TOOL["project"]
EXTRAS = PROJECT["optional-dependencies"]
# They need a device that few machines have.
DEVICES = ("cuda13", "tpu")


def requirements(texts):
    return [Requirement(text) for text in texts]


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_that_we_import_is_declared():
    declared = [*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)]
    declared = {normalised(item.name) for item in requirements(declared)}
    owners = metadata.packages_distributions()
    missing = set()
    for where, node in nodes(ast.Import | ast.ImportFrom, tuple(FILES)):
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if not node.level else []
        for name in {name.split(".")[0] for name in names} - {PACKAGE.name}:
            # A package that is not installed here has the name of its module.
            owned = {normalised(owner) for owner in owners.get(name, [name])}
            if name not in sys.stdlib_module_names and not owned & declared:
                missing.add(f"{where} imports {name}")
    assert not missing, "\n".join(sorted(missing))


def test_the_tests_have_the_packages_of_the_extras_that_they_use():
    test = {item.name: item.specifier for item in requirements(EXTRAS["test"])}
    for extra in ("onnx", "serve", "tensorboard"):
        for item in requirements(EXTRAS[extra]):
            assert test[item.name] == item.specifier, item


def test_the_exact_versions_of_the_tests_fit_the_declared_ones():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    pins = {normalised(name): version for name, version in pins.items()}
    for item in requirements([*PROJECT["dependencies"], *EXTRAS["serve"]]):
        assert pins[normalised(item.name)] in item.specifier, item


def test_the_version_is_in_one_place():
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    assert TOOL["tool"]["hatch"]["version"]["path"] == "twostage_jax/__init__.py"
    texts = [path.read_text() for path in (*FILES, ROOT / "pyproject.toml")]
    assert sum(text.count(f'"{ts.__version__}"') for text in texts) == 1


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_packages_of_an_extra_can_be_imported(extra):
    missing = []
    modules = []
    owners = metadata.packages_distributions()
    for item in requirements(EXTRAS[extra]):
        owned = [
            name
            for name, names in owners.items()
            if normalised(item.name) in map(normalised, names)
        ]
        modules += [name for name in owned if not name.startswith("_")]
        if not owned:
            missing.append(item.name)
        else:
            assert metadata.version(item.name) in item.specifier, item
    if extra in DEVICES or missing:
        pytest.skip(f"not installed here: {', '.join(missing) or extra}")
    # In a process of its own: some of them change warnings or start threads.
    code = f"import {', '.join(modules)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with the sdist, and the wheel that was built from it."""
    if importlib.util.find_spec("build") is None or importlib.util.find_spec("hatchling") is None:
        pytest.skip("build and hatchling come with the extra test")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    return out


# Prints what the installed package is, and uses the files that are no code.
PROGRAM = """
import importlib.metadata, json, pathlib, twostage_jax as ts
from twostage_jax.serve.app import FILES, PAGE
folder = pathlib.Path(ts.__file__).parent
print(json.dumps({
    "file": ts.__file__,
    "versions": [ts.__version__, importlib.metadata.version("twostage-jax")],
    "typed": (folder / "py.typed").is_file(),
    "pages": all((PAGE / name).is_file() for name in FILES.values()),
    "images": len(ts.load("digits").train["image"]),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_wheel_and_sdist_install_and_run_outside_the_clone(built, tmp_path, pattern):
    [file] = built.glob(pattern)
    target = tmp_path / "installed"
    # Its dependencies are those of this environment.
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(file)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, **options)
    facts = json.loads(done.stdout)
    assert Path(facts["file"]).is_relative_to(target)
    assert facts["versions"] == [ts.__version__] * 2
    assert facts["typed"] and facts["pages"] and facts["images"] > 1000
    command = ["bin/twostage", "run", "--preset", "quick", "--out", str(tmp_path / "run")]
    done = subprocess.run([target / command[0], *command[1:]], **options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"]["accuracy"] > 0.8


@pytest.mark.slow
def test_the_wheel_has_the_package_and_nothing_else(built):
    import zipfile

    [wheel] = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"twostage_jax", f"twostage_jax-{ts.__version__}.dist-info"}
    missing = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } - set(names)
    assert not missing
