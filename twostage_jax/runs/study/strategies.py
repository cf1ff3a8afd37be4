"""Comparison of the strategies for labelling, on one propagation head."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.runs.study.selection import STRATEGIES, Choice, Pool, choose_from
from twostage_jax.stages.heads.propagation import prepare_graph, propagate
from twostage_jax.stages.heads.solved import linear
from twostage_jax.stages.stage import new_key

NEIGHBOURS = 12  # number of neighbours in the graph, as in the head
VECTORS = 60
PENALTY = 0.01  # penalty of the logistic regression whose probabilities give the margins


def compare_strategy(
    pool: Pool,
    graph: Mapping[str, np.ndarray],
    label: np.ndarray,
    classes: int,
    strategy: str,
    counts: Sequence[int],
    seed: int,
) -> np.ndarray:
    """Label the examples that a strategy chooses, and return the error on held-out examples.

    The graph and `label` have the examples of the pool first, then held-out examples, which cannot
    be chosen. An error on the rest of the pool would favour strategies that label difficult
    examples, because a labelled example is never an error.

    The strategy continues from its own labels: its first `counts[0]` examples, then more until
    there are `counts[1]`, and so on. `margin` needs labels, so its first examples are those of
    `typical`.

    Args:
        pool: features `[N, D]`.
        graph: from `make_graph`, of all examples.
        label: true labels int `[N + V]`.
        classes: number of classes K.
        strategy: a name of `STRATEGIES`.
        counts: numbers of labels, in ascending order.
        seed: seed of this repetition.

    Returns:
        Error in [0, 1] for each count, float64 `[len(counts)]`.
    """
    chosen = np.empty(0, np.int32)
    errors = []
    for count in counts:
        key = jax.random.fold_in(new_key(seed), count)
        begins = strategy == "margin" and not len(chosen)
        name = "typical" if begins else strategy
        probability = None
        if name == "margin":
            probability = label_probability(pool.units, chosen, label[chosen], classes)
        choice = Choice(count - len(chosen), key, probability)
        chosen = np.concatenate([chosen, choose_from(pool, name, choice, chosen)])
        wrong = propagate_labels(graph, chosen, label[chosen]) != label
        errors.append(wrong[len(pool.features) :].mean())
    return np.array(errors)


def compare_strategies(
    pool: Pool,
    graph: Mapping[str, np.ndarray],
    label: np.ndarray,
    classes: int,
    counts: Sequence[int],
    repeats: int,
    seed: int,
    cell: Callable[[str, Callable[[], dict[str, np.ndarray]]], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Return the errors of every strategy, `[repeats, len(counts)]`.

    Repetition r has the seed `seed + r` for every strategy, so differences are paired.

    Args:
        pool: features `[N, D]`.
        graph: from `make_graph`, of all examples.
        label: true labels int `[N + V]`.
        classes: number of classes K.
        counts: numbers of labels, in ascending order.
        repeats: number of repetitions.
        seed: seed of the first repetition.
        cell: `(name, make) -> arrays`, as `Cells.compute`.
    """
    errors = {}
    for strategy in STRATEGIES:
        rows = []
        for repeat in range(repeats):
            arguments = (pool, graph, label, classes, strategy, counts, seed + repeat)
            make = partial(_errors, *arguments)
            rows.append(cell(f"{strategy}-{repeat}", make)["error"])
        errors[strategy] = np.stack(rows)
    return errors


def _errors(*arguments) -> dict[str, np.ndarray]:
    return {"error": compare_strategy(*arguments)}


def make_graph(features: np.ndarray) -> dict[str, np.ndarray]:
    """Leading vectors of the neighbour graph of features `[N, D]`, as `propagate` makes it."""
    neighbours = min(NEIGHBOURS, len(features) - 1)
    return prepare_graph(features, neighbours, VECTORS)


def propagate_labels(
    graph: Mapping[str, np.ndarray], rows: np.ndarray, label: np.ndarray
) -> np.ndarray:
    """Return the class that `propagate` assigns to each example of a graph, int `[N]`.

    The head only has the classes with a label, so all examples of other classes are errors.

    Args:
        graph: from `make_graph`.
        rows: indices of the labelled examples, `[L]`.
        label: their labels int `[L]`.
    """
    present, position = np.unique(label, return_inverse=True)
    if len(present) == 1:
        return np.full(len(graph["root"]), present[0])
    on_device = {name: jnp.asarray(values) for name, values in graph.items()}
    best = _propagated(on_device, jnp.asarray(rows), jnp.asarray(position), len(present))
    return present[np.asarray(best)]


@partial(jax.jit, static_argnames="classes")
def _propagated(
    graph: Mapping[str, jax.Array], rows: jax.Array, label: jax.Array, classes: int
) -> jax.Array:
    """Class of each example `[N]`, from the labels `[L]` of some examples."""
    head = propagate(classes, "poisson-mbo")
    assert head.solve is not None
    assert head.transduce is not None
    nothing = jnp.zeros((len(label), 1))
    counted = jnp.ones(len(label))
    # Only new images need features, and there are none.
    batch: dict[str, Any] = {"image": nothing, "label": label, "weight": counted, "index": rows}
    batch |= {"prepared": graph, "features": nothing}
    return head.transduce(head.solve(new_key(), batch)).argmax(-1)


def label_probability(
    units: np.ndarray, rows: np.ndarray, label: np.ndarray, classes: int
) -> np.ndarray:
    """Probabilities `[N, K]` of a logistic regression on the labels `[L]` of some examples."""
    image = jnp.asarray(units)
    return np.asarray(_logistic(image, jnp.asarray(rows), jnp.asarray(label), classes))


@partial(jax.jit, static_argnames="classes")
def _logistic(image: jax.Array, rows: jax.Array, label: jax.Array, classes: int) -> jax.Array:
    head = linear(classes, PENALTY)
    assert head.solve is not None
    batch = {"image": image[rows], "label": label, "weight": jnp.ones(len(rows))}
    return jax.nn.softmax(head.logits(head.solve(new_key(), batch), image))
