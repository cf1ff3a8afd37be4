"""The documents: the files, links, flags and commands in them exist, and their Python runs."""

import ast
import builtins
import re
import runpy
import shlex
import sys

import jax
import pytest

import twostage_jax as ts
from tests import tiny
from tests.house import api
from tests.house.source import ROOT
from twostage_jax import cli
from twostage_jax.config.commands import COMMANDS
from twostage_jax.config.layers import resolve
from twostage_jax.runs.build import make_networks
from twostage_jax.runs.views import resolve_augment

PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", *PAGES]
TEXTS = {path.name: path.read_text() for path in DOCUMENTS}


def test_the_files_that_they_name_exist():
    missing = []
    for path, text in zip(DOCUMENTS, TEXTS.values(), strict=True):
        names = re.findall(r"`((?:scripts|docs|tests|twostage_jax)/[\w./]+)`", text)
        missing += [f"{path.name}: {name}" for name in names if not (ROOT / name).exists()]
        links = re.findall(r"\]\((?!http|#)([\w./-]+)(?:#[\w-]+)?\)", text)
        missing += [f"{path.name}: {link}" for link in links if not (path.parent / link).exists()]
    assert not missing, "\n".join(missing)


def test_the_tests_that_they_name_exist():
    text = "\n".join(TEXTS.values())
    sources = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    names = set(re.findall(r"`(test_\w+\.py)`", text))
    assert not names - sources.keys(), sorted(names - sources.keys())


def test_the_flags_that_they_name_exist(capsys):
    help_texts = []
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        help_texts.append(capsys.readouterr().out)
    offered = set(re.findall(r"--[a-z][\w.-]*", "\n".join(help_texts)))
    for tool in ("tests/faults/__main__.py", "tests/fuzz/__main__.py"):
        offered |= set(re.findall(r"--[a-z][\w-]*", (ROOT / tool).read_text()))
    for script in (ROOT / "scripts").glob("*.py"):
        offered |= set(re.findall(r"--[a-z][\w-]*", script.read_text()))
    unknown = {
        f"{name}: {flag}"
        for name, text in TEXTS.items()
        for flag in re.findall(r"`(?:twostage [^`]*)?(--[a-z][\w.-]*)[^`]*`", text)
        if flag not in offered and flag != "--version"
    }
    assert not unknown, "\n".join(sorted(unknown))


def test_the_commands_that_they_show_are_parsed():
    mistakes = []
    for name, text in TEXTS.items():
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        for line in "".join(blocks).replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if not words or not words[0].endswith("twostage"):
                    continue
                try:
                    cli.parse(words[1:])
                except SystemExit:
                    pass
                except ValueError as error:
                    mistakes.append(f"{name}: {part.strip()}: {error}")
    assert not mistakes, "\n".join(mistakes)


def test_the_page_of_the_api_is_that_of_the_docstrings():
    assert sorted(" ".join(api.GROUPS.values()).split()) == sorted(ts.__all__)
    assert api.PAGE.read_text() == api.page(), "write it again: python -m tests.house.api"


def test_the_examples_of_the_api_import_what_they_use():
    unknown = []
    for block in re.findall(r"^```pycon\n(.*?)^```", api.page(), re.DOTALL | re.MULTILINE):
        lines = [line[4:] for line in block.splitlines() if line.startswith((">>>", "..."))]
        names = [node for node in ast.walk(ast.parse("\n".join(lines)))]
        stored = {node.id for node in names if isinstance(node, ast.Name) and is_stored(node)}
        stored |= {alias.asname or alias.name for node in names for alias in imports(node)}
        stored |= {node.arg for node in names if isinstance(node, ast.arg)}
        stored |= {node.name for node in names if isinstance(node, ast.FunctionDef)}
        used = {node.id for node in names if isinstance(node, ast.Name)}
        unknown += sorted(used - stored - set(vars(builtins)))
    assert not unknown


def is_stored(node):
    return isinstance(node.ctx, ast.Store)


def imports(node):
    return node.names if isinstance(node, ast.Import | ast.ImportFrom) else ()


# A block without an import is a fragment for reading. Others need packages that we do not install.
# The commands below a block name its parts.
BLOCKS = re.findall(
    r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?",
    TEXTS["extending.md"] + TEXTS["faq.md"] + TEXTS["tracking.md"],
    re.DOTALL | re.MULTILINE,
)
RECIPES = [
    (code, commands)
    for code, commands in BLOCKS
    if "import " in code and "not run by the tests" not in code
]


def block_name(value):
    return next((line for line in value.splitlines() if line[:4] in ("def ", "clas", "run ")), "-")


@pytest.mark.parametrize(("code", "commands"), RECIPES, ids=block_name)
def test_the_recipes_run_and_their_commands_fit(code, commands, tmp_path, monkeypatch):
    if "import torch" in code:
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(code)
    with tiny.undrawn(), jax.numpy_rank_promotion("allow"):  # jax's default, which users have
        runpy.run_path(str(path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    for command in commands.splitlines():
        words = shlex.split(command)
        assert words[:2] == ["PYTHONPATH=.", "twostage"]
        config = cli.requested_config(cli.parse(words[2:]))
        config = resolve(config, (8, 8, 1), 20)
        config, _ = resolve_augment(config, ts.load("digits").train["image"])
        with jax.numpy_rank_promotion("allow"):
            # Imports the parts and traces them on the shapes of the digits.
            make_networks(config, (8, 8, 1), 10, 100, 20, 1295)
