"""Label draws and label noise."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from twostage_jax.data.dataset import TrainingData
from twostage_jax.data.split import as_columns
from twostage_jax.errors import UserError, shown

if TYPE_CHECKING:
    import jax

Data = TypeVar("Data", bound=TrainingData)

# Mixed into the seed, so that a draw shares no random numbers with other uses of the seed.
DRAW = 1


def with_labels(dataset: Data, count: int, seed: int = 0) -> Data:
    """Keep `count` labelled training examples and move the others to the unlabelled pool.

    Validation and test stay, and so do `fingerprint`, `order` and `parts`, which identify the
    source. The draw is that of `draw_labels`.

    >>> import twostage_jax as ts
    >>> few = ts.with_labels(ts.load("digits"), 20, seed=0)
    >>> few.train["image"].shape, few.unlabelled["image"].shape
    ((20, 8, 8, 1), (1275, 8, 8, 1))

    Raises:
        UserError: a `count` that does not fit the training examples.
    """
    chosen = draw_labels(dataset.train["label"], count, dataset.classes, seed)
    pool = {
        name: np.concatenate([values, np.delete(dataset.train[name], chosen, axis=0)])
        for name, values in dataset.unlabelled.items()
        if name in dataset.train
    }
    return dataclasses.replace(
        dataset,
        train=as_columns({name: values[chosen] for name, values in dataset.train.items()}),
        unlabelled=as_columns(pool),
        rows={**dataset.rows, "train": dataset.rows["train"][chosen]},
    )


def draw_labels(label: np.ndarray, count: int, classes: Sequence[str], seed: int) -> np.ndarray:
    """Draw `count` examples that keep their labels, as many of each class as possible.

    Each class gets `count // K` examples; the remainder goes to classes in a random order. If a
    class has too few examples, the other classes fill up. Draws are nested: a draw of n examples is
    part of every larger draw with the same seed.

    Args:
        label: int32 `[N]`, indices into `classes`.
        count: number of examples, from `K` to `N`.
        classes: the `K` class names.
        seed: seed of the draw, a whole number from 0.

    Returns:
        Sorted indices, int32 `[count]`.

    Raises:
        UserError: `count` out of range, or a class without an example.
    """
    sizes = np.bincount(label, minlength=len(classes))
    _check_count(count, sizes, classes)
    # NumPy guarantees the numbers of `SeedSequence` and `RandomState` for all versions.
    bits = np.random.MT19937(np.random.SeedSequence((seed, DRAW)))
    random = np.random.RandomState(bits)
    turn = random.permutation(len(classes))
    shuffled = random.permutation(len(label))
    by_class = shuffled[np.argsort(label[shuffled], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(label), np.int64)  # position within the class, in random order
    rank[by_class] = np.arange(len(label)) - np.repeat(starts, sizes)
    # The classes take turns: the first of each class, then the second of each, and so on. Every
    # draw is a beginning of this one order, hence nested.
    order = np.lexsort((turn[label], rank))
    return np.sort(order[:count]).astype(np.int32)


def _check_count(count: int, sizes: np.ndarray, classes: Sequence[str]) -> None:
    is_whole = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
    if not is_whole or not len(classes) <= count <= sizes.sum():
        raise UserError(
            f"--labels {shown(count)} does not fit {sizes.sum()} training examples in "
            f"{len(classes)} classes, each of which needs a labelled example: give a number from "
            f"{len(classes)} to {sizes.sum()}"
        )
    if not sizes.all():
        name = classes[int(np.argmin(sizes))]
        raise UserError(
            f"--labels {count} is not possible, because class {name!r} has no training example: "
            "add one to the source, or leave --labels out"
        )


def flip_labels(
    key: "jax.Array", label: "jax.Array", share: "float | jax.Array", classes: int
) -> "jax.Array":
    """Flip a share of the labels int32 `[N]` to another of the `classes`, all equally likely.

    Exactly `round(share * N)` labels change, and with the same key those changed at a smaller share
    are among those changed at a larger one. `share`, in [0, 1), may be a traced array.
    """
    # Only runs with label noise need jax here; reading data does without.
    import jax

    rank_key, other_key = jax.random.split(key)
    other = (label + jax.random.randint(other_key, label.shape, 1, classes)) % classes
    return _flip(rank_key, label, other, share)


def flip_to_next(
    key: "jax.Array", label: "jax.Array", share: "float | jax.Array", classes: int
) -> "jax.Array":
    """Flip a share of the labels int32 `[N]` to the next class, and the last class to the first.

    With the same key, the labels that change are those of `flip_labels`.
    """
    import jax

    rank_key, _ = jax.random.split(key)
    return _flip(rank_key, label, (label + 1) % classes, share)


def _flip(
    key: "jax.Array", label: "jax.Array", other: "jax.Array", share: "float | jax.Array"
) -> "jax.Array":
    """Replace `round(share * N)` labels by those of `other`."""
    import jax
    import jax.numpy as jnp

    # Ranks do not depend on the share, so larger shares contain smaller ones.
    rank = jax.random.permutation(key, len(label))
    flipped = rank < jnp.round(share * len(label))
    return jnp.where(flipped, other, label).astype(jnp.int32)


def flip_by_matrix(key: "jax.Array", label: "jax.Array", transition: np.ndarray) -> "jax.Array":
    """Draw a label for each label int32 `[N]` from its row of a transition matrix `[K, K]`."""
    import jax
    import jax.numpy as jnp

    limits = jnp.cumsum(jnp.asarray(transition, jnp.float32), 1)
    value = jax.random.uniform(key, label.shape)
    drawn = (value[:, None] >= limits[label]).sum(1)
    # Rounding can leave the last limit below 1. A class of probability 0 must not get the rest.
    last = (jnp.asarray(transition) > 0).shape[1] - 1 - jnp.argmax(transition[:, ::-1] > 0, 1)
    return jnp.minimum(drawn, last[label]).astype(jnp.int32)


def balanced_weights(label: np.ndarray) -> np.ndarray:
    """Return weights with which all classes count the same, float32 of the shape of `label`.

    The weight of an example is `n / (P · n_k)`, with P classes that have labels and `n_k` labels of
    its class. The mean weight is 1.

    Args:
        label: int `[n]`, or `[R, n]` for R trials.

    >>> balanced_weights(np.array([0, 1, 1, 1, 1, 5, 5, 5])).tolist()[:2]
    [2.6666667461395264, 0.6666666865348816]
    """
    if label.ndim > 1:
        return np.stack([balanced_weights(row) for row in label])
    _, index, counts = np.unique(label, return_inverse=True, return_counts=True)
    return (len(label) / (len(counts) * counts[index])).astype(np.float32)
