"""Labels in all forms that people have, and the ones that cannot be read."""

import numpy as np
import pytest

from twostage_jax.data.pixels import Array
from twostage_jax.data.source import CLASS_LIMIT
from twostage_jax.data.targets import as_labels, read_class_names
from twostage_jax.errors import UserError

LABEL = np.array([2, 0, 1, 1, 2, 0])
NAMES = np.array(["cat", "ant", "bee"])  # in the order of the labels


def convert(*labels, classes=()):
    """Labels of one or more splits as int32, class names, and the notes."""
    notes = []
    parts = dict(zip(("train", "test"), labels, strict=False))
    arrays = {name: Array(np.asarray(label), f"file: {name}") for name, label in parts.items()}
    shapes = {name: array.values.shape for name, array in arrays.items()}
    counts = {name: shape[1] if shape == (1, 6) else shape[0] for name, shape in shapes.items()}
    converted, names = as_labels(arrays, counts, classes, notes)
    assert all(label.dtype == np.int32 for label in converted.values())
    return [label.tolist() for label in converted.values()], names, " / ".join(notes)


# The labels, the class names, and a part of the note; None if nothing needs to be said.
FORMS = {
    "numbers": (LABEL, (), None),
    "bytes": (LABEL.astype(np.uint8), (), None),
    "big-endian": (LABEL.astype(">i4"), (), None),
    "whole floats": (LABEL.astype(np.float16), (), None),
    "a column": (LABEL[:, None], (), None),
    "a row": (LABEL[None], (), None),
    "one-hot": (np.eye(3)[LABEL], ("0", "1", "2"), "one-hot labels of 3 classes"),
    "one-hot bools": (np.eye(3, dtype=bool)[LABEL], ("0", "1", "2"), "one-hot"),
    "one-hot with a class that is not there": (np.eye(5)[LABEL], tuple("01234"), "5 classes"),
    "from one": (LABEL + 1, ("1", "2", "3"), "1 to 3: numbered 0 to 2"),
    "numbers as text": (LABEL.astype(str), ("0", "1", "2"), "text: 3 classes"),
    "text": (np.array(["ant", "bee", "cat"])[LABEL], ("ant", "bee", "cat"), "text: 3 classes"),
    "text of bytes": (np.array([b"a", b"b", "é".encode()])[LABEL], ("a", "b", "é"), "text"),
    "text in a column": (np.array(["a", "b", "c"])[LABEL][:, None], ("a", "b", "c"), "text"),
}


@pytest.mark.parametrize("name", FORMS)
def test_labels_are_read_in_all_their_forms(name):
    label, classes, note = FORMS[name]
    (converted,), names, notes = convert(label)
    assert converted == LABEL.tolist() and names == classes
    assert note in notes if note else notes == ""


def test_bools_are_two_classes():
    assert convert(LABEL > 1) == (
        [[1, 0, 0, 0, 1, 0]],
        (),
        "labels are True and False: True is class 1",
    )


def test_numbers_as_text_are_sorted_as_numbers():
    (converted,), names, _ = convert(np.array(["10", "9", "2"]))
    assert (converted, names) == ([2, 1, 0], ("2", "9", "10"))
    assert convert(np.array(["10.0", "9.0", "2.0"]))[1] == ("2.0", "9.0", "10.0")


def test_class_names_give_the_order():
    names = tuple(NAMES.tolist())
    assert convert(LABEL, classes=names) == ([LABEL.tolist()], names, "")
    assert convert(NAMES[LABEL], classes=names)[0] == [LABEL.tolist()]
    (converted,), _, notes = convert(LABEL + 1, classes=names)
    assert converted == LABEL.tolist() and "numbered 0 to 2" in notes
    assert convert(LABEL % 2, classes=names)[0] == [
        (LABEL % 2).tolist()
    ]  # a class without examples
    assert read_class_names(Array(NAMES, "file: classes")) == names
    assert read_class_names(Array(np.arange(3), "file: classes")) == ("0", "1", "2")


@pytest.mark.parametrize("missing", [-1, -100, -1.0])
def test_missing_labels_are_noted(missing):
    train, test = np.where(LABEL == 2, missing, LABEL), np.array([0, missing, 1])
    (first, second), names, notes = convert(train, test)
    assert first == [-1, 0, 1, 1, -1, 0] and second == [0, -1, 1] and names == ()
    assert "2 examples of the train split without a label: their images are for stage 1" in notes
    assert "1 example of the test split without a label: they are left out" in notes
    (first,), names, notes = convert(np.array(["b", "", "a"]))
    assert (first, names) == (
        [1, -1, 0],
        ("a", "b"),
    ) and "1 example of the train split without" in notes


def test_labels_that_are_not_numbered_from_one_keep_their_numbers():
    assert convert([1, 3, 1])[:2] == ([[1, 3, 1]], ())
    assert convert([1, 2], [0])[:2] == ([[1, 2], [0]], ())
    assert convert([1, 1])[:2] == ([[1, 1]], ())


many = np.array([str(k) for k in range(CLASS_LIMIT + 2)])
REFUSED = {
    "negative": ([[-2, 0]], "label -2, out of range: labels must be 0 to K-1, or -1"),
    "huge": ([[0, 2**31]], "label 2147483648, out of range"),
    "fractional": ([[0.5, 1]], "label 0.5: labels must be whole numbers from 0, or -1"),
    "not a number": ([[0, np.nan]], "label nan"),
    "several labels": ([[[1, 1], [0, 1]]], "is not one-hot: .* several labels for one image"),
    "soft": ([[[0.9, 0.1], [0, 1]]], "is not one-hot"),
    "no label in a row": ([[[0, 0], [0, 1]]], "is not one-hot"),
    "plus and minus one": ([[1, -1, 1]], "only the labels 1 and -1.*number two classes 0 and 1"),
    "two types": ([["a", "b"], [0, 1]], "file: train is text and the labels of another split"),
    "many names": ([many], "2,002 different names, but at most 2,000"),
    "long name": ([["a" * 201, "b"]], "a name of 201 characters"),
    "no UTF-8": ([[b"\xff", b"a"]], "text that is not UTF-8"),
    "half a character": ([["\ud800", "a"]], "text that is not UTF-8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_labels_that_cannot_be_read_get_one_message(name):
    labels, expected = REFUSED[name]
    with pytest.raises(UserError, match=expected) as error:
        convert(*labels)
    assert "\n" not in str(error.value)


def test_labels_must_fit_images_and_class_names():
    with pytest.raises(
        UserError, match="train split has 5 images, but file: y has 6 labels: give one"
    ):
        as_labels({"train": Array(LABEL, "file: y")}, {"train": 5}, (), [])
    with pytest.raises(UserError, match="label 2, but there are 2 class names"):
        convert(LABEL, classes=("a", "b"))
    with pytest.raises(UserError, match="label 'cat', which is not among the class names"):
        convert(NAMES[LABEL], classes=("ant", "bee"))
    for names in (["a", "a"], ["a", ""], [["a"]], [0.5]):
        with pytest.raises(UserError, match="file: classes has"):
            read_class_names(Array(np.array(names), "file: classes"))
