"""Heads that are solved on the features of the labelled examples.

Members are solved one after the other, as many at once as there are cores: a decomposition keeps
one core busy. Under `vmap`, all searches of `linear` would take the iterations and line-search
steps of the slowest one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.runs.study.draws import Draws, fold_weights
from twostage_jax.runs.study.parallel import Parallel, side_by_side
from twostage_jax.stages.stage import Batch, Head, new_key

BLOCK = 1000  # number of test examples that one member predicts at a time
Numbers = Mapping[str, jax.Array]


# Draws are filled up to one of these sizes with examples that do not count, and so share programs.
SIZES = (128, 1024)


class Grid(NamedTuple):
    """Numbers of a head to choose from.

    Attributes:
        number: name of the number.
        values: its values.
        default: the value without a choice.
        together: True to solve for all values in one `vmap`, which shares what does not depend on
            the value, such as the decomposition of `ridge`.
    """

    number: str
    values: tuple[float, ...]
    default: float
    together: bool = False


# Features have a mean variance of 1 (see `representations`), so one grid fits all of them.
GRIDS = {
    "linear": Grid("penalty", (1e-4, 1e-3, 1e-2, 1e-1), 1e-2),
    "ridge": Grid("strength", (1e-2, 1e-1, 1e0, 1e1, 1e2), 1e0, together=True),
    "knn": Grid("k", (1.0, 3.0, 5.0, 10.0, 20.0), 1.0),
}


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


class Filled(NamedTuple):
    """Labelled examples of a draw, filled up with examples of weight 0."""

    index: np.ndarray
    label: np.ndarray
    weight: np.ndarray


def fill(draws: Draws, draw: int, weight: np.ndarray | None = None) -> Filled:
    """Return the examples of a draw, filled up to the next of `SIZES`.

    Args:
        draws: labels.
        draw: number of the draw.
        weight: weights of its examples `[n]`; ones by default.
    """
    count = draws.count
    size = next((size for size in SIZES if count <= size), count)
    filled = Filled(np.zeros(size, np.int32), np.zeros(size, np.int32), np.zeros(size, np.float32))
    filled.index[:count] = draws.index[draw]
    filled.label[:count] = draws.label[draw]
    filled.weight[:count] = 1 if weight is None else weight
    return filled


def choose_values(
    parallel: Parallel,
    name: str,
    make_head: MakeHead,
    grid: Grid,
    draws: Draws,
    train: Sequence[np.ndarray],
    heldout: Sequence[Heldout] | None,
) -> tuple[np.ndarray, str]:
    """Choose a value of the grid for each representation and draw.

    Args:
        parallel: compiles and runs.
        name: name of the group.
        make_head: `numbers -> Head`.
        grid: values to choose from.
        draws: labels.
        train: features of the training images `[N, D]` of A representations.
        heldout: labelled validation examples; None for cross-validation on the draw's own labels.

    Returns:
        Values float32 `[A, R]`, and how they were chosen: `cross-validation`, `validation`, or
        `default` if a class has a single label.
    """
    values = np.array(usable_values(grid, draws), np.float32)
    weight = fold_weights(draws) if heldout is None else np.ones((1, draws.count), np.float32)
    shape = (len(train), len(draws.index), len(weight))
    if not len(weight) or len(values) == 1:
        return np.full(shape[:2], grid.default, np.float32), "default"
    program = parallel.program(("choose", name, heldout is None), make_score(make_head, grid))
    banks = [jax.device_put(part) for part in train]

    def score(number: int) -> np.ndarray:
        arm, draw, fold = map(int, np.unravel_index(number, shape))
        examples = fill(draws, draw, weight[fold])
        if heldout is None:
            # The other folds are solved for, this one is counted.
            outside = fill(draws, draw, 1 - weight[fold]).weight
            return np.stack(program(values, banks[arm], *examples, outside))
        counted = np.ones(len(heldout[arm].label), np.float32)
        return np.stack(program(values, banks[arm], *examples, counted, *heldout[arm]))

    scores = np.stack(side_by_side(score, int(np.prod(shape))))
    correct, loss = np.moveaxis(scores.reshape(*shape, 2, len(values)).sum(2), 2, 0)
    # Few labels give many ties, and the smaller loss decides them.
    tied = np.where(correct == correct.max(-1, keepdims=True), loss, np.inf)
    words = "validation" if heldout is not None else "cross-validation"
    return values[tied.argmin(-1)], words


def make_score(make_head: MakeHead, grid: Grid) -> Callable[..., tuple]:
    """Make the function of one member: correct predictions and loss `[V]` for V values.

    `counted` are the weights of the held-out examples: those of the draw, or `image` and `target`.
    """

    def score(values, train, index, label, weight, counted, image=None, target=None):
        features = train[index]

        def score_value(value: jax.Array) -> tuple[jax.Array, jax.Array]:
            head = make_head({grid.number: value})
            params = solve(head, features, label, weight)
            logits = head.logits(params, features if image is None else image)
            true = label if target is None else target
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, true)
            correct = (counted * (logits.argmax(-1) == true)).sum()
            total = (counted * losses).sum()
            # A head that is not finite is never chosen.
            good = jnp.isfinite(logits).all()
            return jnp.where(good, correct, -1.0), jnp.where(good, total, jnp.float32(1e30))

        if grid.together:
            return jax.vmap(score_value)(values)
        return jax.lax.map(score_value, values)

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
    grid: Grid | None,
    values: np.ndarray,
    draws: Draws,
    train: Sequence[np.ndarray],
    test: Sequence[np.ndarray],
) -> np.ndarray:
    """Solve the head of every representation and draw; return classes int32 `[A, R, T]`.

    Args:
        parallel: compiles and runs.
        name: name of the group.
        make_head: `numbers -> Head`.
        grid: grid of the chosen values; None if the head has none.
        values: chosen values `[A, R]`.
        draws: labels.
        train: features of the training images `[N, D]` of A representations.
        test: features of the test images `[T, D]` of A representations.
    """

    def classify(value, train, test, index, label, weight):
        head = make_head({grid.number: value} if grid else {})
        params = solve(head, train[index], label, weight)
        return blockwise(lambda image: head.logits(params, image).argmax(-1), test)

    program = parallel.program(("predict", name), classify)
    banks = [jax.device_put(part) for part in train]
    tests = [jax.device_put(part) for part in test]

    def predict(number: int) -> np.ndarray:
        arm, draw = map(int, np.unravel_index(number, values.shape))
        examples = fill(draws, draw)
        if grid is None:
            # A head of the user may ignore weights.
            ones = np.ones(draws.count, np.float32)
            examples = Filled(draws.index[draw], draws.label[draw], ones)
        return np.asarray(program(values[arm, draw], banks[arm], tests[arm], *examples))

    return np.stack(side_by_side(predict, values.size)).reshape(*values.shape, -1)


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
