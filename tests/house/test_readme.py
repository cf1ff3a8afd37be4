"""The README: short, and its commands and its Python work."""

import re

from tests.house.source import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_it_has_less_than_1300_words():
    assert len(README.split()) < 1300


def test_its_first_two_commands_have_one_line():
    commands = [text for kind, text in BLOCKS if kind == "sh"][:2]
    assert all(text.count("\n") == 1 for text in commands)
    assert "twostage run" in commands[0] and "pytest" in commands[1]


def test_its_python_runs(capsys):
    code = next(text for kind, text in BLOCKS if kind == "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 14
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert float(names["scores"]["accuracy"]) > 0.85
