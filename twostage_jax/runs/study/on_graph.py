"""Heads on a graph of all training images, for all draws of all numbers of labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.runs.study.draws import Draws
from twostage_jax.runs.study.parallel import Parallel, side_by_side
from twostage_jax.stages.stage import Head, new_key
from twostage_jax.trees import PyTree


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
    parallel: Parallel, name: str, head: Head, draws: Sequence[Draws], graph: Graph
) -> list[dict[str, np.ndarray]]:
    """Solve a head on a graph for all draws of all numbers of labels.

    Each draw is solved alone, because its arrays then stay in the caches. Test images are
    classified for all draws together, which searches their neighbours once.

    Args:
        parallel: compiles and runs.
        name: name of the programs; equal for graphs of one head and one shape.
        head: head with `prepare`.
        draws: labels, for each number of labels.
        graph: the graph.

    Returns:
        For each number of labels `predicted` int32 `[1, R, T]`, classes of the test images, which
        are not in the graph; and `transductive` float64 `[1, R]`, the share of errors among the
        training images in the graph that have a label in the source but not in the draw.
    """
    names = sorted(graph.prepared)
    shared = [jax.device_put(x) for x in (graph.features, *(graph.prepared[x] for x in names))]

    def solve_draw(index, label, features, *prepared):
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
        return head.solve(new_key(), batch)

    def solve(index, label, truth, *shared):
        params = solve_draw(index, label, *shared)
        wrong = jnp.float32(jnp.nan)
        if head.transduce is not None:
            inside = head.transduce(params)[: len(truth)].argmax(-1) != truth
            wrong = inside.at[index].set(False).sum()
        # The inputs among the parameters are the same for all draws.
        return [x for x in jax.tree.leaves(params) if not _is_one_of(x, shared)], wrong

    origins = _origins(solve_draw, draws[0].index[0], draws[0].label[0], shared)

    def classify(leaves_of_draws, test, *shared):
        def classes(leaves_of_draws: list[jax.Array]) -> jax.Array:
            rest = iter(leaves_of_draws)
            leaves = [next(rest) if x is None else shared[x] for x in origins[0]]
            return head.logits(jax.tree.unflatten(origins[1], leaves), test).argmax(-1)

        return jax.vmap(classes)(leaves_of_draws)

    program = parallel.program(("solve", name), solve)
    truth = jax.device_put(graph.label)
    members = [(part.index[r], part.label[r]) for part in draws for r in range(len(part.index))]
    solved = side_by_side(lambda number: program(*members[number], truth, *shared), len(members))
    leaves_of_draws = [
        jnp.stack(leaves) for leaves in zip(*(leaves for leaves, _ in solved), strict=True)
    ]
    predicted = parallel.program(("classify", name), classify)(leaves_of_draws, graph.test, *shared)
    wrong = np.array([count for _, count in solved])
    cuts = np.cumsum([len(part.index) for part in draws])[:-1]
    results = []
    for part, classes, errors in zip(
        draws, np.split(np.asarray(predicted), cuts), np.split(wrong, cuts), strict=True
    ):
        without = len(graph.label) - part.count
        inside = {"transductive": errors[None] / without} if head.transduce and without else {}
        results.append({"predicted": classes[None], **inside})
    return results


def _is_one_of(leaf: jax.Array, arrays: Sequence[jax.Array]) -> bool:
    return any(leaf is array for array in arrays)


def _origins(
    solve: Callable, index: np.ndarray, label: np.ndarray, shared: Sequence[jax.Array]
) -> tuple[list[int | None], PyTree]:
    """Return which of the shared inputs each leaf of the parameters is, and their structure."""
    traced: list = []

    def trace(index: jax.Array, label: jax.Array, *shared: jax.Array) -> None:
        leaves, structure = jax.tree.flatten(solve(index, label, *shared))
        numbers = [next((i for i, x in enumerate(shared) if x is leaf), None) for leaf in leaves]
        traced.append((numbers, structure))

    jax.eval_shape(trace, index, label, *shared)
    return traced[0]
