"""What comes from a stranger runs no code, takes no more than its size, and stays in its folder."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scripts.fuzzing import targets as fuzz_targets

import twostage_jax as ts
from twostage_jax import cli
from twostage_jax.data.tfds.prepared import read_prepared
from twostage_jax.runs.open import open_run

ROOT = Path(__file__).parents[1]
SOURCES = [path for name in ("twostage_jax", "scripts") for path in (ROOT / name).rglob("*.py")]
UNPICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
RUNNING = {"eval", "exec", "compile", "__import__"}
LOADING = {("yaml", "load"), ("torch", "load"), ("np", "load"), ("numpy", "load"), ("os", "system")}


class Canary:
    """Written to disk by whoever unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A module that leaves a file when it is imported, and that file."""
    mark = tmp_path / "hatched"
    (tmp_path / "cuckoo.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Egg: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("cuckoo", None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return fuzz_targets.make_run(tmp_path_factory.mktemp("security") / "run")


def test_an_archive_with_a_pickle_is_refused_and_not_executed(tmp_path, canary):
    image = np.array([Canary(canary)] * 4, dtype=object)
    np.savez(tmp_path / "a.npz", image=image, label=np.arange(4))
    with pytest.raises(ts.UserError, match="never unpickle"):
        ts.load(f"npz:{tmp_path / 'a.npz'}")
    with (tmp_path / "b.npz").open("wb") as file:
        np.save(file, image)
    with pytest.raises(ts.UserError, match="single array"):
        ts.load(f"npz:{tmp_path / 'b.npz'}")
    assert not canary.exists()
    # The canary is a good one: NumPy hatches it where it is allowed to.
    np.load(tmp_path / "b.npz", allow_pickle=True)
    assert canary.exists()


def test_a_prepared_folder_imports_no_module_that_it_names(tmp_path, canary):
    records = [fuzz_targets.example(fuzz_targets.png(fuzz_targets.IMAGE[0]), 0)]
    folder = tmp_path / "tiny" / "1.0.0"
    fuzz_targets.write_prepared(folder, "tfrecord", records)
    path = folder / "features.json"
    valid = json.loads(path.read_text())
    egg = {"pythonClassName": "cuckoo.Egg", "jsonFeature": {"json": "{}"}}
    legacy = {"type": "cuckoo.Egg", "content": {}}
    inner = valid["featuresDict"]["features"]
    eggs = [egg, legacy, {**valid, "pythonClassName": "cuckoo.Egg"}]
    for name in ("image", "label"):
        eggs.append({**valid, "featuresDict": {"features": {**inner, name: egg}}})
    for values in eggs:
        path.write_text(json.dumps(values))
        with pytest.raises(ts.UserError):
            ts.load("tfds:tiny", data_dir=tmp_path)
    # A feature that is not used is not looked at.
    path.write_text(json.dumps({**valid, "featuresDict": {"features": {**inner, "more": egg}}}))
    assert len(read_prepared(folder, "tiny").train["label"]) == 1
    assert not canary.exists() and "cuckoo" not in sys.modules
    # TFDS itself would import it.
    with pytest.raises(ValueError, match="Unrecognized FeatureConnector"):
        from tensorflow_datasets.core.features import FeatureConnector

        FeatureConnector.cls_from_name("cuckoo.Egg")
    assert canary.exists()


def test_a_prepared_folder_reads_no_file_outside_of_it(tmp_path):
    records = [fuzz_targets.example(fuzz_targets.png(fuzz_targets.IMAGE[0]), 0)]
    for name in ("inside", "outside"):
        fuzz_targets.write_prepared(tmp_path / name, "tfrecord", records)
    path = tmp_path / "inside" / "dataset_info.json"
    info = json.loads(path.read_text())
    outside = tmp_path / "outside" / "tiny-train.tfrecord-00000-of-00001"
    for template in (str(outside), f"../outside/{outside.name}", "{SPLIT.__class__}", "a\0b"):
        info["splits"][0]["filepathTemplate"] = template
        path.write_text(json.dumps(info))
        with pytest.raises(ts.UserError, match="outside of its folder|lacks the file"):
            read_prepared(tmp_path / "inside", "tiny")


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json", "label.labels.txt"])
def test_a_pipe_in_a_prepared_folder_is_not_waited_for(file, tmp_path):
    folder = tmp_path / "tiny"
    fuzz_targets.write_prepared(folder, "tfrecord", [b""])
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(ts.UserError, match=f"{file}: it is a pipe"):
        read_prepared(folder, "tiny")


def test_pipes_where_tfds_would_look_are_not_waited_for(tmp_path):
    config = tmp_path / "tiny" / ".config"
    config.mkdir(parents=True)
    os.mkfifo(config / "metadata.json")
    for name in ("tiny", "tiny:1.0.0"):
        with pytest.raises(ts.UserError, match=r"metadata.json: it is a pipe"):
            ts.load(f"tfds:{name}", data_dir=tmp_path)
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    os.mkfifo(manual / "train-images-idx3-ubyte.gz")
    with pytest.raises(ts.UserError, match=r"ubyte.gz: it is a pipe"):
        ts.load("mnist", data_dir=tmp_path)
    (manual / "train-images-idx3-ubyte.gz").unlink()
    os.mkfifo(tmp_path / "downloads" / "a.INFO.json")
    with pytest.raises(ts.UserError, match=r"INFO.json: it is a pipe"):
        ts.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["../../x", "/etc", "mnist/..", "a:b", "mnist/x=1", "a b", "é"])
def test_a_name_of_tfds_is_no_path(name, tmp_path):
    with pytest.raises(ts.UserError, match="no name of a set"):
        ts.load(f"tfds:{name}", data_dir=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["_CHECKPOINT_METADATA", "params/_METADATA"])
def test_a_checkpoint_imports_nothing_that_it_names(finished, tmp_path, canary, file):
    shutil.copytree(finished, tmp_path / "run")
    steps = (tmp_path / "run" / "head").iterdir()
    path = max(steps, key=lambda step: int(step.name)) / file
    text = path.read_text()
    handler = "orbax.checkpoint.experimental.v1._src.handlers.pytree_handler.PyTreeHandler"
    swapped = text.replace(handler, "cuckoo.Egg").replace("np.ndarray", "cuckoo.Egg")
    swapped = swapped.replace("jax.Array", "cuckoo.Egg")
    assert "cuckoo" in swapped
    path.write_text(swapped)
    try:
        open_run(tmp_path / "run")
    except ts.UserError:
        pass
    assert not canary.exists() and "cuckoo" not in sys.modules


@pytest.mark.parametrize("field", ["encoder", "objective"])
def test_a_config_from_a_file_imports_nothing_unless_trusted(finished, tmp_path, canary, field):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    values = json.loads((run / "config.json").read_text())
    values["pretrain"][field] = "cuckoo:Egg"
    (run / "config.json").write_text(json.dumps(values))
    out = str(tmp_path / "new")
    for argv in (
        ["run", "--config", str(run / "config.json"), "--out", out],
        ["run", "--resume", "--out", str(run)],
        ["head", "--from", str(run), "--out", out],
        ["evaluate", str(run)],
    ):
        assert cli.main(argv) == 2, argv
    assert not canary.exists() and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--members", "2000000000"],
        [
            "run",
            *(
                f"--sweep={n}={','.join(f'{i}e-5' for i in range(1, 400))}"
                for n in ("head.learning-rate", "pretrain.learning-rate", "noise")
            ),
        ],
        ["run", "--pretrain.widths", "1000000000", "1000000000"],
        ["run", "--seed", "9" * 30],
        ["run", "--seed", "9" * 5000],
        ["run", "--mesh", f"member={'9' * 5000}"],
        ["run", "--head.learning-rate", "1e300"],
    ],
    ids=lambda argv: argv[1][:20],
)
def test_resources_that_nobody_has_are_refused(argv, tmp_path, capsys):
    assert cli.main([*argv, "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_states_of_all_members_must_fit_on_the_host():
    from twostage_jax.engine.memory import Need, check_fits

    check_fits("head", Need(1000, 2000, 0), 1000, alone=False)
    with pytest.raises(ts.UserError, match="1,000,000 trainings need .* are free: take fewer"):
        check_fits("head", Need(10**9, 10**9, 0), 10**6, alone=False)
    with pytest.raises(ts.UserError, match="needs at least"):
        check_fits("head", Need(1, 10**15, 0), 1, alone=True)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_in_the_source_loads_code(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            assert not UNPICKLING & {name.split(".")[0] for name in names}
            if "torch" in {name.split(".")[0] for name in names}:
                assert "bench" in path.parts or path.stem in ("torch_names", "bench", "blog_mnist")
        if not isinstance(node, ast.Call):
            continue
        for keyword in node.keywords:
            if keyword.arg == "allow_pickle":
                assert isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        function = node.func
        assert not (isinstance(function, ast.Name) and function.id in RUNNING)
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            found = (function.value.id, function.attr)
            safe = any(keyword.arg == "allow_pickle" for keyword in node.keywords)
            assert found not in LOADING or (safe and found[1] == "load")


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("import pickle\n", "TID251"),
        ("import numpy as np\n\nnp.load('a')\n", "TID251"),
        ("import torch\n\ntorch.load('a')\n", "TID251"),
        ("import yaml\n\nyaml.load('a')\n", "TID251"),
        ("eval('1')\n", "S307"),
        ("exec('1')\n", "S102"),
        ("import marshal\n", "TID251"),
    ],
)
def test_lint_refuses_what_loads_code(line, rule):
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff comes with the extra dev")
    command = [str(ruff), "check", "--no-cache", "--stdin-filename", "twostage_jax/new.py", "-"]
    done = subprocess.run(command, input=line, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and rule in done.stdout
