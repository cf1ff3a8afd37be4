"""Lines and tables of the records of a run, within 80 columns."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from twostage_jax.scores.detection import Detection
from twostage_jax.scores.figures import assess, compute_scores
from twostage_jax.scores.interval import accuracy_interval
from twostage_jax.scores.sweep import SweepPoint, SweepRecord
from twostage_jax.show import start, tables
from twostage_jax.show.duplicates import show_duplicates
from twostage_jax.show.result import (
    show_chance,
    show_class_balance,
    show_evaluation,
    show_result,
    show_scarce_classes,
    times_read,
)
from twostage_jax.show.terminal import Terminal
from twostage_jax.show.uncertainty import show_uncertainty

CLASSES = ["cat", "dog", "bird"]
RANDOM = np.random.RandomState(0)
LABEL = RANDOM.randint(0, 3, 40)
PROBABILITY = RANDOM.dirichlet(np.ones(3), (2, 40)).astype(np.float32)
ASSESSMENT = assess(PROBABILITY, LABEL, (PROBABILITY, LABEL), reconstruction=0.1)


@pytest.mark.parametrize(("count", "verb"), [(1, "is"), (2, "are")])
def test_copies_are_counted_in_words(count, verb):
    terminal = Terminal(quiet=True)
    show_duplicates([("unlabelled", "test", 0, count)], {"test": 20}, True, "", terminal)
    words = f"{count} of 20 test images {verb} also in the unlabelled images ("
    assert terminal.notices[0].startswith(words)


@pytest.fixture
def output(capsys):
    """Function that gives the words printed so far, after a check that they fit."""

    def read():
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines()), default=0) <= 80
        return " ".join(text.split())

    return read


def sweep(fields, validation=True):
    first, *_ = fields
    points = [
        SweepPoint(
            {field: values[0] for field, values in fields.items()} | {first: value},
            2,
            {"accuracy": [0.5, 0.7], "nll": [1.0, 1.5]} if validation else None,
        )
        for value in fields[first]
    ]
    return SweepRecord(fields, points, chosen=1)


def result(**changes):
    """Result of an ensemble of two, as `show_result` reads it."""
    values = {
        "data": SimpleNamespace(labelled=1, unlabelled=54900, noise=0.0),
        "validation": compute_scores(PROBABILITY[0, :0], LABEL[:0]),
        "test": ASSESSMENT.scores,
        "member_test": ASSESSMENT.members,
        "ensemble": SimpleNamespace(rows=[0, 1], diverged=["member 2"]),
        "summary": ASSESSMENT.summary,
        "sweep": sweep({"head.learning-rate": [0.1, 0.2]}),
        "uncertainty": ASSESSMENT.uncertainty,
        "pretrain": SimpleNamespace(
            objective="autoencoder", epochs=1, loss=0.25, rank=None, labels=0
        ),
        "head": SimpleNamespace(protocol="ridge", epochs=0),
        "frozen": SimpleNamespace(after="sha256:00", groups=("encoder",)),
        "transductive": None,
        "transductive_note": None,
        "duplicates": None,
        "rejection": None,
        "test_reads": 1,
        "seconds": {"data": 0.0, "head": 1.5, "total": 2.0},
    }
    return SimpleNamespace(**(values | changes))


def test_a_result_ends_with_accuracy_interval_training_and_folder(capsys):
    show_result(result(sweep=None), Path("runs/a"), CLASSES, Terminal())
    lines = capsys.readouterr().out.splitlines()
    low, high = ASSESSMENT.scores.interval
    accuracy = f"{ASSESSMENT.scores.accuracy:.4f}"
    assert (
        lines[1] == f"test accuracy {accuracy}, 95 % interval {low:.4f} to {high:.4f} (40 images)"
    )
    assert len(lines) <= 12 and max(map(len, lines)) <= 80
    assert lines[-1].split() == ["folder", "runs/a"]
    text = " ".join(" ".join(lines).split())
    mean = np.mean(ASSESSMENT.members["accuracy"])
    for words in (
        f"ensemble of 2 members with mean accuracy {mean:.4f} (",
        "trained on 1 labelled image, 54,900 unlabelled",
        "stage 1 autoencoder, 1 epoch, loss 0.2500",
        "stage 2 ridge head, encoder unchanged (SHA-256), solved in one call",
        "diverged member 2; it is left out of the ensemble",
    ):
        assert words in text
    assert "calibration" not in text


def test_a_result_with_a_sweep_shows_the_choice_before_the_accuracy(output):
    show_result(result(), Path("runs/a"), CLASSES, Terminal())
    text = output()
    assert text.index("sweep on validation") < text.index("test accuracy")
    assert "sweep head.learning-rate 0.2, chosen on validation" in text


def test_a_verbose_result_has_all_figures_before_the_accuracy(output):
    show_result(result(sweep=None), Path("runs/a"), CLASSES, Terminal(verbose=True))
    text = output()
    for words in (
        "2 members on test",
        "expected calibration error: mean gap between confidence and accuracy",
        "not changed by stage 2, sha256:00",
        "head 1.5",
    ):
        assert 0 <= text.index(words) < text.index("test accuracy")


def test_an_accuracy_near_that_of_the_most_frequent_class_is_named(output):
    label = np.array([0] * 60 + [1] * 40)
    show_chance(compute_scores(np.eye(3)[label], label), CLASSES, Terminal())
    assert output() == ""
    show_chance(compute_scores(np.eye(3)[np.r_[label[:65], 35 * [0]]], label), CLASSES, Terminal())
    assert "chance predicting only cat has accuracy 0.6000, not measurably worse" in output()


def test_classes_with_few_examples_are_named_and_uneven_ones_balanced(output):
    label = np.array([0] * 40 + [1] * 3)
    probability = np.eye(3)[[0] * 42 + [1]]
    scores = compute_scores(probability, label)
    show_class_balance(scores, CLASSES, Terminal())
    show_scarce_classes(scores, "test", CLASSES, Terminal())
    text = output()
    assert "balanced accuracy 0.6667 (mean over classes); worst class dog, 0.3333" in text
    assert "few examples in test: dog has 3, bird has none" in text
    even = compute_scores(np.eye(3)[[0, 1, 2] * 10], np.array([0, 1, 2] * 10))
    show_class_balance(even, CLASSES, Terminal())
    show_scarce_classes(even, "test", CLASSES, Terminal())
    assert output() == ""


def test_a_temperature_that_made_test_worse_says_so(output):
    scores = SimpleNamespace(nll=0.12, ece=0.02, brier=0.1, confusion=[[1, 0], [0, 1]])
    worse = SimpleNamespace(nll=0.13, ece=0.01)
    figures = SimpleNamespace(
        predictive_entropy=0.1, mutual_information=None, aurc=0.1, temperature=0.7,
        calibrated=worse, conformal=None,
    )  # fmt: skip
    show_uncertainty(scores, figures, "test", Terminal())
    text = output()
    assert "negative log-likelihood with it: 0.1300 instead of 0.1200" in text
    assert "worse on test with it: negative log-likelihood" in text
    figures.calibrated = SimpleNamespace(nll=0.1, ece=0.01)
    show_uncertainty(scores, figures, "test", Terminal())
    assert "worse" not in output()


def test_an_evaluation_of_one_model_ends_with_its_accuracy(output):
    solo = assess(PROBABILITY[:1], LABEL)
    show_evaluation("runs/a on set", "test", solo, CLASSES, None, Terminal())
    text = output()
    assert text.index("test by class") < text.index("uncertainty") < text.index("test accuracy")
    assert "temperature" not in text and "prediction set" not in text and "mutual" not in text
    assert "members" not in text
    assert "read 3 times, so it is no longer a fresh test" in times_read(3)


def test_a_sweep_over_three_fields_fits_and_marks_the_chosen_point(output):
    fields = {
        "pretrain.learning-rate": [0.001, 0.0123],
        "head.learning-rate": [0.001],
        "head.label-smoothing": [0.1],
    }
    tables.show_sweep(sweep(fields), Terminal())
    assert output().count("chosen") == 1
    tables.show_sweep(sweep(fields, validation=False), Terminal())
    assert "0.6000" not in output()


def test_classes_show_their_most_frequent_error(output):
    probability = np.eye(3)[[0, 2, 2, 1]]
    scores = compute_scores(probability, np.array([0, 0, 0, 0]))
    tables.show_classes("accuracy by class", scores, CLASSES, Terminal())
    text = output()
    low, high = accuracy_interval(1, 4)
    for words in ("bird (2)", "0.2500", f"{low:.4f}", f"{high:.4f}"):
        assert words in text


def test_scores_of_two_splits_fit_into_80_columns(output):
    scores = ASSESSMENT.scores
    tables.show_scores("results", {"validation": scores, "test": scores}, Terminal())
    line = f"macro F1 (mean F1 of the classes) │ {scores.macro_f1:.4f} │ {scores.macro_f1:.4f}"
    assert " ".join(line.split()) in output().replace("validation", "")


def test_detection_names_the_source_and_the_scores(output):
    table = {"maximum_probability": Detection(0.9, 0.25)}
    tables.show_detection(table, "npz:other.npz", Terminal())
    text = output()
    assert "out-of-distribution detection: npz:other.npz" in text
    assert "maximum probability" in text and "0.9000" in text and "0.2500" in text


def test_the_start_of_a_run_is_short_lines(capsys):
    terminal = Terminal()
    start.show_device("cpu", 1, 2, {"jax": "0.10.2"}, "a GPU is not used", terminal)
    sizes = {"train": 100, "unlabelled": 54900, "test": 10000}
    data = SimpleNamespace(
        name="set", classes=CLASSES, image_shape=(8, 8, 1), scale="0 to 1", notes=("no names",)
    )
    start.show_data(data, sizes, terminal)
    start.show_plan([start.PlanRow("pretrain", 1, 1, 1, 1, 1)], "applied once", terminal)
    rows = [start.PlanRow("head", 4, 2, 1, 2_900_000, 100_000)]
    start.show_plan(rows, None, terminal)
    start.show_groups("head", [("encoder", "frozen", 2000, 8000)], terminal)
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("cpu on 2 cores; jax 0.10.2 notice: a GPU is not used set: 100 train, ")
    assert "54,900 unlabelled, 10,000 test; 3 classes; 8x8x1 images, values 0 to 1 no names" in text
    assert "head: 4 members in 2 chunks on 1 device, 2.90 MB per member" in text
    assert "pretrain" not in text and "applied" not in text and "8,000" not in text


def test_a_verbose_start_has_placement_and_groups(output):
    terminal = Terminal(verbose=True)
    start.show_plan([start.PlanRow("pretrain", 1, 1, 1, 1, 1)], "applied once", terminal)
    start.show_groups("head", [("encoder", "frozen", 2000, 8000)], terminal)
    text = output()
    assert "pretrain: 1 member in 1 chunk" in text and "applied once" in text and "8,000" in text


def test_a_source_shows_counts_and_pixels(output):
    counts = {"train": [3, 4], "validation": [1, 0], "test": [2, 2]}
    tables.show_dataset(
        "digits",
        (8, 8, 1),
        ["zero", "one"],
        counts,
        {"train": (0, 255, 77.5)},
        "sha256:00",
        Terminal(),
        unlabelled=12,
        scale="0 to 16, scaled to 0 to 255",
        notes=["not used: meta"],
    )
    text = output()
    assert "unlabelled: 12 images" in text
    assert "source: 0 to 16, scaled to 0 to 255" in text and "note: not used: meta" in text
    assert "train: pixel values 0 to 255, mean 77.50" in text and "fingerprint sha256:00" in text
