"""Label draws and label noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.builders import split
from twostage_jax.data.dataset import Source, make_dataset
from twostage_jax.data.labels import (
    draw_labels,
    flip_by_matrix,
    flip_labels,
    flip_to_next,
    with_labels,
)
from twostage_jax.errors import UserError

fixed = settings(max_examples=15, derandomize=True, deadline=None, database=None)


@fixed
@given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5), seed=st.integers(0, 2**40))
def test_draws_are_balanced_and_nested(sizes, seed):
    classes = [str(k) for k in range(len(sizes))]
    label = np.random.RandomState(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    smaller = set()
    for count in range(len(sizes), len(label) + 1):
        chosen = draw_labels(label, count, classes, seed)
        assert chosen.dtype == np.int32 and (np.diff(chosen) > 0).all() and len(chosen) == count
        assert smaller <= set(chosen.tolist())
        smaller = set(chosen.tolist())
        taken = np.bincount(label[chosen], minlength=len(sizes))
        # Only a class without further examples may be more than one behind the others.
        assert all(n >= taken.max() - 1 or n == size for n, size in zip(taken, sizes, strict=True))


def test_a_draw_depends_on_the_seed_alone():
    label = np.arange(200) % 4
    names = "abcd"
    draws = [draw_labels(label, 8, names, seed).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    # The numbers are the same in every version and on every machine.
    assert draws[0][:3] == [12, 25, 36]
    # The remainder goes to other classes with another seed.
    extra = {int(np.bincount(label[draw_labels(label, 5, names, s)]).argmax()) for s in range(9)}
    assert len(extra) > 1


def test_unlabelled_examples_move_to_the_pool():
    source = Source("a", split(60), unlabelled=split(5, seed=9)["image"])
    for dataset in (make_dataset(source), make_dataset(source).lock()[0]):
        few = with_labels(dataset, 9, seed=1)
        assert type(few) is type(dataset)
        np.testing.assert_array_equal(np.bincount(few.train["label"]), [3, 3, 3])
        chosen = draw_labels(dataset.train["label"], 9, dataset.classes, 1)
        for name, values in dataset.train.items():
            np.testing.assert_array_equal(few.train[name], values[chosen])
        np.testing.assert_array_equal(few.rows["train"], dataset.rows["train"][chosen])
        everything = [dataset.unlabelled["image"], dataset.train["image"]]
        after = [few.unlabelled["image"], few.train["image"]]
        count = {x.tobytes() for x in np.concatenate(everything)}
        assert {x.tobytes() for x in np.concatenate(after)} == count
        assert len(few.unlabelled["image"]) == 5 + len(dataset.train["label"]) - 9
        # The source is the same, and so are its other splits.
        assert few.fingerprint == dataset.fingerprint and few.parts == dataset.parts
        assert few.validation is dataset.validation


@pytest.mark.parametrize("count", [2, 13, 3.5, True, "3", 10**30])
def test_a_number_of_labels_out_of_range_is_refused(count):
    with pytest.raises(UserError, match="--labels .* 12 training .* in 3 .* from 3 to 12"):
        draw_labels(np.arange(12) % 3, count, "abc", 0)


def test_a_class_without_an_example_is_named():
    with pytest.raises(UserError, match="class 'b' has no training example"):
        draw_labels(np.array([0, 2, 0, 2]), 3, "abc", 0)


def test_label_noise_flips_an_exact_and_nested_share():
    label = jnp.arange(200) % 5
    flip = jax.jit(lambda share: flip_labels(jax.random.key(3), label, share, 5))
    before = np.zeros(200, bool)
    for share in (0.0, 0.1, 0.3, 0.999):
        noisy = np.asarray(flip(share))
        changed = noisy != np.asarray(label)
        assert changed.sum() == round(share * 200) and noisy.dtype == np.int32
        assert (changed | ~before).all()
        assert noisy.min() >= 0 and noisy.max() < 5
        before = changed


def test_label_noise_keeps_its_bits():
    noisy = flip_labels(jax.random.key(0), jnp.arange(12) % 3, 0.5, 3)
    assert np.asarray(noisy).tolist() == [0, 2, 2, 2, 1, 1, 1, 1, 2, 1, 2, 2]


def test_labels_flip_to_the_next_class_where_symmetric_noise_changes_them():
    label = jnp.arange(50, dtype=jnp.int32) % 5
    flipped = np.asarray(flip_to_next(jax.random.key(3), label, 0.4, 5))
    changed = flipped != label
    assert changed.sum() == 20
    np.testing.assert_array_equal(flipped[changed], (np.asarray(label)[changed] + 1) % 5)
    symmetric = np.asarray(flip_labels(jax.random.key(3), label, 0.4, 5))
    np.testing.assert_array_equal(changed, symmetric != label)


def test_a_transition_matrix_gives_the_shares_of_its_rows():
    label = jnp.arange(3000, dtype=jnp.int32) % 3
    matrix = np.array([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    drawn = np.asarray(flip_by_matrix(jax.random.key(0), label, matrix))
    rows = [np.bincount(drawn[k::3], minlength=3) / 1000 for k in range(3)]
    np.testing.assert_allclose(rows, matrix, atol=0.04)
    assert rows[0][2] == 0 and rows[1].tolist() == [0, 1, 0] and rows[2].tolist() == [1, 0, 0]
