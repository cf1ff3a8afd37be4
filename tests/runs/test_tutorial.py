"""`docs/tutorial.md`: its commands and programs run, in its order."""

import re
import shlex

from tests.house.source import ROOT
from twostage_jax import cli

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SHORTER = ("--pretrain.epochs 10", "--pretrain.epochs 1")


def test_the_tutorial_can_be_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert SHORTER[0] in PAGE
    for language, text in BLOCKS:
        if language == "python":
            exec(compile(text, "tutorial.md", "exec"), {})
            continue
        for line in text.replace(*SHORTER).splitlines():
            assert cli.main(shlex.split(line)[1:]) == 0, line
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 1797
    assert (tmp_path / "runs" / "first" / "report.html").is_file()
