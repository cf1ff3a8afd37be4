"""The README: short, and its commands and Python are the ones that work."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_it_stays_under_900_words():
    assert len(README.split()) < 900


def test_its_first_two_commands_are_one_line_each():
    commands = [text for kind, text in BLOCKS if kind == "sh"][:2]
    assert all(text.count("\n") == 1 for text in commands)
    assert "twostage run" in commands[0] and "pytest" in commands[1]


def test_its_python_runs(capsys):
    code = next(text for kind, text in BLOCKS if kind == "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 14
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert float(names["scores"]["accuracy"]) > 0.85


def test_the_files_it_names_exist():
    root = Path(__file__).parents[1]
    for path in re.findall(r"`((?:scripts|docs|twostage_jax)/[\w./]+)`", README):
        assert (root / path).exists(), path
    for target in re.findall(r"\]\((?!http)([\w./-]+)\)", README):
        assert (root / target).exists(), target


@pytest.mark.parametrize("flag", sorted(set(re.findall(r"(--[a-z][\w.-]+)", README))))
def test_the_flags_it_names_exist(flag):
    root = Path(__file__).parents[1] / "twostage_jax"
    name = flag.removeprefix("--").split(".")[-1].replace("-", "_")
    if flag in ("--from", "--help"):
        return
    text = (root / "config.py").read_text() + (root / "commands.py").read_text()
    assert re.search(rf"^    {name}: ", text, re.MULTILINE), flag
