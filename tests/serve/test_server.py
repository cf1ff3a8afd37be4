"""`twostage serve`, from the command to the running page."""

import dataclasses
import importlib.util
import json
import re
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax import cli
from twostage_jax.config.serving import Serve
from twostage_jax.errors import UserError
from twostage_jax.serve import server
from twostage_jax.serve.neighbours import NO_IMAGES, SHOWN
from twostage_jax.serve.pictures import encode_picture
from twostage_jax.serve.server import listen, make_assessor, open_either
from twostage_jax.serve.sources import load_labelling
from twostage_jax.show.terminal import Terminal


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with a solved head, which takes a second."""
    folder = tmp_path_factory.mktemp("serve")
    config = tiny.config(
        tiny.write(folder / "tiny.npz"),
        folder / "run",
        pretrain={"epochs": 1},
        head={"protocol": "ridge"},
    )
    tiny.run(config)
    return folder / "run"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--host 0.0.0.0", "--host is '0.0.0.0', but only this machine may open the page"),
        ("--host example.org", "--host is 'example.org', but only this machine"),
        ("--port 0", "--port is 0: give a port from 1 to 65535"),
        ("--port 65536", "--port is 65536"),
        ("--label digits", "--label needs a file for the labels: add --labels-out"),
        ("--labels-out a.csv", "--labels-out is for labelling: add --label SPEC"),
        ("--classes a,b", "--classes is for labelling: add --label SPEC"),
        ("--image-dir a", "--image-dir is for labelling: add --label SPEC"),
        ("--label digits --labels-out a --image-dir b", "--image-dir goes with csv:FILE"),
        ("--label folder: --labels-out a", "--label 'folder:' is incomplete"),
        ("--label digits --labels-out .", "--labels-out . is a folder: give a file"),
        ("--label digits --labels-out no/a.csv", "the folder no does not exist: create it"),
        ("", "nowhere"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(capsys, words, message):
    assert cli.main(["serve", "/nowhere", "--no-browser", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_a_missing_extra_is_named(capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find_spec(name)
    )
    assert cli.main(["serve", "/nowhere"]) == 2
    assert "(uvicorn): pip install 'twostage-jax[serve]'" in capsys.readouterr().err


def test_only_loopback_is_listened_on_and_a_used_port_is_said():
    command = Serve(model="model")
    with listen(command) as first:
        assert first.getsockname()[0] == "127.0.0.1"
        # Without --port, another free one is taken.
        with listen(command) as second:
            port = second.getsockname()[1]
            assert port != first.getsockname()[1]
            with pytest.raises(UserError, match=f"cannot use the port {port}.*give another --port"):
                listen(dataclasses.replace(command, port=port))


def test_a_run_knows_its_nearest_training_images(run):
    opened, model = open_either(Serve(model=run))
    assessor = make_assessor(opened, model, Serve(model=run), Terminal(quiet=True))
    assessor.neighbours.wait()
    data = np.load(run.parent / "tiny.npz")["x_train"]
    content, _ = assessor.neighbours.picture(5)
    answer = assessor.neighbours.nearest(data[0][..., None])
    assert len(answer["images"]) == SHOWN and content.startswith(b"\x89PNG")


def test_a_run_whose_data_is_gone_can_still_be_tried(run, tmp_path):
    opened, model = open_either(Serve(model=run))
    config = dataclasses.replace(opened.config, data=f"npz:{tmp_path}/gone.npz")
    opened = dataclasses.replace(opened, config=config)
    terminal = Terminal(quiet=True)
    assessor = make_assessor(opened, model, Serve(model=run), terminal)
    assessor.neighbours.wait()
    assert "gone.npz" in terminal.notices[0]
    assert "gone.npz" in assessor.neighbours.nearest(np.zeros((4, 4, 1), np.uint8))["reason"]


@pytest.mark.parametrize(
    ("label", "message"),
    [("npz:gone.npz", "cannot read"), ("gone", "cannot list"), ("digits", "8×8×1")],
)
def test_images_that_cannot_be_labelled_are_one_line(run, capsys, tmp_path, label, message):
    out = tmp_path / "labels.csv"
    words = ["serve", str(run), "--no-browser", "--label", label, "--labels-out", str(out)]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and not out.exists()


def test_a_model_file_is_tried_without_training_images_and_labels_too(run, tmp_path):
    file = tmp_path / "model.twostage"
    assert cli.main(["export", str(run), "--out", str(file)]) == 0
    data = f"npz:{run.parent / 'tiny.npz'}"
    command = Serve(model=file, label=data, labels_out=tmp_path / "a.csv")
    opened, model = open_either(command)
    assert opened is None
    assessor = make_assessor(opened, model, command, Terminal(quiet=True))
    assessor.neighbours.wait()
    image = np.full((4, 4, 1), 200, np.uint8)
    assert assessor.neighbours.nearest(image) == {"reason": NO_IMAGES, "images": []}
    answer = assessor.assess(encode_picture(image)[0], drawing=False)
    assert answer["class"] == model.predict(image[None])[0]
    labelling = load_labelling(opened, model, command, Terminal(quiet=True))
    assert labelling.state()["classes"] == list(model.classes)


def test_a_run_without_a_head_can_only_label(run, tmp_path, capsys):
    folder = tmp_path / "encoder"
    data = f"npz:{run.parent / 'tiny.npz'}"
    tiny.run(tiny.config(data, folder, pretrain={"epochs": 1}), pretrain_only=True)
    assert cli.main(["serve", str(folder), "--no-browser"]) == 2
    assert "has no head" in capsys.readouterr().err
    command = Serve(model=folder, label=data, labels_out=tmp_path / "a.csv")
    opened, model = open_either(command)
    assert model is None
    labelling = load_labelling(opened, model, command, Terminal(quiet=True))
    state = labelling.state()
    assert state["left"] == tiny.TRAIN and state["classes"] == ["0", "1", "2"]
    # The images of the run's validation split are not among them.
    rows = {int(key) for key in labelling.keys}
    assert rows == set(ts.load(data, tiny.VALIDATION).rows["train"].tolist())


def test_a_browser_is_opened_only_on_a_screen(monkeypatch):
    opened = []
    monkeypatch.setattr(server.webbrowser, "open", opened.append)
    monkeypatch.setattr(server.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    server.open_browser("http://127.0.0.1:1/")
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    server.open_browser("http://127.0.0.1:1/")
    assert opened == ["http://127.0.0.1:1/"]


def test_the_command_prints_its_address_answers_and_ends_on_a_signal(run, tmp_path):
    data = f"npz:{run.parent / 'tiny.npz'}"
    words = ["--label", data, "--labels-out", str(tmp_path / "a.csv"), "--no-browser"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "twostage_jax", "serve", str(run), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        address = next(filter(None, (re.search(r"http://[\d.]+:\d+/label", x) for x in lines)))[0]
        with urllib.request.urlopen(address.replace("label", "api/label")) as answer:
            assert json.load(answer)["left"] == tiny.TRAIN
    finally:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"resume with: twostage serve {run} --label" in error
