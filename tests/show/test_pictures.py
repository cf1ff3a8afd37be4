"""Pictures: PNG files of one width, the same for the same figures, for images of any kind."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from twostage_jax.scores.sweep import SweepPoint, SweepRecord
from twostage_jax.show.figure import short_name
from twostage_jax.show.mosaics import as_rgb, draw_mistakes, draw_reconstructions, find_mistakes
from twostage_jax.show.plots import plot_confusion, plot_curves, plot_sweep

RANDOM = np.random.RandomState(0)
NAMES = ["a $name", "ein \x1b[2J langer Name eines Tieres", "\u732b"]


def check(draw, *arguments):
    """Draw twice, and return the size of the picture."""
    file = draw(*arguments)
    picture = Image.open(io.BytesIO(file))
    assert picture.format == "PNG" and picture.width == 1050  # 7 inches at 150 dpi
    assert "Software" not in picture.info
    assert file == draw(*arguments)
    return picture.size


def record(stage, epoch, members=False, accuracy=None):
    figures = {} if accuracy is None else {"accuracy": accuracy}
    values = {"loss": 1 / epoch, **figures}
    lists = {f"{prefix}{n}": [x, None] for prefix in ("", "validation_") for n, x in values.items()}
    return SimpleNamespace(
        stage=stage,
        epoch=epoch,
        loss=values["loss"],
        metrics=figures,
        validation=values,
        members=lists if members else {},
    )


@pytest.mark.parametrize("members", [False, True])
def test_curves_of_both_stages(members):
    records = [record("pretrain", epoch, members) for epoch in range(1, 15)]
    check(plot_curves, [*records, record("head", 1, members, accuracy=0.5)])
    # Without validation, and with an epoch in which all members have diverged.
    lost = record("pretrain", 1)
    lost.loss, lost.validation = None, {}
    check(plot_curves, [lost, *records])


@pytest.mark.parametrize("classes", [2, 10, 30, 120])
def test_confusion_of_any_number_of_classes(classes):
    confusion = np.diag(RANDOM.randint(0, 1000, classes)) + RANDOM.randint(0, 3, (classes, classes))
    confusion[0] = 0  # a class without examples
    width, height = check(plot_confusion, confusion.tolist(), (NAMES * classes)[:classes], "test")
    assert 0.4 * width < height < 1.2 * width


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8, 1), (60, 12, 2), (12, 60, 3), (9, 9, 4)])
def test_images_of_any_shape(shape):
    images = RANDOM.randint(0, 256, (12, *shape)).astype(np.uint8)
    label = np.arange(12) % 3
    probability = RANDOM.dirichlet(np.ones(3), 12)
    _, height = check(draw_reconstructions, images[:10], images[:10], "test")
    assert height <= 12.5 * 150
    mistakes = find_mistakes(probability, images, label)
    _, height = check(draw_mistakes, mistakes, NAMES, "test")
    assert height <= 13 * 150


def test_the_most_confident_mistakes_come_first():
    probability = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    mistakes = find_mistakes(probability, images, np.array([0, 0, 1, 0]))
    assert mistakes.images.ravel().tolist() == [1, 3, 2]
    assert mistakes.predicted.tolist() == [1, 1, 0]
    assert mistakes.confidence.tolist() == [0.8, 0.7, 0.6]
    assert (mistakes.errors, mistakes.count) == (3, 4)


def test_a_run_without_mistakes_has_a_picture_that_says_so():
    images = np.zeros((2, 4, 4, 1), np.uint8)
    check(draw_mistakes, find_mistakes(np.eye(2), images, np.arange(2)), NAMES, "test")


def test_images_with_other_channels_are_shown_in_grey():
    assert as_rgb(np.array([[[1, 3]]], np.uint8)).tolist() == [[[2, 2, 2]]]


def test_a_long_name_keeps_its_beginning_and_end():
    assert short_name("class number 17", 12) == "class n…r 17"
    assert short_name("\x1b[2J", 12) == "\\x1b[2J"


def test_the_picture_of_a_sweep():
    def sweep(fields):
        first, *_ = fields
        values = {field: numbers[0] for field, numbers in fields.items()}
        scores = {"accuracy": [0.5, 0.7], "nll": [1.0, 1.5]}
        points = [SweepPoint(values | {first: value}, 2, scores) for value in fields[first]]
        return SweepRecord(fields, points, chosen=1)

    one = sweep({"noise": [0.0, 0.2]})
    check(plot_sweep, one)
    # A second field adds lines and names them.
    assert plot_sweep(one) != plot_sweep(
        sweep({"noise": [0.0, 0.2], "head.learning-rate": [0.001, 0.1]})
    )
