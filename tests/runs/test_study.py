"""Label studies on tiny data: draws, predictions, resume, and errors in one line."""

import csv
import json
import shutil

import numpy as np
import pytest

from tests import tiny
from twostage_jax import cli
from twostage_jax.data.labels import draw_labels
from twostage_jax.data.sources import load
from twostage_jax.errors import UserError
from twostage_jax.runs.study.api import study_labels
from twostage_jax.runs.study.draws import fold_weights, make_draws
from twostage_jax.show.terminal import Terminal

COUNTS = [3, 6]
ARMS = ["frozen:linear", "random:linear", "pixels:knn", "supervised"]


def study(run, out, **options):
    """Run a study without output."""
    options = {"counts": COUNTS, "draws": 3, "arms": ARMS, **options}
    return study_labels(run, out=out, terminal=Terminal(quiet=True), **options)


@pytest.fixture(scope="session")
def studied(shared, done):
    """A finished study; tests only read it."""
    return shared("studied", lambda folder: study(done, folder))


def record(folder):
    return json.loads((folder / "study.json").read_text())


def predictions(folder, arm, count):
    with np.load(folder / "predictions" / f"{arm.replace(':', '-')}-{count}.npz") as arrays:
        return dict(arrays)


def test_every_arm_has_the_same_nested_draws(studied, data):
    dataset = load(data, tiny.VALIDATION)
    for count in COUNTS:
        label = dataset.train["label"]
        expected = [draw_labels(label, count, dataset.classes, seed) for seed in range(3)]
        rows = dataset.rows["train"][np.stack(expected)]
        for arm in ARMS:
            labelled = predictions(studied, arm, count)["labelled"]
            np.testing.assert_array_equal(np.sort(labelled), np.sort(rows))
    small = predictions(studied, ARMS[0], 3)["labelled"]
    large = predictions(studied, ARMS[0], 6)["labelled"]
    assert all(set(a) < set(b) for a, b in zip(small, large, strict=True))


def test_the_first_sentence_says_that_there_are_few_draws(studied):
    assert record(studied)["results"]["headline"].startswith("With 6 labels (only 3 draws) ")


def test_saved_predictions_give_the_errors_of_the_tables(studied, data):
    with (studied / "errors.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(ARMS) * len(COUNTS) * 3
    test = load(data, tiny.VALIDATION).test
    for line in lines:
        arrays = predictions(studied, line["arm"], int(line["labels"]))
        np.testing.assert_array_equal(arrays["label"], test["label"])
        error = np.mean(arrays["predicted"][int(line["draw"])] != test["label"])
        assert float(line["test_error"]) == pytest.approx(error)
    for entry in record(studied)["results"]["table"]:
        errors = [
            float(x["test_error"])
            for x in lines
            if (x["arm"], int(x["labels"])) == (entry["arm"], entry["labels"])
        ]
        assert entry["mean"] == pytest.approx(np.mean(errors))


def test_a_resumed_study_has_the_numbers_of_an_uninterrupted_one(studied, tmp_path):
    folder = shutil.copytree(studied, tmp_path / "resumed")
    # As if it had been killed after some cells, one of them half written.
    for path in (folder / "cells").glob("fit-linear*"):
        path.unlink()
    damaged = next((folder / "cells").glob("choose-linear*-6-v*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:-40])
    for name in ("errors.csv", "table.csv", "curve.png"):
        (folder / name).unlink()
    study_labels(out=folder, resume=True, terminal=Terminal(quiet=True))
    assert record(folder)["results"] == record(studied)["results"]
    for name in ("errors.csv", "table.csv", "curve.png", "curve.svg"):
        assert (folder / name).read_bytes() == (studied / name).read_bytes()


def test_a_study_reports_the_versions_the_data_and_one_reading_of_the_test_split(studied):
    content = record(studied)
    assert content["complete"] and content["test_reads"] == 1
    assert {"jax", "twostage-jax"} <= content["versions"].keys()
    assert content["data"]["fingerprint"].startswith("sha256:")


def test_folds_are_stratified_and_need_two_labels_of_each_class(data):
    dataset = load(data, 0)
    draws = make_draws(dataset, 12, 0, 2)
    weights = fold_weights(draws)
    assert len(weights) == 4
    for weight in weights:
        for label in draws.label:
            assert set(label[weight > 0]) == set(label[weight == 0]) == {0, 1, 2}
    assert not len(fold_weights(make_draws(dataset, 5, 0, 2)))


def test_features_of_ones_own_are_read_in_the_order_of_the_source(done, data, tmp_path):
    arrays = np.load(data.removeprefix("npz:"))
    path = tmp_path / "own.npz"
    train = arrays["x_train"].reshape(-1, 16) / 255
    np.savez(path, train=train, test=arrays["x_test"].reshape(-1, 16) / 255)
    arms = ["pixels:knn", f"features:{path}"]
    result = study(done, tmp_path / "s", counts=[6], arms=arms, protocols=["knn"])
    pixels = result.predictions("pixels:knn", 6)["predicted"]
    own = result.predictions("features-own:knn", 6)["predicted"]
    np.testing.assert_array_equal(pixels, own)
    np.savez(path, train=train[:-1], test=train)
    with pytest.raises(UserError, match="train has 95 rows, but the source has 96"):
        study(done, tmp_path / "t", arms=[f"features:{path}"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--counts 5000", "--counts 5000 does not fit 76 labelled training examples"),
        ("--counts 2", "--counts 2 does not fit"),
        ("--counts 3,x", "--counts has 'x': give numbers and all"),
        ("--counts 3,3", "give each number of labels once"),
        ("--draws 0", "--draws is 0"),
        ("--arms frozn", "unknown arm 'frozn'"),
        ("--protocols lin", "unknown protocol 'lin'"),
        ("--protocols finetune", "give --arms finetuned"),
        ("--arms features:/nowhere.npz", "cannot read /nowhere.npz"),
        ("--preset quick", "--from gives one"),
        ("--pretrain.epochs 1", "leave the --pretrain flags out"),
        ("--resume", "add --out DIR"),
        ("--resume --out /nowhere", "is not the folder of a study"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_no_folder(
    options, message, done, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", "labels", "--from", str(done), *options.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_resumed_study_keeps_its_settings(studied, capsys):
    command = ["study", "labels", "--resume", "--out", str(studied)]
    assert cli.main([*command, "--draws", "7"]) == 2
    assert "was started with another --draws" in capsys.readouterr().err


def test_a_folder_with_a_study_is_not_overwritten(studied, done, capsys):
    assert cli.main(["study", "labels", "--from", str(done), "--out", str(studied)]) == 2
    assert "already contains a study" in capsys.readouterr().err
