"""The command line: exit statuses, one-line mistakes, signals, and commands on real runs."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.test_sources import BROKEN
from twostage_jax import cli
from twostage_jax.config.schema import Config
from twostage_jax.errors import UserError
from twostage_jax.runs.run import run
from twostage_jax.show.terminal import Terminal

# The shapes of the runs in test_pipeline, whose programs are compiled already.
PRETRAIN = ["--pretrain.widths", "16", "8", "--pretrain.batch-size", "100"]
HEAD = ["--head.widths", "8", "--head.batch-size", "100", "--head.epochs", "1"]


def mistake(capsys, *argv):
    """The one line that a mistake gets."""
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("twostage: error: ")
    assert said.err.count("\n") == 1
    return said.err


def command(*argv, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "twostage_jax", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(*argv):
    process = command(*argv)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rnu", "unknown command 'rnu': did you mean 'run'"),
        ("", "Expected one of {run, pretrain, head, evaluate, data, bench}"),
        ("run --pretrain.epocs 3", "--pretrain.epocs, 3; did you mean --pretrain.epochs?"),
        ("run --pretrain.epochs many", "--pretrain.epochs takes INT, not 'many'"),
        ("run --pretrain.epochs", "Missing value for argument '--pretrain.epochs'"),
        ("run --pretrain.epochs -1", "--pretrain.epochs is -1: give a whole number of at least 0"),
        ("run --head.epochs -1", "--head.epochs is -1"),
        ("run --pretrain.batch-size 0", "--pretrain.batch-size is 0"),
        ("run --head.learning-rate nan", "--head.learning-rate is nan"),
        ("run --data mnst", "unknown source 'mnst': did you mean 'mnist'"),
        ("run --data idx:/nowhere", "there is no directory /nowhere"),
        ("run --data npz:/nowhere.npz", "there is no file /nowhere.npz"),
        ("run --data digits --data-dir here", "--data-dir goes with mnist"),
        ("run --preset blgo", "unknown preset 'blgo': did you mean 'blog'"),
        ("run --init torhc", "unknown init 'torhc': did you mean 'torch'"),
        ("run --pretrain.objective autoencodr", "did you mean 'autoencoder'"),
        ("run --pretrain.encoder nowhere:Net", "cannot import 'nowhere:Net'"),
        ("run --head.protocol mpl", "unknown protocol 'mpl': did you mean 'mlp'"),
        ("run --validation 9999", "give a number from 0 to 1437"),
        ("run --resume", "add --out DIR"),
        ("run --resume --out /nowhere", "/nowhere is no run"),
        ("run --config /nowhere/config.json", "cannot read /nowhere/config.json"),
        ("run --preset blog --config a.json", "leave one of them out"),
        ("head", "head needs the run whose encoder it uses: give --from RUN"),
        ("head --from /nowhere", "/nowhere is no run"),
        ("head --from /nowhere --pretrain.epochs 3", "options: --pretrain.epochs 3; see"),
        ("evaluate", "Missing from twostage evaluate: RUN"),
        ("evaluate /nowhere", "/nowhere is no run"),
        ("evaluate /nowhere --split tset", "invalid choice 'tset'"),
        ("data", "Missing from twostage data: SPEC"),
        ("data idx", "write idx:DIR"),
    ],
)
def test_a_mistake_gets_status_2_and_one_line(line, expected, capsys):
    assert expected in mistake(capsys, *line.split())


@pytest.mark.parametrize("name", BROKEN)
def test_broken_data_gets_status_2_and_one_line(name, tmp_path, capsys):
    make, expected = BROKEN[name]
    line = mistake(capsys, "run", "--data", make(tmp_path), "--out", str(tmp_path / "run"))
    assert re.search(expected, line)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_taken_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert "is not empty (it has notes.txt)" in mistake(capsys, "run", "--out", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert "holds a run already" in mistake(capsys, "run", "--out", str(tmp_path))
    assert "cannot make the folder" in mistake(capsys, "run", "--out", str(tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "config.json").read_text() == "{}"


def test_a_pipe_that_closes_early_makes_no_noise():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "twostage_jax", "run", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    ("redirected", "status", "said"),
    [
        (">/dev/full", 2, "twostage: error: cannot print to standard output: No space left on dev"),
        (">&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
    ],
)
def test_where_the_output_goes_decides_nothing_but_the_status(redirected, status, said):
    line = f"{sys.executable} -m twostage_jax data digits {redirected}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(said) and done.stderr.count("\n") == bool(said)


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("a[1]", r"because of \[ \] in it"),
        ("a\\b", r"because of \\ in it"),
        ("gs:/bucket", "because of gs: in it"),
        ("a\0b", "because of \\\\x00 in it"),
        ("a\udcff", "not UTF-8"),
        ("x" * 256, "has a name of 256 bytes"),
    ],
)
def test_a_folder_that_orbax_cannot_write_to_is_refused(tmp_path, out, expected):
    with pytest.raises(UserError, match=expected):
        run(Config(data="digits", out=tmp_path / out), terminal=Terminal(quiet=True))
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_to_is_said(tmp_path, capsys):
    (tmp_path / "file").touch()
    argv = ("run", "--out", str(tmp_path / "run"), "--compile-cache")
    assert "give --compile-cache a folder that" in mistake(capsys, *argv, f"{tmp_path}/file")


def test_what_the_system_refuses_is_one_line_too(tmp_path, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(cli, "_act", full)
    assert "No space left on device: 'metrics.jsonl'" in mistake(capsys, "data", "digits")


def test_debug_adds_the_traceback(capsys):
    assert cli.main(["run", "--data", "npz:/nowhere.npz", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and said.splitlines()[-1].startswith("twostage: error: ")


@pytest.mark.parametrize("name", ["run", "pretrain", "head", "evaluate", "data"])
def test_every_command_has_help_that_shows_the_defaults(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    if name in ("run", "pretrain"):
        assert "passes over the training images" in said and "(blog: 5, quick: 20)" in said


def test_data_shows_what_is_in_a_source(tmp_path, capsys):
    image = np.random.RandomState(0).randint(0, 256, (20, 3, 3)).astype(np.uint8)
    label = np.arange(20) % 2
    path = tmp_path / "set.npz"
    np.savez(path, x_train=image, y_train=label, x_test=image[:4], y_test=label[:4])
    assert cli.main(["data", f"npz:{path}"]) == 0
    said = capsys.readouterr().out
    assert "uint8 images 3x3x1, 2 classes" in said
    assert "fingerprint sha256:" in said
    assert re.search(r"train and test: [34]\b", said)


def test_two_processes_give_bit_for_bit_what_run_gives(tmp_path):
    whole, first, second = (str(tmp_path / name) for name in ("whole", "first", "second"))
    pretrain = ["--pretrain.epochs", "1", *PRETRAIN]
    out = finish("run", "--out", whole, *pretrain, *HEAD)
    assert "pretrain  epoch 1/1" in out and "frozen" in out and out.rstrip().endswith(whole)
    finish("pretrain", "--out", first, *pretrain)
    finish("head", "--from", first, "--out", second, *HEAD)
    results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("whole", "second")]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]
    groups = [
        json.loads((tmp_path / n / "manifest.json").read_text())["groups"]
        for n in ("whole", "second")
    ]
    assert groups[0]["encoder"] == groups[1]["encoder"] and groups[0]["head"] == groups[1]["head"]
    evaluated = finish("evaluate", whole)
    assert f"{results[0]['test']['accuracy']:.4f}" in evaluated and "by class" in evaluated
    again = str(tmp_path / "again")
    finish("run", "--config", f"{whole}/config.json", "--out", again)
    repeated = json.loads((tmp_path / "again" / "result.json").read_text())
    assert repeated["test"] == results[0]["test"] and repeated["frozen"] == results[0]["frozen"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_says_how_to_resume(signum, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    argv = ["--pretrain.epochs", "20", *PRETRAIN, *HEAD]
    process = command("run", "--out", str(run), *argv)
    metrics = run / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    began = time.monotonic()
    os.kill(process.pid, signum)
    _, err = process.communicate()
    assert time.monotonic() - began < 10  # two seconds, and room for a busy machine
    assert process.returncode == 128 + signum
    assert err.endswith(f"resume with: twostage run --resume --out {run}\n")
    assert "Traceback" not in err
    config = json.loads((run / "config.json").read_text())
    assert config["pretrain"]["epochs"] == 20
    assert metrics.read_text().count("\n") < 20
    if signum == signal.SIGTERM:
        return
    finish("run", "--resume", "--out", str(run))
    finish("run", "--out", str(whole), *argv)
    digests = [
        json.loads((folder / "manifest.json").read_text())["groups"]["head"]["sha256"]
        for folder in (run, whole)
    ]
    assert digests[0] == digests[1]
