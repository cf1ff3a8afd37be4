"""Runs on data with copies, rare classes and images of no class."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

import twostage_jax as ts
from tests import tiny
from twostage_jax import cli
from twostage_jax.data.labels import balanced_weights
from twostage_jax.data.spec import Reading
from twostage_jax.errors import Corrupted
from twostage_jax.runs.evaluate import evaluate
from twostage_jax.runs.open import open_run
from twostage_jax.scores.figures import compute_scores
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.decoding import encode

COPIES = 6
QUIET = Terminal(quiet=True)
# The cheapest run: one epoch of an autoencoder, and a head in one call.
SHORT = {"pretrain": {"epochs": 1}, "head": {"protocol": "linear"}}


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A run on the tiny set with copies of training images in its test split, and its output."""
    folder = tmp_path_factory.mktemp("copied")
    spec = tiny.write(folder / "tiny.npz")
    with np.load(folder / "tiny.npz") as saved:
        arrays = dict(saved)
    arrays["x_test"][:COPIES] = arrays["x_train"][:COPIES]
    arrays["y_test"][0] = (arrays["y_train"][0] + 1) % 3
    arrays["y_test"][1:COPIES] = arrays["y_train"][1:COPIES]
    np.savez(folder / "tiny.npz", **arrays)
    terminal = Terminal(quiet=True)
    run = folder / "run"
    tiny.run(tiny.config(spec, run, validation=40, save_predictions=True, **SHORT), terminal)
    return run, terminal.notices


def test_copies_of_training_images_are_counted_listed_and_left_out_of_a_second_score(copied):
    folder, _ = copied
    record = tiny.stored(folder, "result.json")["duplicates"]
    test = [pairs for pairs in record["pairs"] if pairs["later"] == "test"]
    assert sum(pairs["identical"] for pairs in test) == record["affected"] == COPIES
    assert sum(pairs["relabelled"] for pairs in test) == 1
    rows = sorted(row for pairs in test for row in pairs["rows"])
    assert rows == [[k, k] for k in range(COPIES)]
    with np.load(folder / "predictions-test.npz") as saved:
        others = compute_scores(np.float64(saved["probability"])[COPIES:], saved["label"][COPIES:])
    assert record["test_without"]["accuracy"] == others.accuracy
    assert record["test_without"]["count"] == tiny.TEST - COPIES
    with (folder / "duplicates.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["split"] == "test"]
    assert [line["row"] for line in lines] == [line["copy_row"] for line in lines]
    assert [line["class"] == line["copy_class"] for line in lines].count(False) == 1
    assert {line["kind"] for line in lines} == {"identical"}


def test_many_copies_are_a_warning_before_training_and_before_the_accuracy(copied):
    _, notices = copied
    assert any("images are also in train (" in notice for notice in notices)
    last = f"{COPIES} of {tiny.TEST} test images (25.0 %) are copies of images in an earlier split"
    assert last in notices[-1]


def test_data_without_copies_have_neither_file_nor_second_score(done):
    record = tiny.stored(done, "result.json")["duplicates"]
    assert (record["pairs"], record["affected"]) == ([], 0)
    assert "test_without" not in record and "8x8 pixels" in record["reason"]
    assert not (done / "duplicates.csv").exists()


def imbalanced(path):
    """The tiny set, whose class 2 has five training images, in a noisier form."""
    image, label = tiny.images(300, 0)
    test_image, test_label = tiny.images(90, 1)
    rare = np.flatnonzero(label == 2)[5:]
    keep = np.setdiff1d(np.arange(300), rare)
    arrays = {"x_train": image[keep], "y_train": label[keep]}
    np.savez(path, **arrays, x_test=test_image, y_test=test_label)
    return f"npz:{path}"


@pytest.mark.parametrize("head", [{"protocol": "linear"}, {"widths": ()}])
def test_class_weights_raise_the_recall_of_a_rare_class(head, tmp_path, capsys):
    spec = imbalanced(tmp_path / "rare.npz")
    recall = {}
    for weights in ("none", "auto"):
        options = {"pretrain": {"epochs": 1}, "head": head, "class_weights": weights}
        config = tiny.config(spec, tmp_path / weights, validation=0, **options)
        result = tiny.run(config, Terminal())
        advice = "classes are uneven, 5 (class '2') to 100 training images: --class-weights auto"
        assert (advice in capsys.readouterr().out) == (weights == "none")
        recall[weights] = result.record["test"]["per_class"][2]["recall"]
        assert result.record["test"]["per_class"][2]["count"] == 30
    assert recall["auto"] > recall["none"]


def test_weighted_classes_count_the_same_in_each_trial():
    label = np.array([[0, 0, 0, 1], [2, 1, 1, 1]])
    weight = balanced_weights(label)
    for row, own_label in zip(weight, label, strict=True):
        sums = [row[own_label == k].sum() for k in np.unique(own_label)]
        np.testing.assert_allclose(sums, 2)


@pytest.mark.parametrize(
    ("protocol", "remedy"),
    [("propagate", "--head.class-sizes"), ("prototype", "choose a trained head, linear")],
)
def test_class_weights_are_refused_where_they_change_nothing(protocol, remedy, data, capsys):
    argv = ["run", "--data", data, "--class-weights", "auto", "--head.protocol", protocol]
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert f"--class-weights auto does not apply to {protocol}: " in error and remedy in error


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A run that leaves out the class 2 of the tiny set, with more images for a threshold."""
    folder = tmp_path_factory.mktemp("outside")
    image, label = tiny.images(300, 0)
    test_image, test_label = tiny.images(90, 1)
    np.savez(folder / "a.npz", x_train=image, y_train=label, x_test=test_image, y_test=test_label)
    config = tiny.config(
        f"npz:{folder / 'a.npz'}", folder / "run", validation=60, other_class="2", **SHORT
    )
    tiny.run(config)
    return folder / "run"


def test_a_class_of_no_class_is_not_trained_on_and_measured_on_test(outside):
    record = tiny.stored(outside, "result.json")
    assert record["data"]["classes"] == len(record["test"]["confusion"]) == 2
    assert (record["data"]["train"], record["data"]["validation"]) == (160, 40)
    assert tiny.stored(outside, "manifest.json")["classes"] == ["0", "1"]
    rejection = record["rejection"]
    assert (rejection["other_class"], rejection["other_count"]) == ("2", 30)
    assert rejection["auroc"][rejection["score"]] == max(rejection["auroc"].values())
    assert (rejection["target"], rejection["count"]) == (0.05, 40)


def test_an_opened_run_rejects_as_the_run_and_its_evaluation_measured(outside, tmp_path):
    folder = shutil.copytree(outside, tmp_path / "run")
    run = open_run(folder)
    rejection = run.rejection
    assert rejection is not None
    dataset = ts.load(run.config.data, 60)
    inside = dataset.test["label"] != 2
    scores, rejected = run.reject(dataset.test["image"])
    np.testing.assert_array_equal(rejected, scores > rejection.threshold)
    assert rejected[inside].mean() == rejection.known_rejected
    assert rejected[~inside].mean() == rejection.other_rejected
    correct = (run.predict(dataset.test["image"]) == dataset.test["label"])[inside]
    assert correct[~rejected[inside]].mean() == rejection.accepted_accuracy
    shares = evaluate(run, QUIET).rejection
    assert shares is not None and shares.inside == rejection.known_rejected
    assert (shares.other, shares.accuracy) == (
        rejection.other_rejected,
        rejection.accepted_accuracy,
    )


def test_the_other_class_of_another_source_is_not_scored_but_rejected(outside, tmp_path):
    run = open_run(shutil.copytree(outside, tmp_path / "run"))
    image, label = tiny.images(60, 5)
    spec = f"npz:{tmp_path / 'b.npz'}"
    np.savez(tmp_path / "b.npz", image=image, label=label)
    found = evaluate(run, QUIET, data=spec)
    assert found.assessment.scores.count == (label < 2).sum()
    assert found.rejection is not None
    _, rejected = run.reject(image)
    assert found.rejection.other == rejected[label == 2].mean()
    np.savez(tmp_path / "b.npz", image=image[label == 2], label=label[label == 2])
    with pytest.raises(ts.UserError, match="has only images of the other class '2': give it as"):
        evaluate(run, QUIET, data=spec)
    # The source is no other class of itself; its labels do not matter.
    shares = evaluate(run, QUIET, ood=spec).rejection
    assert shares is not None and shares.ood == rejected[label == 2].mean()


@pytest.mark.parametrize("place", ["run", "elsewhere"])
def test_errors_are_counted_by_group(place, copied, tmp_path, capsys):
    """Groups of the run's own test split, and of another source."""
    folder = shutil.copytree(copied[0], tmp_path / "run")
    run = open_run(folder)
    image, label = tiny.images(40, 5)
    group = np.arange(40) // 10
    for number in range(40):
        path = tmp_path / "files" / str(label[number]) / f"person{group[number]}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[number]).save(path)
    spec = f"folder:{tmp_path / 'files'}"
    if place == "run":
        config = tiny.config(spec, tmp_path / "own", validation=8, group_by="person[0-9]", **SHORT)
        run = open_run(tiny.run(config).folder)
        summary = run.record.groups
        found = evaluate(run, Terminal())
        assert encode(found.groups) == encode(summary)
    else:
        reading = Reading(group_by="person[0-9]")
        found = evaluate(run, Terminal(), data=spec, reading=reading)
        predicted = run.predict(image[..., None])
        assert found.groups is not None and len(found.groups.groups) == 4
        for scores in found.groups.groups:
            rows = group == int(scores.name.removeprefix("person"))
            assert scores.errors == (predicted != label)[rows].sum() and scores.count == 10
        assert found.groups.accuracy == found.assessment.scores.accuracy
    assert "by group: " in capsys.readouterr().out


def test_images_without_groups_have_no_errors_by_group(copied):
    assert tiny.stored(copied[0], "result.json").get("groups") is None
    found = evaluate(open_run(copied[0]), QUIET, split="validation")
    assert found.groups is None


def test_a_run_with_another_class_repeats_its_splits(outside):
    result = tiny.resume(outside)
    assert result.record["rejection"] == tiny.stored(outside, "result.json")["rejection"]


def test_a_corrupted_file_of_the_threshold_is_not_used(copied, tmp_path):
    folder = shutil.copytree(copied[0], tmp_path / "run")
    assert open_run(folder).rejection.score == "combined"
    path = folder / "rejection.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(Corrupted, match=r"rejection.npz is corrupted"):
        open_run(folder)


def test_a_model_file_rejects_what_the_run_rejects(copied, tmp_path):
    run = open_run(copied[0])
    assert run.rejection is not None and run.rejection.score == "combined"
    images = ts.load(run.config.data, 40).test["image"]
    score, rejected = run.reject(images)
    answer = ts.load_model(ts.export(run, tmp_path / "model.twostage")).assess(images)
    np.testing.assert_array_equal(answer.score, score)
    np.testing.assert_array_equal(answer.rejected, rejected)


def test_members_reject_by_the_features_of_all(data, tmp_path):
    tiny.run(tiny.config(data, tmp_path / "run", validation=40, members=2, **SHORT))
    run = open_run(tmp_path / "run")
    assert run.rejection is not None and run.rejection.score == "combined"
    assert len(run.gaussians) == 2
    images = ts.load(run.config.data, 40).test["image"]
    assert run.reject(images)[1].mean() == run.rejection.known_rejected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--other-class", "9"], "--other-class '9' is not a class of tiny: choose from 0, 1, 2"),
        (["--other-class", "2", "--validation", "0"], "and --validation is 0: give --validation N"),
        (["--other-class", "2", "--validation", "9"], "needs at least 19 validation images of the"),
    ],
)
def test_another_class_that_cannot_serve_is_refused(options, message, data, capsys):
    assert cli.main(["run", "--data", data, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_class_with_one_image_is_trained_on_and_has_no_recall(tmp_path):
    image, label = tiny.images(120, 0)
    keep = np.append(np.flatnonzero(label < 2), np.flatnonzero(label == 2)[0])
    np.savez(tmp_path / "a.npz", image=image[keep], label=label[keep])
    config = tiny.config(
        f"npz:{tmp_path / 'a.npz'}", tmp_path / "run", class_weights="auto", **SHORT
    )
    rare = tiny.run(config).record["test"]["per_class"][2]
    assert (rare["count"], rare.get("recall"), rare.get("interval")) == (0, None, None)
