"""`docs/deploy.md`: its commands and programs run, in its order, as a reader would run them."""

import re
import shlex

import numpy as np
import pytest
from PIL import Image

import twostage_jax as ts
from tests.house.source import ROOT
from tests.runs.test_export import BLOCK, run_program
from twostage_jax import cli

PAGE = (ROOT / "docs" / "deploy.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
# Packages that a program of the page must not need, by a word in it.
WITHOUT = {
    "deserialize": ("twostage_jax", "flax", "optax", "orbax"),
    "onnxruntime": ("twostage_jax", "jax"),
    "import torch": ("twostage_jax", "jax", "numpy"),
}


def test_the_page_can_be_followed(shared, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    images = ts.load("digits").test["image"]
    np.save("images.npy", images)
    (tmp_path / "photos").mkdir()
    for index in range(5):
        Image.fromarray(images[index, ..., 0]).save(f"photos/{index}.png")
    for language, text in BLOCKS:
        if language == "sh":
            for line in text.splitlines():
                words = shlex.split(line)
                if words[0] == "twostage":
                    assert cli.main(words[1:]) == 0, line
            continue
        capsys.readouterr()
        names = next((x for word, x in WITHOUT.items() if word in text), ("torch",))
        printed = run_program(BLOCK.format(names=names) + text, tmp_path)
        if "images.npy" in text:
            expected = ts.open_run("runs/digits").predict(images)
            assert printed == f"{[str(k) for k in expected]}\n"
    # In two processes, because this one has two devices for its two cores.
    program = next(text for _, text in BLOCKS if "deserialize" in text)
    block = BLOCK.format(names=WITHOUT["deserialize"])
    run_program(f"{block}{program}np.save('file.npy', probability)\n", tmp_path)
    run_program(REFERENCE, tmp_path)
    np.testing.assert_array_equal(np.load("file.npy"), np.load("run.npy"))


REFERENCE = """
import numpy as np
import twostage_jax as ts
np.save("run.npy", ts.open_run("runs/digits").probabilities(np.load("images.npy")))
"""
