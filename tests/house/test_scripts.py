"""The scripts: short, self-contained, and in agreement with the package."""

import ast
import gzip
import json
import re
import runpy
import sys

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from tests.fuzz.samples import idx_bytes
from tests.house.source import ROOT
from twostage_jax.show.terminal import Terminal

SCRIPTS = ROOT / "scripts"
LIMITS = {
    "augmentation.py": 80,
    "blog_mnist.py": 60,
    "ensemble.py": 70,
    "one_file.py": 155,
    "supervised.py": 125,
}  # lines
SIZES = {"train": 70, "t10k": 30}  # 70 is no multiple of the batch size


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny set as four gzipped IDX files."""
    path = tmp_path_factory.mktemp("idx")
    for part, size in SIZES.items():
        image, label = tiny.images(size, seed=0)
        for kind, array in {"images-idx3": image, "labels-idx1": label.astype(np.uint8)}.items():
            (path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return path


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Run a script in this process, which has imported jax already, and return its output."""

    def run(name, *argv):
        monkeypatch.setattr(sys, "argv", [name, *argv])
        with jax.numpy_rank_promotion("allow"):  # jax's default, which users have
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def losses(out):
    return [float(value) for value in re.findall(r"Loss: ([0-9.]+)", out)]


@pytest.mark.slow
def test_one_file_prints_the_numbers_of_the_package(run_script, folder, tmp_path):
    out = run_script("one_file.py", str(folder), "--seed", "3", "--epochs", "2")
    config = ts.Config(
        data=f"idx:{folder}",
        preset="blog",
        validation=0,
        seed=3,
        out=tmp_path / "run",
        pretrain=ts.PretrainConfig(epochs=2),
        head=ts.HeadConfig(epochs=2),
    )
    record = ts.run(config, terminal=Terminal(quiet=True)).record
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    np.testing.assert_allclose(losses(out), [json.loads(x)["loss"] for x in lines], atol=2e-6)
    accuracy = float(re.findall(r"Test Accuracy: ([0-9.]+)%", out)[0])
    assert accuracy == pytest.approx(100 * record["test"]["accuracy"], abs=0.006)


def test_one_file_needs_four_libraries():
    text = (SCRIPTS / "one_file.py").read_text()
    imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert imported - set(sys.stdlib_module_names) == {"flax", "jax", "numpy", "optax"}


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["autoencoder", "placeholder"])
def test_blog_mnist_prints_the_lines_of_the_blog(run_script, folder, objective):
    argv = ["--data", f"idx:{folder}", "--objective", objective, "--epochs", "2"]
    out = run_script("blog_mnist.py", *argv).splitlines()
    assert out[0] == "Training Stage 1 (Feature Extraction)"
    assert out[3] == "Training Stage 2 (Classification)"
    for index, number in ((1, 1), (2, 2), (4, 1), (5, 2)):
        assert re.fullmatch(rf"Epoch \[{number}/2\], Loss: \d+\.\d{{4}}", out[index])
    assert re.fullmatch(r"Test Accuracy: \d+\.\d\d%", out[6])
    assert (losses("\n".join(out[1:3])) == [0, 0]) == (objective == "placeholder")


@pytest.mark.slow
def test_ensemble_prints_the_scores_of_the_members_and_of_the_ensemble(run_script, folder):
    out = run_script("ensemble.py", "--data", f"idx:{folder}", "--members", "3", "--epochs", "30")
    assert re.fullmatch(r"members  \d+\.\d\d ± \d+\.\d\d %\nensemble \d+\.\d\d %\n", out)
    mean, whole = (float(x) for x in re.findall(r"(?:members|ensemble) +([0-9.]+)", out))
    assert 80 < mean < whole + 2


@pytest.mark.slow
def test_supervised_compares_both_at_each_number_of_labels(run_script, folder):
    argv = ["--labels", "12", "0", "--seeds", "2", "--epochs", "2"]
    out = run_script("supervised.py", "--data", f"idx:{folder}", *argv)
    row = r"  (?:two stages|supervised)  \d+\.\d\d ± \d+\.\d\d %  \(rate [\d.]+, \d+ epochs\)\n"
    assert re.fullmatch(
        rf"12 labels, 2 seeds\n(?:{row}){{2}}63 labels, 2 seeds\n(?:{row}){{2}}", out
    )


def test_scripts_are_short_and_state_command_and_measurement_in_their_header():
    assert {path.name for path in SCRIPTS.glob("*.py")} == LIMITS.keys()
    for name, limit in LIMITS.items():
        text = (SCRIPTS / name).read_text()
        assert text.count("\n") <= limit, name
        header = ast.get_docstring(ast.parse(text)) or ""
        assert f"python scripts/{name}" in header and "jax 0." in header and "cores" in header
