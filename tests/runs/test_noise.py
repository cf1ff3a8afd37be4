"""`twostage study noise`: figures, advice and resumption on the tiny data set."""

import csv
import dataclasses

import numpy as np
import pytest

from tests import tiny
from twostage_jax.config.groups import PretrainConfig
from twostage_jax.config.studies import NoiseStudy, check_study
from twostage_jax.data.labels import flip_labels
from twostage_jax.data.sources import load
from twostage_jax.errors import UserError
from twostage_jax.runs.study.noise import check_noise
from twostage_jax.runs.study.noise_arms import default_arms, parse_arms
from twostage_jax.runs.study.noise_labels import Noise, draw_noisy
from twostage_jax.runs.study.start import run_study
from twostage_jax.runs.trials import INITIAL, stage_key
from twostage_jax.show.terminal import Terminal

ARMS = ("frozen:linear-elr", "frozen:knn-3", "random:ridge", "supervised")
OPTIONS = {"arms": ARMS, "rates": (0.0, 0.4), "asymmetric": (0.2,), "draws": 2}


def study(data, folder, **options):
    pretrain = PretrainConfig(**tiny.PRETRAIN)
    values = {"epochs": 2, "end_to_end_epochs": 1, "validation": tiny.VALIDATION, **OPTIONS}
    return NoiseStudy(data=data, out=folder, pretrain=pretrain, **{**values, **options})


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise") / "study"
    _, content = run_study(study(data, folder), Terminal(quiet=True))
    return folder, content


def test_figures_can_be_computed_from_the_saved_predictions(finished):
    folder, content = finished
    assert content["complete"] and content["test_reads"] == 1
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Two draws of three noises for frozen heads, one for networks trained end to end.
    assert [sum(row["arm"] == arm for row in rows) for arm in ARMS] == [6, 6, 6, 3]
    for row in rows:
        saved = np.load(folder / "predictions" / f"{row['arm'].replace(':', '-')}.npz")
        name = f"{row['noise']}-{float(row['rate']):g}"
        group = saved["noise"].tolist().index(name)
        predicted = saved["test"][group, int(row["draw"])]
        right = predicted == saved["test_label"]
        assert float(row["accuracy"]) == pytest.approx(right.mean())
        classes = [right[saved["test_label"] == k].mean() for k in range(tiny.CLASSES)]
        assert float(row["worst_class_accuracy"]) == pytest.approx(min(classes))
        assert float(row["balanced_accuracy"]) == pytest.approx(np.mean(classes))
        noisy = saved["validation_noisy_label"][group, int(row["draw"])]
        held_out = saved["validation"][group, int(row["draw"])] == noisy
        assert float(row["noisy_validation_accuracy"]) == pytest.approx(held_out.mean())
    assert {path.name for path in folder.glob("noise.*")} == {"noise.png", "noise.svg"}


def test_advice_is_compared_with_the_best_arm_on_test(finished):
    _, content = finished
    results = content["results"]
    for entry in results["advice"]:
        test = {
            x["arm"]: x["accuracy"]["mean"]
            for x in results["table"]
            if x["noise"] == entry["noise"]
        }
        assert entry["accuracy"] == test[entry["chosen"]]
        assert entry["gap"] == pytest.approx(max(test.values()) - entry["accuracy"], abs=1e-5)


def test_an_interrupted_study_resumes_to_the_same_numbers(data, tmp_path, finished):
    folder = tmp_path / "study"
    (tmp_path / "matrix.csv").write_text("0.9,0.1,0\n0,1,0\n0,0.2,0.8\n")
    asked = study(data, folder, arms=ARMS[1:3], transition=tmp_path / "matrix.csv")
    run_study(asked, Terminal(quiet=True))
    scores = (folder / "scores.csv").read_bytes()
    (folder / "cells" / "arm-random-ridge.npz").unlink()
    before = (folder / "cells" / "arm-frozen-knn-3.npz").stat().st_mtime_ns
    run_study(NoiseStudy(out=folder, resume=True), Terminal(quiet=True))
    assert (folder / "scores.csv").read_bytes() == scores
    assert (folder / "cells" / "arm-frozen-knn-3.npz").stat().st_mtime_ns == before
    # An arm does not depend on the others.
    rows = scores.splitlines()[1:]
    other_noises = {row for row in rows if b",transition," not in row}
    assert len(other_noises) == len(rows) - 4
    assert other_noises <= set((finished[0] / "scores.csv").read_bytes().splitlines())


def test_training_labels_are_those_of_a_run_with_the_same_seed():
    label = np.arange(40, dtype=np.int32) % 4
    noisy = draw_noisy(label, [Noise("symmetric", 0.3)], [5], 4, None)
    expected = flip_labels(stage_key(5, "noise", INITIAL), label, np.float32(0.3), 4)
    np.testing.assert_array_equal(noisy[0, 0], expected)


REFUSED = [
    ({"rates": "0,1"}, "a value of --rates is 1.0: give a number of at least 0 and less than 1"),
    ({"rates": "0.2,0.2"}, "give each rate once"),
    ({"rates": "none", "asymmetric": "none"}, "leave no noise"),
    ({"validation": 0}, "needs validation examples: give --validation N"),
    ({"arms": "frozen:knn-77"}, "asks for 77 neighbours of 76 examples"),
    ({"arms": "frozen:mlp-gcee"}, "unknown arm 'frozen:mlp-gcee'"),
    ({"arms": "supervised-cce"}, "unknown arm"),
    ({"arms": "frozen:propagate-zou"}, "unknown arm"),
    ({"transition": "rows.csv"}, "row 1 of the transition matrix sums to 0.9"),
    ({"transition": "small.csv"}, "is [2, 2] for 3 classes"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_wrong_options_are_refused_before_anything_is_written(data, tmp_path, options, message):
    (tmp_path / "rows.csv").write_text("1,0,0\n0,0.9,0\n0,0,1\n")
    (tmp_path / "small.csv").write_text("1,0\n0,1\n")
    if "transition" in options:
        options = {"transition": tmp_path / options["transition"]}
    asked = study(data, tmp_path / "study", **options)
    with pytest.raises(UserError) as error:
        check_study(asked)
        check_noise(asked, load(data, asked.validation, None))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "study").exists()


def test_all_default_arms_are_known():
    for examples in (12, 60_000):
        arms = parse_arms(default_arms(examples), examples)
        assert len({arm.name for arm in arms}) == len(arms)
    assert dataclasses.asdict(NoiseStudy())["arms"] is None
