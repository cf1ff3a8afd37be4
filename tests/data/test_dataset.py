"""What a data set says about its rows: their order, and which of them are in which part."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twostage_jax.data import npz
from twostage_jax.data.dataset import PARTS, Source, make_dataset
from twostage_jax.errors import UserError

fixed = settings(max_examples=60, derandomize=True, deadline=None, database=None)


def part(count, seed=0, classes=3):
    image = np.random.RandomState(seed).randint(0, 256, (count, 3, 2, 1)).astype(np.uint8)
    return {"image": image, "label": np.arange(count, dtype=np.int32) % classes}


def rows(split):
    return [(x.tobytes(), int(y)) for x, y in zip(split["image"], split["label"], strict=True)]


def moved(split, order):
    return {name: values[order] for name, values in split.items()}


@fixed
@given(
    count=st.integers(12, 40), seed=st.integers(0, 99), with_test=st.booleans(), swaps=st.booleans()
)
def test_order_and_parts_say_what_moved(count, seed, with_test, swaps):
    source = Source("a", part(count), part(9, seed=1) if with_test else None)
    random = np.random.RandomState(seed)
    order = random.permutation(count)
    if swaps:  # two rows alone
        order = np.arange(count)
        one, other = random.choice(count, 2, replace=False)
        order[[one, other]] = order[[other, one]]
    before, after = (
        make_dataset(x) for x in (source, source._replace(train=moved(source.train, order)))
    )
    assert before.fingerprint == after.fingerprint
    same = [rows(getattr(before, name)) == rows(getattr(after, name)) for name in PARTS]
    assert (before.order == after.order) == all(same)
    for name in PARTS:
        held = sorted(rows(getattr(before, name))) == sorted(rows(getattr(after, name)))
        assert (before.parts[name] == after.parts[name]) == held


def test_any_row_that_moves_within_a_part_changes_the_order_and_nothing_else():
    source = Source("a", part(30), part(9, seed=1))
    whole = make_dataset(source, validation=0)
    for name in ("train", "test"):
        split = getattr(source, name)
        order = np.roll(np.arange(len(split["label"])), 1)
        other = make_dataset(source._replace(**{name: moved(split, order)}), validation=0)
        assert other.order != whole.order
        assert (other.fingerprint, other.parts) == (whole.fingerprint, whole.parts)


def test_where_the_parts_are_cut_is_part_of_the_order():
    first, second = part(12), part(6, seed=1)
    joined = {name: np.concatenate([first[name], second[name]]) for name in first}
    orders = {
        make_dataset(Source("a", moved(joined, slice(n)), moved(joined, slice(n, None))), 0).order
        for n in range(6, 15)
    }
    assert len(orders) == 9


def test_parts_are_fingerprints_of_what_is_in_them():
    made = make_dataset(Source("a", part(50), part(9, seed=1)), validation=0)
    for name in PARTS:
        split = getattr(made, name)
        total = hashlib.sha256(str(split["image"].shape).encode())
        digests = (hashlib.sha256(x + y.to_bytes(4, "little")).digest() for x, y in rows(split))
        total.update(b"".join(sorted(digests)))
        assert made.parts[name] == f"sha256:{total.hexdigest()}"
        assert set(split) == {"image", "label"}
    assert made.parts["train"] == make_dataset(Source("b", part(50), part(3)), 0).parts["train"]


def test_fingerprints_stay_as_they_were():
    made = make_dataset(Source("a", part(50), part(9, seed=1)))
    assert made.fingerprint.startswith("sha256:abd721c8")
    assert made.order.startswith("sha256:b2971675")


def test_order_and_parts_are_seen_by_training():
    made = make_dataset(Source("a", part(30)))
    seen, _ = made.lock()
    assert (seen.order, seen.parts) == (made.order, made.parts)


def test_more_classes_than_their_confusions_have_room_for_are_refused(tmp_path):
    label = np.arange(2001)
    path = tmp_path / "a.npz"
    np.savez(path, image=np.zeros((2001, 1, 1), np.uint8), label=label)
    with pytest.raises(UserError, match="a has 2,001 classes, the most is 2,000"):
        make_dataset(npz.read(path))
    np.savez(path, image=np.zeros((2001, 1, 1), np.uint8), label=np.maximum(label, 1) - 1)
    assert len(make_dataset(npz.read(path)).classes) == 2000
    named = Source("a", part(30), classes=tuple(map(str, range(2001))))
    with pytest.raises(UserError, match="2,001 classes"):
        make_dataset(named)
    assert len(make_dataset(named._replace(classes=named.classes[1:])).classes) == 2000
