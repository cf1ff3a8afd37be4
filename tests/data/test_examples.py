"""All examples of a source, expressed in the classes of a run."""

import numpy as np
import pytest

import twostage_jax as ts
from tests.data.builders import arrays, write_npz
from twostage_jax.data.sources import load_examples

IMAGE, LABEL = arrays()
DIGITS = [str(k) for k in range(10)]
NAMES = np.array(["ant", "bee", "cat"])


def load(tmp_path, classes=DIGITS, split=None, **values):
    return load_examples(write_npz(tmp_path / "a.npz", **values), classes, split)


@pytest.mark.parametrize("chosen", [LABEL < 9, LABEL == 1, np.arange(60) == 7])
def test_all_examples_are_kept_even_of_one_class_or_one_image(chosen, tmp_path):
    examples = load(tmp_path, image=IMAGE[chosen], label=LABEL[chosen])
    np.testing.assert_array_equal(examples.image[..., 0], IMAGE[chosen])
    np.testing.assert_array_equal(examples.label, LABEL[chosen])
    np.testing.assert_array_equal(examples.rows, np.arange(chosen.sum()))
    assert (examples.name, examples.part, examples.notes) == ("a", "all", ())
    assert examples.image.dtype == np.uint8 and examples.label.dtype == np.int32


def test_a_single_split_is_all_and_a_chosen_one_is_noted(tmp_path):
    alone = load(tmp_path, x_test=IMAGE, y_test=LABEL)
    assert (alone.part, len(alone.label)) == ("all", 60)
    assert load(tmp_path, split="test", image=IMAGE, label=LABEL).part == "all"
    both = {"x_train": IMAGE, "y_train": LABEL, "x_test": IMAGE[:9], "y_test": LABEL[:9]}
    test = load(tmp_path, **both)
    assert (test.part, len(test.label)) == ("test", 9)
    assert test.notes == ("read the test split; the source also has train (60)",)
    assert len(load(tmp_path, split="train", **both).label) == 60
    with pytest.raises(ts.UserError, match="no validation split of its own, only train, test"):
        load(tmp_path, split="validation", **both)
    with pytest.raises(ts.UserError, match="has no labelled examples"):
        load(tmp_path, image=IMAGE)


def test_fingerprints_are_those_of_the_data_set(tmp_path):
    both = {"x_train": IMAGE, "y_train": LABEL, "x_test": IMAGE[:9], "y_test": LABEL[:9]}
    spec = write_npz(tmp_path / "a.npz", **both, unlabelled=IMAGE[:4])
    dataset, examples = ts.load(spec), load_examples(spec, DIGITS)
    assert examples.fingerprint == dataset.fingerprint
    assert examples.test_fingerprint == dataset.parts["test"]
    # The same images under other names are the same test.
    copy = load(tmp_path, classes=NAMES, image=IMAGE[:9], label=NAMES[LABEL[:9]])
    assert copy.test_fingerprint == dataset.parts["test"]


def test_labels_are_matched_by_name_or_else_by_number(tmp_path):
    run = ["bee", "ant", "cat"]
    by_name = np.array([1, 0, 2])[LABEL]
    text = load(tmp_path, run, image=IMAGE, label=NAMES[LABEL])
    np.testing.assert_array_equal(text.label, by_name)
    named = load(tmp_path, run, image=IMAGE, label=LABEL, class_names=NAMES)
    np.testing.assert_array_equal(named.label, by_name)
    numbers = load(tmp_path, run, image=IMAGE, label=LABEL)
    np.testing.assert_array_equal(numbers.label, LABEL)
    assert "0 is the first class of the run" in numbers.notes[-1]
    # A run on labels 1 to 26 has classes of these names.
    letters = [str(k) for k in range(1, 27)]
    for label in (LABEL + 1, LABEL.astype(str), np.eye(9)[LABEL]):
        present = set(np.unique(LABEL + 1).tolist()) if label is not LABEL else set()
        if label.ndim == 1 and label.dtype.kind == "u":
            some = load(tmp_path, letters, image=IMAGE, label=label)
            np.testing.assert_array_equal(some.label, LABEL)
            assert present == {1, 2, 3}
        else:
            with pytest.raises(ts.UserError, match="class '0', which the run was not trained on"):
                load(tmp_path, letters, image=IMAGE, label=label)


def test_a_label_that_is_no_class_of_the_run_is_refused(tmp_path):
    with pytest.raises(ts.UserError, match="class '2', which .* examples of its classes, 0, 1"):
        load(tmp_path, ["0", "1"], image=IMAGE, label=LABEL)
    with pytest.raises(ts.UserError, match="class 'cat', which"):
        load(tmp_path, ["ant", "bee"], image=IMAGE, label=NAMES[LABEL])


def test_examples_without_a_label_are_left_out(tmp_path):
    label = np.where(np.arange(60) % 4 == 0, -1, LABEL.astype(int))
    examples = load(tmp_path, image=IMAGE, label=label)
    np.testing.assert_array_equal(examples.label, label[examples.rows])
    np.testing.assert_array_equal(examples.image[..., 0], IMAGE[examples.rows])
    assert len(examples.label) == 45 and "15 examples" in examples.notes[0]
