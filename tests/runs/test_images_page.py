"""The page about images: its commands and its Python run on a folder like the one it describes."""

import doctest
import re
import shlex

import pytest

from tests import tiny
from tests.data.photos import picture
from tests.house.source import ROOT
from twostage_jax import cli

PAGE = (ROOT / "docs" / "images.md").read_text()
SHORT = {
    "run": "--preset quick --pretrain.epochs 1 --head.epochs 1",
    "pretrain": "--preset quick --pretrain.epochs 1",
    "head": "--head.epochs 1",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Photographs of cats and dogs of 10 people, a pool, a broken file, and two tables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    value = 0
    lines = {"labels.csv": ["path,label,person"], "answers.csv": ["id;when;answer"]}
    for person in range(10):
        for name in ("cat", "dog", "unlabeled"):
            for index in range(2):
                file = picture(
                    tmp_path / "photos" / name / f"person{person}-{index}.png", value, (8, 8)
                )
                value += 1
                if name != "unlabeled":
                    path = file.relative_to(tmp_path)
                    lines["labels.csv"].append(f"{path},{name},{person}")
                    answer = "Not sure" if person == 9 else name
                    lines["answers.csv"].append(f"{name}/{file.stem};today;{answer}")
    for name, text in lines.items():
        (tmp_path / name).write_text("\n".join(text))
    return tmp_path


def commands():
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return [shlex.split(line)[1:] for line in "".join(blocks).splitlines()]


def test_every_command_of_the_page_runs(project, capsys):
    for words in commands():
        if "--skip-broken" in words:
            (project / "photos" / "cat" / "cut.png").write_bytes(b"")
            assert cli.main(["data", "folder:photos"]) == 2  # refused before
        table = project / "runs" / "next" / "next.csv"
        if "csv:runs/next/next.csv" in words:
            text = table.read_text().splitlines()
            labelled = [line.replace(",,", f",{'ab'[i % 2]},") for i, line in enumerate(text)]
            table.write_text("\n".join(labelled))
        more = shlex.split(SHORT.get(words[0], ""))
        with tiny.undrawn():
            status = cli.main([*words, *more])
        assert status == 0, (words, capsys.readouterr().err)
    assert "cat/cut.png" in (project / "runs" / "whole" / "broken.csv").read_text()


def test_the_python_of_the_page_runs(project):
    code = "\n".join(re.findall(r"^```pycon\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    test = doctest.DocTestParser().get_doctest(code, {}, "images.md", None, 0)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert result.attempted and not result.failed
