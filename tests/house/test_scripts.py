"""The scripts: short, self-contained, and in agreement with the package."""

import gzip
import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pytest

import twostage_jax as ts
from tests.fuzz.samples import idx_bytes
from tests.house.source import ROOT
from twostage_jax.show.terminal import Terminal

SCRIPTS = ROOT / "scripts"
LIMITS = {"blog_mnist.py": 60, "ensemble.py": 70, "one_file.py": 155}  # lines
NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@pytest.fixture(scope="module")
def digits_as_idx(tmp_path_factory):
    """The bundled digits as four gzipped IDX files; 1,438 examples are no multiple of 32."""
    folder = tmp_path_factory.mktemp("idx")
    dataset = ts.load("digits", validation=0)
    for name, files in NAMES.items():
        split = getattr(dataset, name)
        for file, array in zip(files, (split["image"][..., 0], split["label"]), strict=True):
            content = gzip.compress(idx_bytes(array.astype(np.uint8)))
            (folder / f"{file}.gz").write_bytes(content)
    return folder


def run_script(name, *argv):
    command = [sys.executable, SCRIPTS / name, *argv]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def losses(out):
    return [float(value) for value in re.findall(r"Loss: ([0-9.]+)", out)]


def test_one_file_prints_the_numbers_of_the_package(digits_as_idx, tmp_path):
    out = run_script("one_file.py", str(digits_as_idx), "--seed", "3", "--epochs", "2")
    config = ts.Config(
        data=f"idx:{digits_as_idx}",
        preset="blog",
        validation=0,
        seed=3,
        out=tmp_path / "run",
        pretrain=ts.PretrainConfig(epochs=2),
        head=ts.HeadConfig(epochs=2),
    )
    ts.run(config, terminal=Terminal(quiet=True))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    np.testing.assert_allclose(losses(out), [json.loads(x)["loss"] for x in lines], atol=2e-6)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    accuracy = float(re.findall(r"Test Accuracy: ([0-9.]+)%", out)[0])
    assert accuracy == pytest.approx(100 * result["test"]["accuracy"], abs=0.006)


def test_one_file_needs_four_libraries():
    text = (SCRIPTS / "one_file.py").read_text()
    imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert imported - set(sys.stdlib_module_names) == {"flax", "jax", "numpy", "optax"}


@pytest.mark.parametrize("objective", ["autoencoder", "placeholder"])
def test_blog_mnist_prints_the_lines_of_the_blog(digits_as_idx, objective):
    argv = ["--data", f"idx:{digits_as_idx}", "--objective", objective, "--epochs", "2"]
    out = run_script("blog_mnist.py", *argv).splitlines()
    assert out[0] == "Training Stage 1 (Feature Extraction)"
    assert out[3] == "Training Stage 2 (Classification)"
    for index, number in ((1, 1), (2, 2), (4, 1), (5, 2)):
        assert re.fullmatch(rf"Epoch \[{number}/2\], Loss: \d+\.\d{{4}}", out[index])
    assert re.fullmatch(r"Test Accuracy: \d+\.\d\d%", out[6])
    assert (losses("\n".join(out[1:3])) == [0, 0]) == (objective == "placeholder")


def test_ensemble_prints_the_scores_of_the_members_and_of_the_ensemble():
    out = run_script("ensemble.py", "--members", "3", "--epochs", "2")
    assert re.fullmatch(r"members  \d\d\.\d\d ± \d\.\d\d %\nensemble \d\d\.\d\d %\n", out)
    mean, whole = (float(x) for x in re.findall(r"(?:members|ensemble) +([0-9.]+)", out))
    assert 80 < mean < whole + 2


def test_scripts_are_short_and_state_command_and_measurement_in_their_header():
    assert {path.name for path in SCRIPTS.glob("*.py")} == LIMITS.keys()
    for name, limit in LIMITS.items():
        path = SCRIPTS / name
        assert path.read_text().count("\n") <= limit, name
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        header = module.__doc__ or ""
        assert f"python scripts/{name}" in header and "jax 0." in header and "cores" in header
