"""Splits, fingerprints and the unlabelled pool of a data set."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.builders import split
from twostage_jax.data.dataset import Source, make_dataset
from twostage_jax.data.split import stratified_indices
from twostage_jax.errors import UserError

NAMES = ("train", "validation", "test")
fixed = settings(max_examples=20, derandomize=True, deadline=None, database=None)


def rows(part):
    return [(x.tobytes(), int(y)) for x, y in zip(part["image"], part["label"], strict=True)]


def moved(part, order):
    return {name: values[order] for name, values in part.items()}


@fixed
@given(
    count=st.integers(12, 40), seed=st.integers(0, 99), with_test=st.booleans(), swap=st.booleans()
)
def test_order_and_parts_change_exactly_with_the_examples(count, seed, with_test, swap):
    source = Source("a", split(count), split(9, seed=1) if with_test else None)
    random = np.random.RandomState(seed)
    order = random.permutation(count)
    if swap:
        order = np.arange(count)
        first, second = random.choice(count, 2, replace=False)
        order[[first, second]] = order[[second, first]]
    before = make_dataset(source)
    after = make_dataset(source._replace(train=moved(source.train, order)))
    assert before.fingerprint == after.fingerprint
    same = [rows(getattr(before, name)) == rows(getattr(after, name)) for name in NAMES]
    assert (before.order == after.order) == all(same)
    for name in NAMES:
        equal = sorted(rows(getattr(before, name))) == sorted(rows(getattr(after, name)))
        assert (before.parts[name] == after.parts[name]) == equal


def test_rows_are_those_of_the_source():
    with_test = Source("a", split(30), split(9, seed=1))
    with_own = with_test._replace(validation=split(12, seed=2))
    for source in (with_test, with_test._replace(test=None), with_own):
        dataset = make_dataset(source)
        for name in NAMES:
            file = source.splits.get(name, source.train)
            assert rows(moved(file, dataset.rows[name])) == rows(getattr(dataset, name))


def test_the_validation_split_of_a_source_is_used_unless_another_size_is_asked_for():
    source = Source("a", split(30), split(9, seed=1), validation=split(12, seed=2))
    own = make_dataset(source)
    assert rows(own.validation) == rows(source.validation) and len(own.train["label"]) == 30
    # A run stores the size and asks for it when it resumes.
    assert make_dataset(source, 12).order == own.order and not make_dataset(source, 12).notes
    carved = make_dataset(source, 5)
    assert (len(carved.train["label"]), len(carved.validation["label"])) == (25, 5)
    assert "validation split (12 examples) is not used" in carved.notes[0]
    assert "asks for none" in make_dataset(source, 0).notes[0]
    assert own.fingerprint == carved.fingerprint
    other = source._replace(validation=split(12, seed=3))
    assert make_dataset(other).fingerprint != own.fingerprint


def test_a_validation_split_without_a_test_split_is_the_test():
    source = Source("a", split(30), validation=split(12, seed=2))
    dataset = make_dataset(source)
    assert rows(dataset.test) == rows(source.validation)
    assert len(dataset.train["label"]) == 27 and len(dataset.validation["label"]) == 3
    assert dataset.notes == ("no test split: the validation split (12 examples) is used as test",)


def test_a_source_without_a_train_split_cannot_be_trained_on():
    with pytest.raises(UserError, match="has no train split.*twostage evaluate"):
        make_dataset(Source("a", None, split(9)))
    with pytest.raises(UserError, match="validation split of a has label 3, which its train"):
        make_dataset(Source("a", split(9), split(3), validation=split(9, classes=5)))
    with pytest.raises(UserError, match="label 'four', which its train split lacks"):
        names = tuple("one two three four five".split())
        make_dataset(Source("a", split(9), split(9, classes=5), names))


def test_the_position_of_the_cut_is_part_of_the_order():
    joined = {
        name: np.concatenate([values, split(6, seed=1)[name]]) for name, values in split(12).items()
    }
    orders = {
        make_dataset(Source("a", moved(joined, slice(n)), moved(joined, slice(n, None))), 0).order
        for n in range(6, 15)
    }
    assert len(orders) == 9


def test_a_part_is_the_fingerprint_of_its_sorted_example_digests():
    dataset = make_dataset(Source("a", split(50), split(9, seed=1)), validation=0)
    for name in NAMES:
        part = getattr(dataset, name)
        total = hashlib.sha256(str(part["image"].shape).encode())
        digests = [hashlib.sha256(x + y.to_bytes(4, "little")).digest() for x, y in rows(part)]
        total.update(b"".join(sorted(digests)))
        assert dataset.parts[name] == f"sha256:{total.hexdigest()}"
        assert set(part) == {"image", "label"}
    assert (
        dataset.parts["train"] == make_dataset(Source("b", split(50), split(3)), 0).parts["train"]
    )


def test_fingerprints_stay_as_in_earlier_versions():
    dataset = make_dataset(Source("a", split(50), split(9, seed=1)))
    assert dataset.fingerprint.startswith("sha256:abd721c8")
    assert dataset.order.startswith("sha256:b2971675")
    assert set(dataset.parts) == set(NAMES)


def test_a_fingerprint_depends_on_images_labels_shape_and_splits():
    part = split(30)
    image = part["image"].copy()
    image[3, 2, 1] ^= 1
    label = part["label"].copy()
    label[[0, 1]] = label[[1, 0]]
    sources = [
        Source("a", part),
        Source("a", part, part),
        Source("a", {**part, "image": image}),
        Source("a", {**part, "label": label}),
        Source("a", {**part, "image": part["image"].reshape(30, 2, 3, 1)}),
    ]
    assert len({make_dataset(source).fingerprint for source in sources}) == 5


def test_unlabelled_images_belong_to_a_data_set_only_if_there_are_some():
    source = Source("a", split(30), split(9, seed=1))
    plain = make_dataset(source)
    assert plain.unlabelled["image"].shape == (0, 3, 2, 1)
    assert plain.unlabelled["image"].dtype == np.uint8
    pool = split(7, seed=2)["image"]
    empty = make_dataset(source._replace(unlabelled=pool[:0]))
    assert (empty.fingerprint, empty.order) == (plain.fingerprint, plain.order)
    assert empty.parts == plain.parts
    more = make_dataset(source._replace(unlabelled=pool))
    np.testing.assert_array_equal(more.unlabelled["image"], pool)
    assert more.fingerprint != plain.fingerprint and more.order != plain.order
    assert set(more.parts) == {*NAMES, "unlabelled"}
    reverse = make_dataset(source._replace(unlabelled=pool[::-1]))
    assert reverse.fingerprint == more.fingerprint and reverse.order != more.order
    with pytest.raises(UserError, match=r"\(3, 2, 1\) in train and \(3, 3, 1\) in unlabelled"):
        make_dataset(source._replace(unlabelled=np.zeros((4, 3, 3, 1), np.uint8)))


def test_locking_separates_the_test_split():
    dataset = make_dataset(Source("a", split(30), unlabelled=split(4)["image"]))
    training, lockbox = dataset.lock()
    assert not hasattr(training, "test") and "test" not in training.splits
    assert lockbox.count == len(dataset.test["label"]) == 6
    assert lockbox.unlock() is dataset.test
    for name in ("train", "unlabelled", "order", "parts", "rows", "fingerprint"):
        assert getattr(training, name) is getattr(dataset, name)


def test_printing_takes_at_most_fifteen_lines_and_escapes_what_a_file_says():
    names = ("<b>", "\x1b[31m", *map(str, range(40)))
    source = Source("a", split(5000, classes=42), None, names, split(7)["image"])
    dataset = make_dataset(source._replace(notes=tuple(f"note {k}" for k in range(40))))
    text = repr(dataset)
    for expected in ("train 3,600", "unlabelled 7", "3×2×1", "42: <b>, ", "sha256:", "34 more"):
        assert expected in text
    assert text.count("\n") < 15 and max(map(len, text.splitlines())) < 190
    assert "\x1b" not in text
    assert repr(dataset.lock()[0]).startswith("TrainingData('a'")
    table = dataset._repr_html_()
    assert "<th>examples</th><td>train 3,600" in table and "&lt;b&gt;" in table
    assert "<b>" not in table and "\x1b" not in table


def test_a_stratified_draw_is_deterministic_and_keeps_the_shares():
    label = np.repeat(np.arange(4), [100, 50, 30, 1])
    chosen = stratified_indices(label, 18)
    np.testing.assert_array_equal(chosen, stratified_indices(label, 18))
    np.testing.assert_array_equal(np.bincount(label[chosen], minlength=4), [10, 5, 3, 0])
    assert chosen[9] >= 20  # from the whole of a class, not from its beginning
    for count in (0, 1, 17, 177, 178, 180, 181):
        assert len(np.unique(stratified_indices(label, count))) == count


def test_the_default_validation_is_a_tenth_and_at_most_5000():
    label = np.arange(60_000, dtype=np.int32) % 10
    train = {"image": np.zeros((60_000, 1, 1, 1), np.uint8), "label": label}
    dataset = make_dataset(Source("many", train, moved(train, slice(20))))
    np.testing.assert_array_equal(np.bincount(dataset.validation["label"]), [500] * 10)


@pytest.mark.parametrize("count", [0.1, -1, 50])
def test_a_validation_size_out_of_range_is_refused(count):
    source = Source("a", split(50), split(9, seed=1))
    with pytest.raises(UserError, match=f"--validation {count} .* from 0 to 49"):
        make_dataset(source, count)


def test_more_classes_than_the_confusion_matrix_has_room_for_are_refused():
    label = np.arange(2001, dtype=np.int32)
    train = {"image": np.zeros((2001, 1, 1, 1), np.uint8), "label": label}
    with pytest.raises(UserError, match="a has 2,001 classes, but at most 2,000"):
        make_dataset(Source("a", train))
    train["label"] = np.maximum(label, 1) - 1
    assert len(make_dataset(Source("a", train)).classes) == 2000
    named = Source("a", split(30), classes=tuple(map(str, range(2001))))
    with pytest.raises(UserError, match="2,001 classes"):
        make_dataset(named)
