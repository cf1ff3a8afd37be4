import numpy as np
import pytest

from twostage_jax.errors import UserError
from twostage_jax.scores.ranking import count_wrong_labels, precision_recall


def noisy(flips, count=4000, classes=4, seed=0):
    """Confident probabilities of the true class, and labels of which some are another class."""
    random = np.random.RandomState(seed)
    true = random.randint(0, classes, count)
    label = true.copy()
    label[:flips] = (true[:flips] + 1) % classes
    probability = np.full((count, classes), 0.1 / (classes - 1))
    probability[np.arange(count), true] = 0.9
    probability += random.uniform(0, 0.05, probability.shape)
    return probability / probability.sum(1, keepdims=True), label


@pytest.mark.parametrize("flips", [0, 40, 400, 1600])
def test_the_number_of_wrong_labels_is_estimated_with_an_interval(flips):
    estimate = count_wrong_labels(*noisy(flips))
    assert estimate.low <= flips <= estimate.high
    assert abs(estimate.count - flips) <= 0.02 * flips + 10


def test_the_joint_counts_say_which_class_is_taken_for_which():
    probability, label = noisy(800)
    joint = count_wrong_labels(probability, label).joint
    assert joint.sum(1) == pytest.approx(np.bincount(label))
    # A label of the next class comes from the class before it.
    assert joint[1, 0] > 100 > joint[0, 1]


def test_a_class_without_examples_takes_no_part():
    probability, label = noisy(40)
    wider = np.concatenate([probability, np.zeros((len(label), 1))], axis=1)
    assert count_wrong_labels(wider, label).count == count_wrong_labels(probability, label).count


def test_precision_without_a_wrong_label_is_refused():
    with pytest.raises(UserError, match="recall is not defined"):
        precision_recall(np.arange(3), np.zeros(3, bool), [1])
    with pytest.raises(UserError, match="do not fit 3"):
        precision_recall(np.arange(3), np.ones(3, bool), [4])
