"""Heads that are solved, for all draws and all representations of one width in one `vmap`."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.runs.study.draws import Draws, fold_weights
from twostage_jax.runs.study.parallel import Parallel
from twostage_jax.stages.stage import Batch, Head, new_key

BLOCK = 1000  # number of test examples that one member predicts at a time
Numbers = Mapping[str, jax.Array]


class Grid(NamedTuple):
    """Values of the number of a head to choose from, and the value without a choice."""

    number: str
    values: tuple[float, ...]
    default: float


# Features have a mean variance of 1 (see `representations`), so one grid fits all of them.
GRIDS = {
    "linear": Grid("penalty", (1e-4, 1e-3, 1e-2, 1e-1), 1e-2),
    "ridge": Grid("strength", (1e-2, 1e-1, 1e0, 1e1, 1e2), 1e0),
    "knn": Grid("k", (1.0, 3.0, 5.0, 10.0, 20.0), 1.0),
}


class Banks(NamedTuple):
    """Features of one split from A representations of the same width, float32 `[A, N, D]`."""

    image: np.ndarray

    @property
    def width(self) -> int:
        """Number of features D."""
        return self.image.shape[2]


class Heldout(NamedTuple):
    """Examples on which a head is chosen: features `[A, V, D]` and labels `[V]`."""

    image: np.ndarray
    label: np.ndarray


MakeHead = Callable[[Numbers], Head]


def usable_values(grid: Grid, draws: Draws) -> tuple[float, ...]:
    """Return the values of a grid that the number of labels allows: k is at most that number."""
    if grid.number != "k":
        return grid.values
    return tuple(value for value in grid.values if value <= draws.count)


def choose_values(
    parallel: Parallel,
    name: str,
    make_head: MakeHead,
    grid: Grid,
    draws: Draws,
    train: np.ndarray,
    heldout: Heldout | None,
) -> tuple[np.ndarray, str]:
    """Choose a value of the grid for each representation and draw.

    Args:
        parallel: compiles and runs.
        name: name of the protocol.
        make_head: `numbers -> Head`.
        grid: values to choose from.
        draws: labels.
        train: features of the training images `[A, N, D]`.
        heldout: labelled validation examples; None for cross-validation on the draw's own labels.

    Returns:
        Values float32 `[A, R]`, and how they were chosen: `cross-validation`, `validation`, or
        `default` if a class has a single label.
    """
    values = usable_values(grid, draws)
    arms = len(train)
    repeats = len(draws.index)
    weight = fold_weights(draws) if heldout is None else np.ones((1, draws.count), np.float32)
    if not len(weight) or len(values) == 1:
        return np.full((arms, repeats), grid.default, np.float32), "default"
    shape = (arms, repeats, len(values), len(weight))
    arm, draw, value, fold = (part.ravel() for part in np.indices(shape))
    rows = (
        np.array(values, np.float32)[value],
        arm.astype(np.int32),
        draws.index[draw],
        draws.label[draw],
        weight[fold],
    )
    shared = (train, *(() if heldout is None else heldout))
    score = make_score(make_head, grid.number, heldout is None)
    scores = parallel.map(
        ("choose", name, heldout is None),
        score,
        rows,
        shared,
        draws.count * train.shape[2],
        together=False,
    )
    correct, loss = (part.reshape(shape).sum(-1) for part in scores)
    # Few labels give many ties, and the smaller loss decides them.
    tied = np.where(correct == correct.max(-1, keepdims=True), loss, np.inf)
    words = "validation" if heldout is not None else "cross-validation"
    return np.array(values, np.float32)[tied.argmin(-1)], words


def make_score(make_head: MakeHead, number: str, own_labels: bool) -> Callable[..., tuple]:
    """Make the function of one member: correct predictions and loss on the held-out examples."""

    def score(value, arm, index, label, weight, train, image=None, labels=None):
        features = train[arm, index]
        head = make_head({number: value})
        params = solve(head, features, label, weight)
        if own_labels:
            logits = head.logits(params, features)
            target = label
            counted = 1 - weight
        else:
            assert image is not None and labels is not None
            logits = head.logits(params, image[arm])
            target = labels
            counted = jnp.ones(len(target))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
        correct = (counted * (logits.argmax(-1) == target)).sum()
        total = (counted * losses).sum()
        # A head that is not finite is never chosen.
        good = jnp.isfinite(logits).all()
        return jnp.where(good, correct, -1.0), jnp.where(good, total, jnp.float32(1e30))

    return score


def solve(head: Head, features: jax.Array, label: jax.Array, weight: jax.Array):
    """Return the parameters of a solved head, without validation examples."""
    assert head.solve is not None
    batch: Batch = {
        "image": features,
        "label": label,
        "weight": weight,
        "validation_image": jnp.zeros((0, features.shape[1])),
        "validation_label": jnp.zeros(0, jnp.int32),
    }
    return head.solve(new_key(), batch)


def predict_draws(
    parallel: Parallel,
    name: str,
    make_head: MakeHead,
    number: str | None,
    values: np.ndarray,
    draws: Draws,
    train: np.ndarray,
    test: np.ndarray,
) -> np.ndarray:
    """Solve the head of every representation and draw; return classes int32 `[A, R, T]`.

    Args:
        parallel: compiles and runs.
        name: name of the protocol.
        make_head: `numbers -> Head`.
        number: name of the chosen number; None if the head has none.
        values: chosen values `[A, R]`.
        draws: labels.
        train: features of the training images `[A, N, D]`.
        test: features of the test images `[A, T, D]`.
    """
    arms, repeats = values.shape
    arm, draw = (part.ravel() for part in np.indices(values.shape))

    def predict(value, arm, index, label, train, test):
        features = train[arm, index]
        head = make_head({number: value} if number else {})
        params = solve(head, features, label, jnp.ones(len(label)))
        return blockwise(lambda image: head.logits(params, image).argmax(-1), test[arm])

    predicted = parallel.map(
        ("predict", name),
        predict,
        (values.ravel(), arm.astype(np.int32), draws.index[draw], draws.label[draw]),
        (train, test),
        draws.count * train.shape[2] + BLOCK * train.shape[2],
        together=False,
    )
    return predicted.reshape(arms, repeats, -1)


class Graph(NamedTuple):
    """Input of a head with `prepare`.

    Attributes:
        features: of all training images `[N, D]`, those with a label in the source first.
        prepared: result of `prepare` for them.
        test: features of the test images `[T, D]`.
        label: labels of the source int32 `[L]`, only to measure the transductive error.
    """

    features: np.ndarray
    prepared: Mapping[str, np.ndarray]
    test: np.ndarray
    label: np.ndarray


def predict_on_graph(
    parallel: Parallel, name: str, head: Head, draws: Draws, graph: Graph
) -> dict[str, np.ndarray]:
    """Solve a head on a graph for all draws.

    Returns:
        `predicted` int32 `[1, R, T]`, classes of the test images, which are not in the graph; and
        `transductive` float64 `[1, R]`, the share of errors among the training images in the graph
        that have a label in the source but not in the draw.
    """
    names = sorted(graph.prepared)

    def predict(index, label, features, test, truth, *prepared):
        batch = {
            "image": features[index],
            "label": label,
            "weight": jnp.ones(len(label)),
            "index": index,
            "features": features,
            "prepared": dict(zip(names, prepared, strict=True)),
            "validation_image": jnp.zeros((0, features.shape[1])),
            "validation_label": jnp.zeros(0, jnp.int32),
        }
        assert head.solve is not None
        params = head.solve(new_key(), batch)
        # Under `vmap`, the neighbours of the test images are searched once for all draws.
        predicted = head.logits(params, test).argmax(-1)
        if head.transduce is None:
            return predicted, jnp.float32(jnp.nan)
        inside = head.transduce(params)[: len(truth)].argmax(-1) != truth
        return predicted, inside.at[index].set(False).sum()

    predicted, wrong = parallel.map(
        ("graph", name),
        predict,
        (draws.index, draws.label),
        (graph.features, graph.test, graph.label, *(graph.prepared[name] for name in names)),
        len(graph.features) * 4,
    )
    result = {"predicted": predicted[None]}
    without = len(graph.label) - draws.count
    if head.transduce is not None and without:
        result["transductive"] = wrong[None] / without
    return result


def blockwise(
    function: Callable[[jax.Array], jax.Array], image: jax.Array, block: int = BLOCK
) -> jax.Array:
    """Apply a function of a batch to all rows, in blocks; the last one overlaps the one before."""
    count = len(image)
    size = min(block, count)
    starts = jnp.minimum(jnp.arange(0, count, size), count - size)

    def apply(start: jax.Array) -> jax.Array:
        return function(jax.lax.dynamic_slice_in_dim(image, start, size))

    results = jax.lax.map(apply, starts)
    tail = results[-1]
    full = results[:-1].reshape(-1, *results.shape[2:])
    rest = count - len(full)
    return jnp.concatenate([full, tail[size - rest :]])
