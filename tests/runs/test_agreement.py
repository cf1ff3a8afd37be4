import numpy as np
import pytest

import twostage_jax as ts
from twostage_jax.errors import UserError
from twostage_jax.runs.study import agreement
from twostage_jax.runs.study.suspects import change_labels
from twostage_jax.scores.ranking import precision_recall
from twostage_jax.stages.stage import new_key

pytestmark = pytest.mark.usefixtures("few_waves")
CLASSES = 3
COUNT = 153  # no multiple of the folds


@pytest.fixture(scope="module")
def clouds():
    """Features of three well separated classes, all of them positive, and their labels."""
    random = np.random.RandomState(0)
    label = (np.arange(COUNT) % CLASSES).astype(np.int32)
    features = random.normal(size=(COUNT, 5)) + 8 * np.eye(CLASSES, 5)[label] + 20
    return features.astype(np.float32), label


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
def test_changed_labels_are_ranked_first_with_the_class_that_they_had(clouds, kind):
    features, label = clouds
    given = change_labels(label, 0.2, kind, CLASSES, new_key(3))
    suspects = ts.find_suspects(features, given, CLASSES)
    wrong = given != label
    number = int(wrong.sum())
    assert number == round(0.2 * COUNT)
    assert precision_recall(suspects.order, wrong, [number])[0].precision > 0.95
    assert (suspects.suggested[wrong] == label[wrong]).mean() > 0.95
    assert abs(suspects.estimate.count - number) <= 3


def test_a_head_has_not_seen_the_label_that_it_judges(clouds, monkeypatch):
    # The strength is chosen with all labels. Other shapes, so that the program is made anew.
    monkeypatch.setattr(agreement, "_STRENGTHS", (1e-3,))
    features = clouds[0][:-10]
    label = clouds[1][:-10]
    given = label.copy()
    before = ts.find_suspects(features, given, CLASSES)
    given[7] = (label[7] + 1) % CLASSES
    after = ts.find_suspects(features, given, CLASSES)
    # Its own fold ignores it, so its probabilities do not move.
    assert after.head[7] == pytest.approx(before.head[7], abs=1e-6)
    # The heads of the other folds have learned it.
    assert np.abs(after.head - before.head).max() > 1e-3


def test_asymmetric_changes_give_the_next_class():
    label = np.arange(8, dtype=np.int32) % 4
    assert change_labels(label, 1.0, "asymmetric", 4, new_key()).tolist() == [1, 2, 3, 0] * 2
    changed = change_labels(label, 0.5, "symmetric", 4, new_key())
    assert (changed != label).sum() == 4


def test_the_same_key_gives_the_same_bits(clouds):
    scores = [ts.find_suspects(*clouds, CLASSES, new_key(seed)).score for seed in (1, 1, 2)]
    assert (scores[0] == scores[1]).all() and (scores[0] != scores[2]).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neighbours": COUNT}, f"{COUNT} neighbours do not fit {COUNT} examples"),
        ({"folds": 1}, "1 folds do not fit"),
        ({"classes": 2}, "labels are out of range"),
        ({"classes": 1}, "1 class is too few"),
        ({"features": np.full((COUNT, 2), np.nan)}, "not finite"),
        ({"features": np.zeros((2, 2))}, r"shape \[2, 2\] for 153 labels"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(clouds, change, message):
    features, label = clouds
    with pytest.raises(UserError, match=message):
        ts.find_suspects(**{"features": features, "label": label, "classes": CLASSES} | change)
