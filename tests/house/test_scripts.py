"""The scripts: short, alone, and in agreement with the package."""

import gzip
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import twostage_jax as ts
from tests.test_sources import NAMES, idx_bytes
from twostage_jax.show.terminal import Terminal

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def digits_as_idx(tmp_path_factory):
    """The bundled digits as four gzipped IDX files; 1,438 examples are no multiple of 32."""
    folder, dataset = tmp_path_factory.mktemp("idx"), ts.load("digits", validation=0)
    for part, (images, labels) in NAMES.items():
        split = getattr(dataset, part)
        for name, array in ((images, split["image"][..., 0]), (labels, split["label"])):
            content = gzip.compress(idx_bytes(array.astype(np.uint8)))
            (folder / f"{name}.gz").write_bytes(content)
    return folder


def run_script(name, *argv):
    done = subprocess.run(
        [sys.executable, SCRIPTS / name, *argv], capture_output=True, text=True, check=True
    )
    return done.stdout


def losses(out):
    return [float(value) for value in re.findall(r"Loss: ([0-9.]+)", out)]


def test_one_file_gives_the_numbers_of_the_package(digits_as_idx, tmp_path):
    out = run_script("one_file.py", str(digits_as_idx), "--seed", "3", "--epochs", "2")
    config = ts.Config(
        data=f"idx:{digits_as_idx}", preset="blog", validation=0, seed=3, out=tmp_path / "run",
        pretrain=ts.PretrainConfig(epochs=2), head=ts.HeadConfig(epochs=2),
    )  # fmt: skip
    result = ts.run(config, terminal=Terminal(quiet=True))
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    np.testing.assert_allclose(losses(out), [json.loads(x)["loss"] for x in lines], atol=2e-6)
    accuracy = float(re.findall(r"Test Accuracy: ([0-9.]+)%", out)[0])
    assert accuracy == pytest.approx(100 * result.record["test"]["accuracy"], abs=0.006)


def test_one_file_needs_four_libraries_and_150_lines():
    text = (SCRIPTS / "one_file.py").read_text()
    assert text.count("\n") <= 150
    imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert imported - set(sys.stdlib_module_names) == {"flax", "jax", "numpy", "optax"}


@pytest.mark.parametrize("objective", ["autoencoder", "placeholder"])
def test_blog_mnist_prints_what_the_blog_prints(digits_as_idx, objective):
    argv = ["--data", f"idx:{digits_as_idx}", "--objective", objective, "--epochs", "2"]
    out = run_script("blog_mnist.py", *argv).splitlines()
    assert out[0] == "Training Stage 1 (Feature Extraction)"
    assert out[3] == "Training Stage 2 (Classification)"
    for index, number in ((1, 1), (2, 2), (4, 1), (5, 2)):
        assert re.fullmatch(rf"Epoch \[{number}/2\], Loss: \d+\.\d{{4}}", out[index])
    assert re.fullmatch(r"Test Accuracy: \d+\.\d\d%", out[6])
    assert (losses("\n".join(out[1:3])) == [0, 0]) == (objective == "placeholder")


def test_blog_mnist_is_short():
    assert (SCRIPTS / "blog_mnist.py").read_text().count("\n") <= 60


def test_ensemble_scores_members_and_the_whole():
    out = run_script("ensemble.py", "--members", "3", "--epochs", "2")
    assert re.fullmatch(r"members  \d\d\.\d\d ± \d\.\d\d %\nensemble \d\d\.\d\d %\n", out)
    mean, whole = (float(x) for x in re.findall(r"(?:members|ensemble) +([0-9.]+)", out))
    assert 80 < mean < whole + 2
    assert (SCRIPTS / "ensemble.py").read_text().count("\n") <= 60


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_a_script_states_its_command_in_its_header(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert f"python scripts/{path.name}" in (module.__doc__ or "")
