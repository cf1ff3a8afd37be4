"""`twostage predict`: images of any source to a CSV."""

import csv
import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import twostage_jax as ts
from tests import tiny
from tests.house.source import ROOT
from twostage_jax import cli
from twostage_jax.runs.deploy import inputs
from twostage_jax.runs.model import open_model

NAMES = ["a b.png", "sub/c,[1].png", "sub/d.png", "sub/ü.png", "z.png"]  # sorted


@pytest.fixture(scope="module")
def test(data):
    return ts.load(data, tiny.VALIDATION).test


@pytest.fixture
def folder(test, tmp_path):
    """Five images of the test split, in folders, under names that need care."""
    for name, image in zip(NAMES, test["image"], strict=False):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    return tmp_path / "images"


def table(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


@pytest.fixture
def predict(done, tmp_path, capsys):
    """A function that predicts into a file: `(inputs) -> (status, rows, standard error)`."""

    def call(*words):
        out = tmp_path / "out.csv"
        status = cli.main(["predict", str(done), *map(str, words), "--out", str(out)])
        return status, table(out) if out.exists() else None, capsys.readouterr().err

    return call


def test_rows_have_the_prediction_of_each_image(predict, folder, done, test):
    status, rows, error = predict(folder)
    assert status == 0 and "5 images classified" in error
    assert [os.path.relpath(row["path"], folder) for row in rows] == NAMES
    answer = open_model(done).assess(test["image"][:5])
    figures = zip(rows, *answer, strict=True)
    for row, probability, rejected, score, members in figures:
        assert row["rejected"] == str(bool(rejected)).lower()
        np.testing.assert_allclose(float(row["ood_score"]), score, rtol=1e-5)
        order = np.argsort(-probability)
        assert [row["class"], row["second_class"]] == [str(k) for k in order[:2]]
        given = [float(row[f"probability: {k}"]) for k in range(tiny.CLASSES)]
        np.testing.assert_allclose(given, probability, atol=1e-5)
        assert float(row["probability"]) == max(given) and row["error"] == ""
        assert row["set"] == "|".join(str(k) for k in np.flatnonzero(members))


def test_inputs_are_files_patterns_archives_and_paths_on_standard_input(
    predict, folder, test, monkeypatch, tmp_path
):
    np.savez(tmp_path / "some.npz", image=test["image"][:3])
    expected = {row["path"]: row for row in predict(folder)[1]}
    one = folder / "sub" / "c,[1].png"  # an existing file is no pattern
    assert predict(one)[1] == [expected[str(one)]]
    both = predict(one, folder / "*.png")[1]
    assert both == [expected[str(x)] for x in (one, folder / "a b.png", folder / "z.png")]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{folder / 'z.png'}\n\n{one}\r\n"))
    assert predict("-")[1] == [expected[str(folder / "z.png")], expected[str(one)]]
    rows = predict(tmp_path / "some.npz")[1]
    assert [row["path"] for row in rows] == [f"{tmp_path}/some.npz[image:{i}]" for i in range(3)]
    assert rows[1] == {**expected[str(one)], "path": rows[1]["path"]}


def test_each_row_of_a_csv_gives_a_row_in_order(predict, folder, done, tmp_path):
    lines = ["id;file", "1;z.png", "2;gone.png", "3;sub/d.png", "4;", "5;z.png", "6;a b", "7;sub"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    words = ("--path-column", "file", "--image-dir", folder)
    status, rows, error = predict(tmp_path / "list.csv", *words)
    assert status == 2 and "3 of 7 images could not be read" in error
    names = [line.partition(";")[2] for line in lines[1:]]
    assert [row["path"] for row in rows] == names
    reasons = {row["path"]: row["error"] for row in rows if row["error"]}
    assert reasons == {"gone.png": "no such file", "": "the row has no path", "sub": "no such file"}
    by_file = {"z.png": "z.png", "sub/d.png": "sub/d.png", "a b": "a b.png"}
    for row in rows:
        if not row["error"]:
            alone = predict(folder / by_file[row["path"]])[1][0]
            assert {**row, "path": ""} == {**alone, "path": ""}


@pytest.mark.parametrize("name", ["../secret.png", "gone.png"])
def test_a_csv_without_files_in_its_folder_is_refused(predict, folder, tmp_path, name):
    (tmp_path / "bad.csv").write_text(f"file\n{name}\n")
    status, rows, error = predict(tmp_path / "bad.csv", "--image-dir", folder)
    assert status == 2 and rows is None and "give --image-dir with" in error


def test_broken_files_have_a_row_with_the_reason_and_the_status_says_so(predict, folder):
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("hello")
    (folder / "notes.txt").write_text("no image")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder)
    status, rows, error = predict(folder)
    assert status == 2 and "3 of 8 images could not be read" in error
    assert "not read: 1 .txt" in error
    reasons = {os.path.basename(row["path"]): row["error"] for row in rows if row["error"]}
    assert sorted(reasons) == ["empty.png", "gone.png", "text.jpg"]
    assert "0 bytes" in reasons["empty.png"] and "not a JPEG" in reasons["text.jpg"]
    assert all(row["class"] == "" for row in rows if row["error"])
    assert sum(row["class"] != "" for row in rows) == 5


def test_images_of_another_form_are_converted_and_that_is_said_once(predict, folder, test):
    expected = predict(folder / "z.png")[1][0]
    colour = np.repeat(test["image"][4], 3, axis=-1)
    Image.fromarray(colour).save(folder / "colour.png")
    Image.fromarray(np.zeros((9, 5, 3), np.uint8)).save(folder / "large.png")
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(folder / "pixel.png")
    status, rows, error = predict(folder)
    assert status == 0 and error.count("converted") == 1 and "4×4 grey" in error
    row = next(row for row in rows if row["path"].endswith("colour.png"))
    assert row == {**expected, "path": row["path"]}


def test_arrays_are_converted_as_files_are(predict, test, tmp_path):
    large = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3)).astype(np.uint8)
    for index, image in enumerate(large):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    np.savez(tmp_path / "large.npz", image=large)
    files = predict(tmp_path / "0.png", tmp_path / "1.png")[1]
    arrays = predict(tmp_path / "large.npz")[1]
    assert [{**row, "path": ""} for row in arrays] == [{**row, "path": ""} for row in files]


def test_a_name_that_is_a_formula_is_neutralised(predict, folder, monkeypatch):
    (folder / "a b.png").rename(folder / "=cmd().png")
    monkeypatch.chdir(folder)
    rows = predict("=cmd().png", "z.png")[1]
    assert [row["path"] for row in rows] == ["'=cmd().png", "z.png"]


def test_many_files_are_read_in_batches_in_their_order(predict, folder, monkeypatch):
    monkeypatch.setattr(inputs, "BATCH", 3)
    monkeypatch.setattr(inputs, "PIECE", 2)
    expected = [row["path"] for row in predict(folder)[1]]
    assert len(expected) == 5
    assert [row["path"] for row in predict(folder, folder)[1]] == [*expected, *expected]


def test_standard_output_has_the_csv_alone(done, folder, capfd):
    (folder / "notes.txt").write_text("no image")
    assert cli.main(["predict", str(done), str(folder)]) == 0
    output, error = capfd.readouterr()
    assert len(list(csv.DictReader(io.StringIO(output)))) == 5
    assert output.startswith("path,class,probability,") and "notice" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.png"], "nothing.png does not exist: give image files, a folder"),
        (["no*thing"], "matches no file"),
        (["{empty}"], "has no image files"),
        (["{big}", "--pixel-limit", "0.001"], "1 of 1 images could not be read"),
        (["{big}", "--pixel-limit", "0"], "--pixel-limit is 0.0: give a number of megapixels"),
        (["{empty}/no.npz"], "does not exist"),
        (["{big}", "--image-dir", "{empty}"], "--image-dir goes with a csv file: leave it out"),
        (["{big}", "--glob", "*"], "--glob goes with a folder: leave it out"),
    ],
)
def test_mistakes_are_explained(predict, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "big.png")
    places = {"empty": tmp_path / "empty", "big": tmp_path / "big.png"}
    status, _, error = predict(*[word.format(**places) for word in words])
    assert status == 2 and message in error and "Traceback" not in error


def test_a_csv_that_cannot_be_written_leaves_no_part(done, folder, capsys, tmp_path):
    target = tmp_path / "none" / "out.csv"
    assert cli.main(["predict", str(done), str(folder), "--out", str(target)]) == 2
    assert "cannot write" in capsys.readouterr().err
    target.parent.mkdir()
    assert cli.main(["predict", str(done), "nothing.png", "--out", str(target)]) == 2
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("inputs", "out", "message"),
    [
        ("z.png", ".", "--out . is a folder: give a file"),
        ("list.csv", "list.csv", "--out list.csv is also an input and would be overwritten"),
        ("gone.png", "o.csv", "gone.png does not exist: give image files"),
        ("csv:list.csv", "o.csv", "csv:list.csv is no path: leave out csv: and give list.csv"),
    ],
)
def test_a_mistake_is_refused_before_the_model_is_opened(
    folder, capsys, monkeypatch, inputs, out, message
):
    monkeypatch.chdir(folder)
    (folder / "list.csv").write_text("path\nz.png\n")
    assert cli.main(["predict", "nowhere", "a b.png", inputs, "--out", out]) == 2
    assert message in capsys.readouterr().err
    assert (folder / "list.csv").read_text() == "path\nz.png\n"


def test_an_interrupted_command_leaves_no_part_of_a_file(done, folder, tmp_path):
    command = [sys.executable, "-m", "twostage_jax", "predict", str(done), str(folder), "-"]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "out.csv")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        part = tmp_path / "out.csv.part"
        while process.poll() is None and not part.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)  # it waits for paths
        assert process.wait() == 130
    assert not part.exists() and not (tmp_path / "out.csv").exists()


def test_an_image_that_is_almost_black_is_classified(predict, tmp_path):
    for value in (0, 1, 9):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / f"{value}.png")
    status, rows, _ = predict(tmp_path / "9.png", tmp_path / "1.png", tmp_path / "0.png")
    assert status == 0 and all(row["class"] for row in rows)
