"""`twostage export`: each format gives the probabilities of the run."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from tests.house.source import ROOT
from twostage_jax import cli
from twostage_jax.errors import Corrupted, UserError
from twostage_jax.runs.deploy import model_file
from twostage_jax.runs.deploy.model_file import read_model_file
from twostage_jax.runs.model import open_model

RANDOM = np.random.default_rng(0).integers(0, 256, (70, 4, 4, 1)).astype(np.uint8)
CONV = {"encoder": "conv", "widths": (8, 8, 8), "epochs": 0}
# Each has another kind of network or parameters.
RUNS = {
    "mlp": {},
    "members": {"members": 3},
    "many": {"members": 9, "share": ("encoder",)},
    "chosen": {"sweep": {"head.learning-rate": (0.01, 0.1)}},
    "knn": {"head": {"protocol": "knn"}},
    "ridge": {"head": {"protocol": "ridge"}},
    "propagate": {"head": {"protocol": "propagate"}},
    "conv": {"pretrain": CONV},
    "vit": {"pretrain": {**CONV, "encoder": "vit"}},
}
NAMED = ("mlp", "members", "many", "chosen", "ridge")  # for PyTorch: the blog's names


@pytest.fixture(scope="module")
def folder(shared, data, done, trio):
    """A function that returns the folder of one of `RUNS`."""

    def find(name):
        existing = {"mlp": done, "members": trio}
        return existing.get(name) or shared(
            f"export-{name}", lambda out: tiny.run(tiny.config(data, out, **RUNS[name]))
        )

    return find


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    """The model file of the run `mlp`; tests only read it."""
    return ts.export(folder("mlp"), tmp_path_factory.mktemp("model") / "model.twostage")


@pytest.mark.parametrize("name", RUNS)
def test_a_model_file_has_the_bits_of_the_run(folder, name, tmp_path):
    run = ts.open_run(folder(name))
    model = ts.load_model(ts.export(run, tmp_path / "model.twostage"))
    assert model.classes == run.classes and model.image_shape == (4, 4, 1)
    for images in (RANDOM, RANDOM[:5], RANDOM[0]):
        np.testing.assert_array_equal(model.probabilities(images), run.probabilities(images))
    np.testing.assert_array_equal(model.predict(RANDOM), run.predict(RANDOM))
    assert model.probabilities(RANDOM[:0]).shape == (0, tiny.CLASSES)


def test_an_assessment_by_a_file_is_that_of_the_run(folder, exported):
    expected = ts.open_run(folder("mlp"))
    model = ts.load_model(exported)
    for images in (RANDOM, RANDOM[:3]):
        left = model.assess(images)
        right = open_model(expected.folder).assess(images)
        np.testing.assert_allclose(left.probability, right.probability, atol=1e-6)
        np.testing.assert_array_equal(left.sets, right.sets)


@pytest.mark.parametrize("name", RUNS)
def test_onnxruntime_gives_the_probabilities_of_the_run(folder, name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    run = ts.open_run(folder(name))
    path = ts.export(run, tmp_path / "model.onnx", format="onnx")
    session = onnxruntime.InferenceSession(path)
    for images in (RANDOM, RANDOM[:1]):
        probability = session.run(None, {"images": images})[0]
        assert probability.dtype == np.float32
        np.testing.assert_allclose(probability, run.probabilities(images), atol=1e-5)
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["classes"]) == list(run.classes)


def test_onnx_takes_the_layers_of_a_users_module(data, tmp_path, module):
    onnxruntime = pytest.importorskip("onnxruntime")
    name = module("convnet", USERS)
    config = tiny.config(data, tmp_path / "run", pretrain={"encoder": f"{name}:Net", "epochs": 0})
    tiny.run(config)
    run = ts.open_run(tmp_path / "run", trust_code=True)
    session = onnxruntime.InferenceSession(ts.export(run, tmp_path / "m.onnx", "onnx"))
    probability = session.run(None, {"images": RANDOM})[0]
    np.testing.assert_allclose(probability, run.probabilities(RANDOM), atol=1e-5)
    model = ts.load_model(ts.export(run, tmp_path / "m.twostage"))
    np.testing.assert_array_equal(model.probabilities(RANDOM), run.probabilities(RANDOM))


USERS = """
import flax.linen as nn
import jax.numpy as jnp

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.avg_pool(nn.gelu(nn.Conv(6, (3, 3), strides=2)(x)), (1, 1))
        return nn.Dense(5)(nn.silu(nn.LayerNorm()(x.reshape(len(x), -1))))
"""
LOOP = """
import flax.linen as nn
import jax

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3)(x.reshape(len(x), -1))
        return jax.lax.fori_loop(0, x.shape[1], lambda i, y: 2 * y, x)
"""
SOLVE = """
import flax.linen as nn
import jax.numpy as jnp

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3)(x.reshape(len(x), -1))
        return x @ jnp.linalg.inv(jnp.eye(3) + self.param("a", nn.initializers.ones, (3, 3)))
"""


def test_a_network_that_a_format_cannot_hold_is_refused(data, tmp_path, module):
    pytest.importorskip("onnx")
    config = tiny.config(
        data, tmp_path / "run", pretrain={"encoder": f"{module('loop', LOOP)}:Net", "epochs": 0}
    )
    tiny.run(config)
    run = ts.open_run(tmp_path / "run", trust_code=True)
    with pytest.raises(UserError, match="operation (while|scan), which cannot be written as ONNX"):
        ts.export(run, tmp_path / "m.onnx", "onnx")
    with pytest.raises(UserError, match="operation (while|scan), .* or for PyTorch: use another"):
        ts.export(run, tmp_path / "m.safetensors", "torch")
    assert sorted(x.name for x in tmp_path.iterdir() if x.suffix in (".onnx", ".py")) == ["loop.py"]


@pytest.mark.parametrize("name", RUNS)
def test_torch_alone_gives_the_probabilities_of_the_run(folder, name, tmp_path):
    pytest.importorskip("torch")
    run = ts.open_run(folder(name))
    (tmp_path / "model.py").write_text("import this\n")
    with pytest.raises(UserError, match="is another program and would be overwritten"):
        ts.export(run, tmp_path / "w.safetensors", format="torch")
    (tmp_path / "model.py").unlink()
    for _ in range(2):  # its own file is written again
        ts.export(run, tmp_path / "w.safetensors", format="torch")
    np.save(tmp_path / "images.npy", RANDOM)
    program = (
        BLOCK.format(names=("jax", "flax", "twostage_jax", "safetensors"))
        + "import numpy as np, torch; from model import load\n"
        "model = load(); images = torch.from_numpy(np.load('images.npy'))\n"
        "np.save('p.npy', model(images).numpy()); print(model.classes, model.shape)\n"
        "print('members.0.stage1.0.weight' in model.state_dict(), len(model(images[:0])))\n"
    )
    output = run_program(program, tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), run.probabilities(RANDOM), atol=1e-5)
    assert output == f"['0', '1', '2'] (4, 4, 1)\n{name in NAMED} 0\n"


def test_safetensors_has_all_parameters(folder, tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    run = ts.open_run(folder("members"))
    path = ts.export(run, tmp_path / "w.safetensors", format="safetensors")
    arrays = library.load_file(path)
    expected = run.params["encoder"]["params"]["dense_0"]["kernel"]
    np.testing.assert_array_equal(arrays["encoder/params/dense_0/kernel"], expected)
    assert {name.split("/")[0] for name in arrays} == {"encoder", "decoder", "head"}


# Finders that refuse some packages, as if they were not installed.
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
"""


def run_program(program, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_flipped_bit_anywhere_is_detected(exported, tmp_path):
    content = bytearray(exported.read_bytes())
    path = tmp_path / "model.twostage"
    for place in np.random.default_rng(0).integers(0, len(content), 40).tolist():
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(UserError, match="is corrupted|not a model file"):
            read_model_file(path)
        content[place] ^= 1
    path.write_bytes(content)
    read_model_file(path)


@pytest.mark.parametrize(
    ("name", "format", "remedy"),
    [
        ("m.onnx", "twostage", "onnx"),
        ("m.safetensors", "twostage", "safetensors or torch"),
        ("m.twostage", "torch", "twostage"),
    ],
)
def test_the_ending_of_another_format_is_refused(folder, name, format, remedy, tmp_path):
    with pytest.raises(UserError, match=f"give --format {remedy}, or another ending"):
        ts.export(folder("mlp"), tmp_path / name, format)
    assert not any(tmp_path.iterdir())


def test_other_files_are_refused(exported, folder, tmp_path):
    content = exported.read_bytes()
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    files = {
        "short": (content[:-1], "not a model file, or its end is missing"),
        "half": (content[: len(content) // 2], "not a model file"),
        "empty": (b"", "not a model file"),
        "text": (b"hello " * 100, "not a model file"),
        "npz": ((tmp_path / "other.npz").read_bytes(), "not a model file"),
    }
    for name, (bad, message) in files.items():
        path = tmp_path / name
        path.write_bytes(bad)
        with pytest.raises(UserError, match=message):
            ts.load_model(path)
    with pytest.raises(UserError, match="directory"):
        ts.load_model(folder("mlp"))
    with pytest.raises(UserError, match="No such file"):
        ts.load_model(tmp_path / "none.twostage")


def changed(exported, path, **changes):
    """Write the model file with other fields of its record, and a valid digest."""
    content = read_model_file(exported)
    record = model_file.encode(content.about) | changes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_file, "encode", lambda _: record)
        path.write_bytes(model_file.model_bytes(content))
    return path


def test_a_file_of_a_newer_version_or_with_other_content_is_refused(exported, tmp_path):
    newer = changed(exported, tmp_path / "a", schema=2, versions={"twostage-jax": "9.0"}, new=1)
    with pytest.raises(UserError, match="newer version of twostage-jax .'9.0'.: upgrade"):
        ts.load_model(newer)
    with pytest.raises(Corrupted, match="'batch' is 'x'"):
        ts.load_model(changed(exported, tmp_path / "b", batch="x"))
    with pytest.raises(Corrupted, match="has no member 'none'"):
        ts.load_model(changed(exported, tmp_path / "c", params=["none"]))
    content = read_model_file(exported)
    broken = content._replace(programs={"program": b"no program", "program_small": b""})
    (tmp_path / "d").write_bytes(model_file.model_bytes(broken))
    with pytest.raises(UserError, match="cannot load the program"):
        ts.load_model(tmp_path / "d")


def test_a_program_that_calls_other_functions_is_neither_written_nor_run(data, tmp_path, module):
    config = tiny.config(
        data, tmp_path / "run", pretrain={"encoder": f"{module('inverse', SOLVE)}:Net", "epochs": 0}
    )
    tiny.run(config)
    with pytest.raises(UserError, match="the network calls .*getr"):
        ts.export(ts.open_run(tmp_path / "run", trust_code=True), tmp_path / "m.twostage")


def test_floats_are_refused_by_a_file(exported):
    with pytest.raises(UserError, match="takes integers in 0 to 255"):
        ts.load_model(exported).probabilities(RANDOM / 255)


def test_the_commands_export_and_predict(folder, tmp_path, capsys, monkeypatch):
    path = tmp_path / "model.twostage"
    assert cli.main(["export", str(folder("mlp")), "--out", str(path)]) == 0
    assert f"{path}  0.03 MB" in capsys.readouterr().out
    np.savez(tmp_path / "x.npz", image=RANDOM)
    outputs = []
    for model in (path, folder("mlp")):
        assert cli.main(["predict", str(model), str(tmp_path / "x.npz")]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] and outputs[0].count("\n") == 71
    assert cli.main(["export", str(folder("mlp")), "--out", str(tmp_path / "no" / "m")]) == 2
    assert f"create the folder {tmp_path / 'no'}" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert cli.main(["export", str(folder("mlp")), "--format", "onnx"]) == 2
    assert "pip install 'twostage-jax[onnx]'" in capsys.readouterr().err
    with pytest.raises(UserError, match="choose from twostage, onnx, safetensors, torch"):
        ts.export(folder("mlp"), format="tf")
