"""The studies `suspects` and `next`, from the command to their files."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from tests import tiny
from twostage_jax import cli
from twostage_jax.config.parse import parse
from twostage_jax.config.studies import SuspectStudy
from twostage_jax.runs.open import open_run
from twostage_jax.runs.sources import load_own
from twostage_jax.runs.study.ordering import label_order
from twostage_jax.runs.study.start import STUDIES, report_labels, run_study
from twostage_jax.show.terminal import Terminal


@pytest.fixture
def encoder(done, data):
    """Folder of the tiny run, and the file of its data."""
    return done, data.removeprefix("npz:")


def study(*words):
    folder, content = run_study(parse(["study", *map(str, words)]), Terminal(quiet=True))
    return folder, content["results"]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("few_waves")
def test_suspects_are_written_with_the_rows_of_the_source(encoder, tmp_path):
    run, data = encoder
    folder, results = study(
        "suspects", "--from", run, "--inject", "0.1", "--neighbours", "5", "--out", tmp_path / "a"
    )
    lines = rows(folder / "suspects.csv")
    label = np.load(data)["y_train"]
    assert len(lines) == tiny.TRAIN == results["labels"]
    assert [int(line["source"]) for line in lines] == [label[int(x["index"])] for x in lines]
    changed = [line["given"] != line["source"] for line in lines]
    assert sum(changed) == results["injected"] == round(0.1 * tiny.TRAIN)
    assert results["at_true_number"] == pytest.approx(np.mean(changed[: sum(changed)]))
    assert (folder / "suspects.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "study.json").read_text())["complete"]


def test_the_encoder_is_recorded_before_anything_is_computed(encoder, tmp_path, monkeypatch):
    def stopped(context):
        raise RuntimeError("stopped")

    kind = STUDIES[SuspectStudy]
    monkeypatch.setitem(STUDIES, SuspectStudy, kind._replace(compute=stopped))
    with pytest.raises(RuntimeError, match="stopped"):
        study("suspects", "--from", encoder[0], "--out", tmp_path / "a")
    content = json.loads((tmp_path / "a" / "study.json").read_text())
    manifest = json.loads((encoder[0] / "manifest.json").read_text())
    assert content["encoder"] == manifest["groups"]["encoder"]["sha256"]


@pytest.mark.parametrize(
    ("change", "words"), [({"labels": 30}, "with 30 labels"), ({"kept": [2]}, "chose the epoch")]
)
def test_labels_that_stage_1_has_used_are_reported(encoder, change, words):
    run = open_run(encoder[0])
    terminal = Terminal(quiet=True)
    report_labels(run, terminal)
    assert not terminal.notices
    record = dataclasses.replace(run.manifest.pretrain, **change)
    manifest = dataclasses.replace(run.manifest, pretrain=record)
    report_labels(dataclasses.replace(run, manifest=manifest), terminal)
    assert words in terminal.notices[0]


def test_what_to_label_next_comes_back_as_labels(encoder, tmp_path):
    run, data = encoder
    folder, _ = study("next", "--from", run, "--budget", "4", "--out", tmp_path / "a")
    lines = rows(folder / "next.csv")
    assert len(lines) == 4 and {line["label"] for line in lines} == {""}
    assert (folder / "next.png").read_bytes().startswith(b"\x89PNG")
    # A person fills the column in; the next list has other images.
    label = np.load(data)["y_train"]
    filled = "".join(f"{x['index']},{label[int(x['index'])]}\n" for x in lines)
    path = tmp_path / "filled.csv"
    path.write_text(f"index,label\n{filled}")
    options = ("--budget", "72", "--labelled", path, "--strategy", "margin")
    folder, results = study("next", "--from", run, *options, "--out", tmp_path / "b")
    assert results["labelled"] == 4 and results["unlabelled"] == 72
    chosen = [line["index"] for line in rows(folder / "next.csv")]
    assert len(set(chosen)) == 72
    assert not set(chosen) & {line["index"] for line in lines}


def test_the_order_of_labelling_begins_as_the_study(encoder, tmp_path):
    run, data = encoder
    _, results = study("next", "--from", run, "--budget", "20", "--out", tmp_path / "a")
    opened = open_run(run)
    train = load_own(opened, f"npz:{data}", None)
    features = opened.features(train.train["image"])
    order = label_order(features, np.empty(0, np.int32))
    assert train.rows["train"][order[:20]].tolist() == results["index"]
    assert sorted(order.tolist()) == list(range(tiny.TRAIN))
    # Images with a label are left out, wherever they are.
    rest = label_order(features, order[:70])
    assert sorted(rest.tolist()) == sorted(order[70:].tolist())


def test_strategies_are_compared_on_the_same_seeds(encoder, tmp_path):
    run, _ = encoder
    options = ("--compare", "--counts", "6", "--draws", "2", "--budget", "1")
    folder, results = study("next", "--from", run, *options, "--out", tmp_path / "a")
    table = results["comparison"]["table"]
    assert (table[0]["strategy"], table[0]["labels"]) == ("typical", 6)
    random = {x["labels"]: x["error"] for x in table if x["strategy"] == "random"}
    for line in table:
        assert line["difference"] == pytest.approx(line["error"] - random[line["labels"]])
    # Resumed, it takes the errors from its cells.
    content = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps(content | {"complete": False}))
    for cell in (folder / "cells").glob("random-*.npz"):
        cell.unlink()
    assert study("next", "--resume", "--out", folder)[1] == results


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("suspects --inject 1.5", "--inject is 1.5: give a share from 0 to 1"),
        ("suspects --inject -0.1", "--inject is -0.1"),
        ("suspects --inject-kind symmetric", "--inject-kind needs a share"),
        ("suspects --neighbours 76", "--neighbours 76 does not fit 76 training examples"),
        ("next", "give --budget N"),
        ("next --budget 77", "a budget of 77 does not fit 76 unlabelled images"),
        ("next --budget 3 --strategy margin", "margin needs the probabilities"),
        ("next --budget 3 --labelled missing.csv", "cannot read"),
        ("next --budget 3 --counts 3", "add --compare"),
        ("next --budget 3 --compare --counts 77", "--counts does not fit 76"),
        ("next --budget 3 --augment objects", "--augment is only for training an encoder"),
    ],
)
def test_a_study_that_does_not_fit_ends_with_one_line(encoder, tmp_path, capsys, words, message):
    kind, *options = words.split()
    out = tmp_path / "out"
    status = cli.main(["study", kind, "--from", str(encoder[0]), "--out", str(out), *options])
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and message in error
    assert not out.exists()
