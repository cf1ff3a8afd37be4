"""Tables and pictures of the records of `scores`, within 80 columns."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from twostage_jax.scores.detection import Detection
from twostage_jax.scores.figures import SweepPoint, SweepRecord, assess, compute_scores
from twostage_jax.show import tables
from twostage_jax.show.plots import plot_sweep
from twostage_jax.show.terminal import Terminal

RANDOM = np.random.RandomState(0)
LABEL = RANDOM.randint(0, 3, 40)
PROBABILITY = RANDOM.dirichlet(np.ones(3), (2, 40)).astype(np.float32)
ASSESSMENT = assess(PROBABILITY, LABEL, (PROBABILITY, LABEL), reconstruction=0.1)


@pytest.fixture
def output(capsys):
    """Function that gives the words printed so far, after a check that they fit."""

    def read():
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
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


def test_a_result_shows_scores_members_sweep_and_uncertainty(output):
    result = SimpleNamespace(
        validation=compute_scores(PROBABILITY[0, :0], LABEL[:0]),
        test=ASSESSMENT.scores,
        ensemble=SimpleNamespace(rows=[0, 1], diverged=["member 2"]),
        summary=ASSESSMENT.summary,
        sweep=sweep({"head.learning-rate": [0.1, 0.2]}),
        uncertainty=ASSESSMENT.uncertainty,
        pretrain=SimpleNamespace(objective="autoencoder", epochs=1, loss=0.25),
        frozen=SimpleNamespace(after="sha256:00"),
        test_reads=1,
        seconds={"data": 0.0, "head": 1.5, "total": 2.0},
    )
    tables.show_result(result, Path("runs/a"), Terminal())
    text = output()
    for words in (
        f"{ASSESSMENT.scores.accuracy:.4f}",
        "2 members on test",
        "diverged member 2: not in the ensemble",
        "sweep on validation",
        "coverage of 95 % prediction sets",
        "95 % interval for that coverage",
        "stage 1 autoencoder, 1 epoch, loss 0.2500",
        "unchanged: sha256:00",
        "test split of the run: read once",
        "seconds 2.0 in total (head 1.5)",
        "run runs/a",
    ):
        assert words in text
    assert "read 3 times, so it is no longer a fresh test" in tables.times_read(3)


def test_a_solo_result_without_validation_has_dashes_and_no_member_tables(output):
    solo = assess(PROBABILITY[:1], LABEL)
    tables.show_members(solo.summary, 1, "test", Terminal())
    empty = compute_scores(PROBABILITY[0, :0], LABEL[:0])
    tables.show_scores("results", {"validation": empty}, Terminal())
    tables.show_uncertainty(solo.uncertainty, "test", Terminal())
    text = output()
    assert "members" not in text and "validation │ - │ - │ - │ - │ 0" in text
    assert "temperature" not in text and "prediction sets" not in text and "mutual" not in text


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
    tables.show_classes(scores, ["cat", "dog", "bird"], Terminal())
    text = output()
    assert "bird (2)" in text and "0.2500" in text


def test_detection_names_the_source_and_the_scores(output):
    table = {"maximum_probability": Detection(0.9, 0.25)}
    tables.show_detection(table, "npz:other.npz", Terminal())
    text = output()
    assert "out-of-distribution detection: npz:other.npz" in text
    assert "maximum probability" in text and "0.9000" in text and "0.2500" in text


def test_data_settings_and_plan_are_short_lines(output):
    terminal = Terminal()
    sizes = {"train": 100, "unlabelled": 54900, "validation": 5000, "test": 10000}
    tables.show_data("mnist", sizes, (28, 28, 1), 10, terminal)
    rows = [tables.PlanRow("head", 4, 2, 1, 2_900_000, 100_000)]
    tables.show_plan(rows, "applied once before stage 2", terminal)
    tables.show_groups("head", [("encoder", "frozen", 2000, 8000)], terminal)
    text = output()
    assert "mnist: 28x28x1 images, 10 classes" in text
    assert "100 train, 54,900 unlabelled, 5,000 validation, 10,000 test" in text
    assert "head: 4 members in 2 chunks on 1 device; 2.90 MB per member" in text
    assert "encoder: applied once before stage 2" in text
    assert "8,000" in text


def test_a_source_shows_counts_pixels_and_duplicates(output):
    counts = {"train": [3, 4], "validation": [1, 0], "test": [2, 2]}
    tables.show_dataset(
        "digits",
        (8, 8, 1),
        ["zero", "one"],
        counts,
        {"train": (0, 255, 77.5)},
        {"train and test": 7},
        "sha256:00",
        Terminal(),
        unlabelled=12,
        scale="0 to 16, scaled to 0 to 255",
        notes=["not used: meta"],
    )
    text = output()
    assert "unlabelled: 12 images" in text and "train and test: 7" in text
    assert "source: 0 to 16, scaled to 0 to 255" in text and "note: not used: meta" in text
    assert "train: pixel values 0 to 255, mean 77.50" in text and "fingerprint sha256:00" in text


def test_the_picture_of_a_sweep_is_a_png_and_repeatable():
    one = sweep({"noise": [0.0, 0.2]})
    file = plot_sweep(one)
    assert Image.open(io.BytesIO(file)).format == "PNG"
    assert file == plot_sweep(one)
    # A second field adds lines and names them.
    assert file != plot_sweep(sweep({"noise": [0.0, 0.2], "head.learning-rate": [0.001, 0.1]}))
