"""Commands on real runs: folders, signals, standard streams, and two processes that equal one."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from twostage_jax import cli

TINY = ["--pretrain.widths", "8", "4", "--pretrain.batch-size", "100"]
TINY_HEAD = ["--head.widths", "8", "--head.batch-size", "100", "--head.epochs", "1"]


def error_line(capsys, *argv):
    """The line that an error gets."""
    assert cli.main(argv) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("twostage: error: ") and output.err.count("\n") == 1
    return output.err


def start(*argv):
    """Start a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "twostage_jax", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*argv):
    """Run a command in a process of its own and return its output."""
    process = start(*argv)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def stored(folder, name):
    """A JSON file of a run."""
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run --data npz:/nowhere.npz", "cannot read /nowhere.npz: No such file"),
        ("run --validation 9999", "give a number from 0 to 1437"),
        ("run --pretrain.encoder nowhere:Net", "cannot import 'nowhere:Net'"),
        ("run --resume --out /nowhere", "/nowhere is no"),
        ("head --from /nowhere", "/nowhere is no"),
        ("evaluate /nowhere", "/nowhere is no"),
    ],
)
def test_an_error_within_a_command_gets_one_line_and_leaves_no_folder(
    line, expected, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert expected in error_line(capsys, *line.split()).replace("is not a", "is no")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert "notes.txt" in error_line(capsys, "run", "--out", str(tmp_path))
    assert "notes.txt" in error_line(capsys, "run", "--out", str(tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_cache_folder_that_is_not_writable_is_an_error(tmp_path, capsys):
    (tmp_path / "file").touch()
    argv = ("run", "--out", str(tmp_path / "run"), "--compile-cache", f"{tmp_path}/file")
    assert "give --compile-cache a writable folder" in error_line(capsys, *argv)


def test_a_closed_pipe_ends_a_command_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-m", "twostage_jax", "run", "--help"]
    process = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE)
    assert (process.returncode, process.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    ("redirected", "status", "expected"),
    [
        (">/dev/full", 2, "twostage: error: cannot print to standard output: No space left on dev"),
        (">&- 2>&- <&-", 0, ""),
    ],
)
def test_standard_streams_that_are_full_or_closed(redirected, status, expected):
    line = f"{sys.executable} -m twostage_jax data digits {redirected}; exit ${{PIPESTATUS[0]}}"
    process = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (status, "")
    assert process.stderr.startswith(expected) and process.stderr.count("\n") == bool(expected)


def test_data_describes_a_source(tmp_path, capsys):
    image = np.random.RandomState(0).randint(0, 256, (20, 3, 3)).astype(np.uint8)
    label = np.arange(20) % 2
    path = tmp_path / "set.npz"
    np.savez(path, x_train=image, y_train=label, x_test=image[:4], y_test=label[:4])
    assert cli.main(["data", f"npz:{path}"]) == 0
    output = capsys.readouterr().out
    assert "3x3x1" in output and "2 classes" in output
    assert "fingerprint sha256:" in output
    assert re.search(r"train and test: [34]\b", output)


def test_two_processes_equal_one_bit_for_bit_and_a_config_repeats_a_run(tmp_path):
    whole, first, second, again = (tmp_path / name for name in ("whole", "a", "b", "again"))
    pretrain = ["--pretrain.epochs", "1", *TINY]
    finish("run", "--out", str(whole), *pretrain, *TINY_HEAD)
    finish("pretrain", "--out", str(first), *pretrain)
    finish("head", "--from", str(first), "--out", str(second), *TINY_HEAD)
    finish("run", "--config", str(whole / "config.json"), "--out", str(again))
    result = stored(whole, "result.json")
    del result["seconds"]
    for folder in (second, again):
        other = stored(folder, "result.json")
        del other["seconds"]
        assert other == result
        for group in ("encoder", "head"):
            groups = stored(folder, "manifest.json")["groups"]
            assert groups[group] == stored(whole, "manifest.json")["groups"][group]
    assert f"{result['test']['accuracy']:.4f}" in finish("evaluate", str(whole))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_prints_how_to_resume(signum, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    argv = ["--pretrain.epochs", "20", *TINY, *TINY_HEAD]
    process = start("run", "--out", str(run), *argv)
    metrics = run / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    began = time.monotonic()
    os.kill(process.pid, signum)
    _, err = process.communicate()
    assert time.monotonic() - began < 10  # two seconds on a quiet machine
    assert process.returncode == 128 + signum
    assert err.endswith(f"resume with: twostage run --resume --out {run}\n")
    assert "Traceback" not in err and metrics.read_text().count("\n") < 20
    if signum == signal.SIGTERM:
        return
    finish("run", "--resume", "--out", str(run))
    finish("run", "--out", str(whole), *argv)
    groups = [stored(folder, "manifest.json")["groups"] for folder in (run, whole)]
    assert groups[0]["head"] == groups[1]["head"]
