"""The class that stands for none of the others."""

import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from tests.data.builders import write_npz
from twostage_jax.data.outsiders import without_class

DIGITS = ts.load("digits")


def test_the_other_classes_keep_their_images_rows_and_names():
    dataset = without_class(DIGITS, "3")
    assert dataset.classes == tuple("012456789")
    for name in ("train", "validation", "test"):
        before = DIGITS.splits[name]
        after = dataset.splits[name]
        kept = before["label"] != 3
        np.testing.assert_array_equal(after["image"], before["image"][kept])
        np.testing.assert_array_equal(dataset.rows[name], DIGITS.rows[name][kept])
        names = [dataset.classes[k] for k in after["label"]]
        assert names == [DIGITS.classes[k] for k in before["label"][kept]]
        np.testing.assert_array_equal(dataset.outsiders[name], before["image"][~kept])
    # They identify the source, whatever is left out.
    assert (dataset.fingerprint, dataset.parts) == (DIGITS.fingerprint, DIGITS.parts)


def test_the_test_images_of_the_class_are_under_lock():
    training, lockbox = without_class(DIGITS, "3").lock()
    assert set(training.outsiders) == {"train", "validation"}
    assert lockbox.outsiders is not None and len(lockbox.outsiders) == 37


def test_a_class_that_is_not_there_and_one_that_leaves_a_single_class_are_refused(tmp_path):
    with pytest.raises(ts.UserError, match="'33' is not a class of digits: did you mean '3'"):
        without_class(DIGITS, "33")
    image, label = tiny.images(60, 0)
    spec = write_npz(tmp_path / "two.npz", image=image[label > 0], label=label[label > 0] - 1)
    with pytest.raises(ts.UserError, match=r"leaves a single class \(1\) in two"):
        without_class(ts.load(spec), "0")
