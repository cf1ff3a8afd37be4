"""Names of arrays and files, and which of them belong together."""

import pytest

from twostage_jax.data.names import Meaning, assign, parse, partner
from twostage_jax.errors import UserError

MEANINGS = {
    ("image", ""): "image images img X x data inputs pixels",
    (
        "image",
        "train",
    ): "x_train X_train XTrain train_images train-images images.train trainX "
    "Xtrain xTrain training_data x_tr TRAIN_IMGS train/images",
    ("image", "validation"): "x_val x_valid x_validation val_images image_val x_dev",
    ("image", "test"): "x_test test_images t10k-images image_test testing_images xtest",
    ("image", "unlabelled"): "unlabeled unlabelled x_unlabeled unlabelled_images",
    ("label", ""): "label labels y target targets",
    ("label", "validation"): "y_val val_labels label_validation valid_y",
    ("label", "test"): "y_test test_labels t10k-labels",
    ("weight", ""): "weight weights sample_weight",
    ("classes", ""): "class_names classes label_names target_names ClassNames",
}
NAMES = [(name, key) for key, names in MEANINGS.items() for name in names.split()]


@pytest.mark.parametrize(("name", "expected"), NAMES)
def test_a_name_says_the_kind_and_the_split(name, expected):
    meaning = parse(name)
    assert meaning and meaning[:2] == expected


@pytest.mark.parametrize("name", ["", "a", "train", "meta", "x_y", "train_test_images", "idx", "é"])
def test_other_names_say_nothing(name):
    assert parse(name) is None


def test_the_other_words_of_a_name_are_kept():
    assert parse("emnist-letters-train-images") == ("image", "train", ("emnist", "letters"))
    assert parse("image_mean") == ("image", "", ("mean",))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("x_train", "y_train"),
        ("test_images", "test_labels"),
        ("image", "label"),
        ("data", "target"),
        ("train-images-idx3", "train-labels-idx3"),
    ],
)
def test_partners_are_named(images, labels):
    assert partner(images) == labels and partner(labels) == images
    assert partner("X") == "y"


def test_two_names_for_one_thing_are_refused():
    meanings = {name: parse(name) for name in ("image", "x_train", "y")}
    with pytest.raises(UserError, match="image and x_train, and both names mean the train"):
        assign(meanings, "file")
    # As scikit-learn stores images twice.
    meanings = {name: parse(name) for name in ("data", "images", "target")}
    assert assign(meanings, "file") == ({"train": {"image": "images", "label": "target"}}, ["data"])
    assert assign({"X": Meaning("image", "", ())}, "file") == ({"train": {"image": "X"}}, [])
