"""Graphs and label propagation, compared with scikit-learn and with dense algebra."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from sklearn.semi_supervised import LabelSpreading

import twostage_jax as ts
from twostage_jax.stages.heads import graph as graphs
from twostage_jax.stages.heads import threshold
from twostage_jax.stages.heads.graph import (
    as_rows,
    leading_vectors,
    neighbour_graph,
    normalised,
    self_tuning,
)
from twostage_jax.stages.heads.propagation import METHODS, prepare_graph
from twostage_jax.stages.heads.search import nearest
from twostage_jax.stages.heads.sizes import parse_sizes, size_shares
from twostage_jax.stages.heads.spreading import ALPHAS, Labels, multiply
from twostage_jax.stages.heads.threshold import contradicted, modularity
from twostage_jax.stages.signature import call

KEY = jax.random.key(0)
SIZE = 5  # nodes of a clique


def cliques() -> sparse.csr_matrix:
    """Two cliques of five nodes, and a weak bridge between nodes 4 and 5."""
    weights = np.kron(np.eye(2), np.ones((SIZE, SIZE)))
    np.fill_diagonal(weights, 0)
    weights[4, 5] = weights[5, 4] = 0.1
    return sparse.csr_matrix(weights)


def prepared(weights: sparse.csr_matrix, vectors: int) -> dict[str, jax.Array]:
    """Result of `prepare_graph` for given weights."""
    matrix, degree = normalised(weights)
    values, basis = leading_vectors(matrix, vectors)
    rows = as_rows(matrix, 2 * matrix.nnz)
    arrays = {"vectors": basis, "values": values, "root": np.sqrt(degree), **rows._asdict()}
    return {
        name: jnp.asarray(np.float32(x) if x.dtype.kind == "f" else x) for name, x in arrays.items()
    }


def blobs(count: int, seed: int = 0, spread: float = 0.35) -> tuple[np.ndarray, np.ndarray]:
    """Three overlapping classes on the sphere, and their labels."""
    random = np.random.default_rng(seed)
    label = np.arange(count) % 3
    return (np.eye(3, 6)[label] + spread * random.normal(size=(count, 6))).astype(np.float32), label


def run_method(method, weights, index, label, classes=2, vectors=4, sizes=None, **numbers):
    """Shares `[N, K]` of a method on given weights."""
    counted = jax.nn.one_hot(jnp.asarray(label), classes)
    numbers = {"alpha": 0.99, "time": 1.0} | numbers
    arrays = prepared(weights, vectors)
    with jax.default_matmul_precision("highest"):
        solve = jax.jit(lambda a, i, c: METHODS[method](a, Labels(i, c, sizes), **numbers))
        return np.asarray(solve(arrays, jnp.asarray(index), counted))


def test_the_graph_has_the_self_tuning_weights_of_the_nearest_neighbours():
    features, _ = blobs(40)
    weights = neighbour_graph(features, 4).toarray()
    similarity, index = nearest(features, features, 4, exclude_self=True)
    expected = np.zeros((40, 40))
    np.put_along_axis(expected, index, self_tuning(similarity), axis=1)
    np.testing.assert_allclose(weights, (expected + expected.T) / 2, atol=1e-6)
    # The last neighbour is at d_k.
    np.testing.assert_allclose(self_tuning(similarity)[:, -1], np.exp(-4), rtol=1e-5)


def test_a_graph_of_several_components_is_joined_by_the_most_similar_pairs():
    angles = np.concatenate(
        [np.linspace(0, 0.2, 6), np.linspace(1, 1.2, 6), np.linspace(2, 2.2, 6)]
    )
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    weights = neighbour_graph(features, 2)
    assert sparse.csgraph.connected_components(weights)[0] == 1
    bridges = np.argwhere(np.isclose(weights.toarray(), graphs._BRIDGE)).tolist()
    assert bridges == [[5, 6], [6, 5], [11, 12], [12, 11]]


def test_the_leading_vectors_are_those_of_the_dense_matrix(monkeypatch):
    matrix = normalised(neighbour_graph(blobs(90)[0], 6))[0]
    dense = np.linalg.eigvalsh(matrix.toarray())[::-1]
    monkeypatch.setattr(graphs, "_DENSE", 10)  # by Lanczos' method
    values, vectors = leading_vectors(matrix, 5)
    np.testing.assert_allclose(values, dense[:5], atol=2e-3)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(5), atol=1e-4)
    assert np.array_equal(vectors, leading_vectors(matrix, 5)[1])


def test_the_product_with_rows_is_that_of_the_sparse_matrix():
    matrix = normalised(neighbour_graph(blobs(70)[0], 9))[0]
    x = np.random.default_rng(0).normal(size=(70, 2)).astype(np.float32)
    rows = as_rows(matrix, 2 * 70 * 10)
    arrays = {name: jnp.asarray(value) for name, value in rows._asdict().items()}
    np.testing.assert_allclose(multiply(arrays, jnp.asarray(x)), matrix @ x, atol=1e-5)


def test_zhou_equals_label_spreading_of_scikit_learn():
    features, label = blobs(90, spread=0.5)
    weights = neighbour_graph(features, 6)
    known = np.full(90, -1)
    known[:12] = label[:12]
    reference = LabelSpreading(lambda a, b: weights.toarray(), alpha=0.9, max_iter=2000, tol=1e-9)
    expected = reference.fit(features, known).label_distributions_
    share = run_method("zhou", weights, np.arange(12), label[:12], 3, 20, alpha=0.9)
    np.testing.assert_allclose(share, expected, atol=2e-4)


def test_zhou_with_alpha_0_takes_the_one_that_predicts_the_other_half_best():
    features, clean = blobs(240)
    weights = neighbour_graph(features, 6)
    random = np.random.default_rng(0)
    label = np.where(random.random(240) < 0.3, random.integers(0, 3, 240), clean)
    # Labels of a class alternate between the halves.
    half = np.empty(240, int)
    for name in range(3):
        half[label == name] = np.arange((label == name).sum()) % 2
    index = np.flatnonzero(half == 0)
    scores = {}
    for alpha in ALPHAS:
        share = run_method("zhou", weights, index, label[index], 3, 20, alpha=alpha)
        scores[alpha] = (share.argmax(1) == label)[half == 1].sum()
    best = max(ALPHAS, key=lambda alpha: (scores[alpha], alpha))
    assert best != max(ALPHAS)
    every = np.arange(240)
    share = run_method("zhou", weights, every, label, 3, 20, alpha=0.0)
    expected = run_method("zhou", weights, every, label, 3, 20, alpha=best)
    np.testing.assert_allclose(share, expected, atol=1e-5)
    # A fifth of the labels is wrong, and nearly all images get their class.
    assert (share.argmax(1) == clean).mean() > 0.95


def test_modularity_is_that_of_newman_and_girvan():
    weights = cliques()
    arrays = prepared(weights, 4)
    hard = np.zeros((2, 10), np.float32)
    hard[0, :4] = hard[1, 4:] = 1
    dense = weights.toarray()
    degree = dense.sum(1)
    same = hard.T @ hard
    expected = ((dense - np.outer(degree, degree) / degree.sum()) * same).sum() / degree.sum()
    np.testing.assert_allclose(modularity(arrays, jnp.asarray(hard)), expected, atol=1e-5)


def test_a_label_unlike_its_neighbours_is_contradicted():
    # The labelled nodes have their labels in the partition. Node 6 lies in the clique of class 1.
    hard = np.zeros((2, 10), np.float32)
    hard[0, [0, 1, 2, 3, 4, 6]] = hard[1, [5, 7, 8, 9]] = 1
    labels = Labels(jnp.array([0, 6, 7]), jnp.eye(2)[jnp.array([0, 0, 1])], None)
    share = contradicted(prepared(cliques(), 4), labels, jnp.asarray(hard))
    assert float(share) == pytest.approx(1 / 3)


@pytest.mark.parametrize("count", [3, 30])
def test_poisson_mbo_keeps_the_start_with_fewest_contradictions_and_best_modularity(
    count, monkeypatch
):
    features, label = blobs(300, seed=3, spread=0.9)
    weights = neighbour_graph(features, 6)
    arrays = prepared(weights, 24)
    index = np.arange(count)
    labels = Labels(jnp.asarray(index), jnp.eye(3)[label[:count]], None)

    def quality(*starts: tuple[int, float]) -> tuple[float, float]:
        monkeypatch.setattr(threshold, "_STARTS", starts)
        soft = run_method("poisson-mbo", weights, index, label[:count], 3, 24, time=8.0)
        hard = jnp.asarray(soft.T)
        share = float(contradicted(arrays, labels, hard))
        return round(-share, 5), round(float(modularity(arrays, hard)), 5)

    starts = threshold._STARTS
    single = [quality(start) for start in starts]
    assert len(set(single)) > 1
    assert quality(*starts) == max(single)


def test_auto_uses_zhou_where_the_clusters_contradict_the_labels():
    features, label = blobs(90, spread=0.1)
    weights = neighbour_graph(features, 6)
    index = np.arange(12)
    other = np.random.default_rng(0).permutation(label[:12])
    for given, method in ((label[:12], "poisson-mbo"), (other, "zhou")):
        share = run_method("auto", weights, index, given, 3, 20)
        expected = run_method(method, weights, index, given, 3, 20)
        np.testing.assert_allclose(share, expected, atol=1e-5)


@pytest.mark.parametrize(("count", "method"), [(59, "poisson-mbo"), (60, "zhou")])
def test_auto_uses_zhou_from_twenty_labels_per_class_on(count, method):
    features, label = blobs(90, spread=0.1)
    weights = neighbour_graph(features, 6)
    index = np.arange(count)
    share = run_method("auto", weights, index, label[:count], 3, 20)
    expected = run_method(method, weights, index, label[:count], 3, 20)
    np.testing.assert_array_equal(share, expected)


def test_one_label_of_each_class_gives_the_smoothest_alpha():
    chosen = run_method("zhou", cliques(), [0, 9], [0, 1], alpha=0.0)
    np.testing.assert_allclose(chosen, run_method("zhou", cliques(), [0, 9], [0, 1], alpha=0.99))


def test_alpha_can_be_set_and_swept():
    features, label = blobs(40, spread=0.5)

    def share(alpha):
        head = call(ts.propagate, {"classes": 3, "method": "zhou"}, {"alpha": alpha})
        batch = {"label": jnp.asarray(label[:9]), "weight": jnp.ones(9), "index": jnp.arange(9)}
        batch |= {"features": jnp.asarray(features), "prepared": prepared_graph}
        return head.solve(KEY, batch)["share"]

    prepared_graph = ts.propagate(3, "zhou").prepare(features)
    alphas = [0.0, 0.5, 0.9]
    swept = jax.jit(jax.vmap(share))(jnp.array(alphas))
    for alpha, expected in zip(alphas, swept, strict=True):
        np.testing.assert_allclose(jax.jit(partial(share, alpha))(), expected, atol=1e-5)
    assert np.abs(swept[1] - swept[2]).max() > 0.01


@pytest.mark.parametrize("vectors", [4, 30])
def test_poisson_learning_equals_a_dense_solve(vectors):
    features, label = blobs(60)
    weights = neighbour_graph(features, 5)
    dense = weights.toarray()
    laplacian = np.diag(dense.sum(1)) - dense
    index = np.arange(7)  # two classes have two labels, one has three
    source = np.zeros((60, 3))
    source[index] = np.eye(3)[label[index]] - np.eye(3)[label[index]].mean(0)
    expected = np.linalg.pinv(laplacian) @ source
    degree = dense.sum(1)
    expected -= degree @ expected / degree.sum()  # the solution of mean 0 by degree
    share = run_method("poisson", weights, index, label[:7], 3, vectors)
    # Shares are a softmax of scores on the scale of their root mean square.
    score = np.log(share) - np.log(share).mean(1, keepdims=True)
    expected -= expected.mean(1, keepdims=True)
    scale = np.sqrt((expected**2).mean())
    np.testing.assert_allclose(score, expected / scale, atol=5e-3)


@pytest.mark.parametrize("method", METHODS)
def test_each_clique_gets_the_class_of_its_label(method):
    sizes = jnp.full(2, 0.5)
    share = run_method(method, cliques(), [1, 7], [1, 0], sizes=sizes)
    assert share.argmax(1).tolist() == [1] * SIZE + [0] * SIZE
    np.testing.assert_allclose(share.sum(1), 1, atol=1e-5)


def test_mbo_keeps_its_clusters_where_a_label_lies_in_the_wrong_one():
    """Four blobs, one label each; the label of class 3 is the node of blob 2 nearest to blob 3."""
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 60)
    features = 3 * np.eye(4, 8)[truth] + 0.5 * random.normal(size=(240, 8))
    features = features.astype(np.float32)
    index = np.array([0, 60, 120, 180])
    head = ts.propagate(4, vectors=12)
    arrays = head.prepare(features)
    label = np.arange(4)
    batch = {"image": features[index], "label": label, "weight": np.ones(4, np.float32)}
    batch |= {"features": features, "index": index, "prepared": arrays}
    params = jax.jit(head.solve)(KEY, jax.tree.map(jnp.asarray, batch))
    assert (head.transduce(params).argmax(-1) == truth).all()
    # New images are classified by their neighbours.
    new = 3 * np.eye(4, 8) + 0.1
    assert head.logits(params, jnp.asarray(new, jnp.float32)).argmax(-1).tolist() == [0, 1, 2, 3]


def test_no_class_of_weak_features_takes_over_in_the_free_rounds():
    features = np.random.default_rng(1).normal(size=(600, 8)).astype(np.float32)
    index = jnp.arange(4)
    batch = {"image": features[:4], "label": index, "weight": jnp.ones(4), "index": index}
    batch |= {"features": features, "prepared": ts.propagate(4, vectors=20).prepare(features)}

    def largest(class_sizes: str) -> int:
        head = ts.propagate(4, "poisson-mbo", class_sizes=class_sizes, vectors=20)
        params = jax.jit(head.solve)(KEY, jax.tree.map(jnp.asarray, batch))
        return np.bincount(np.asarray(head.transduce(params)).argmax(-1)).max()

    assert largest("free") > 500
    # The free rounds may double a class, from 150.
    assert largest("equal") <= 300


def test_class_sizes_move_the_border_between_two_classes():
    """A line of nodes of equal weights has no border of its own."""
    angles = np.linspace(0, 3, 120)
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    index = jnp.array([5, 115])
    counts = {}
    for sizes in ("equal", "0.6,0.4"):
        head = ts.propagate(2, class_sizes=sizes, neighbours=4, vectors=20)
        batch = {"label": jnp.arange(2), "weight": jnp.ones(2), "index": index}
        batch |= {"features": jnp.asarray(features), "prepared": head.prepare(features)}
        share = jax.jit(head.solve)(KEY, batch)["share"]
        counts[sizes] = int((share.argmax(1) == 0).sum())
    assert abs(counts["equal"] - 60) <= 3 and counts["0.6,0.4"] > counts["equal"]


def test_sizes_are_equal_given_free_or_estimated_from_the_labels():
    counted = jnp.eye(3)[jnp.array([0, 0, 0, 1, 1, 2])]
    assert size_shares("free", counted) is None
    np.testing.assert_allclose(size_shares("equal", counted), [1 / 3] * 3)
    np.testing.assert_allclose(size_shares("labels", counted), np.array([4, 3, 2]) / 9)
    given = size_shares(parse_sizes((0.5, 0.25, 0.25), 3), counted)
    np.testing.assert_allclose(given, [0.5, 0.25, 0.25])


def test_what_is_prepared_has_one_shape_for_features_of_one_shape():
    shapes = [
        {n: x.shape for n, x in prepare_graph(blobs(50, seed)[0], 5, 60).items()}
        for seed in range(2)
    ]
    assert shapes[0] == shapes[1] and shapes[0]["vectors"] == (50, 60)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ts.propagate(2, "zho"), "unknown method 'zho': did you mean 'zhou'"),
        (lambda: ts.propagate(2, neighbours=0), "neighbours is 0: give a whole number from 1"),
        (lambda: ts.propagate(2, time=0.0), "time is 0.0"),
        (lambda: ts.propagate(2, alpha=1.0), "alpha is 1.0"),
        (lambda: ts.propagate(2, class_sizes="0.5,0.6"), "--head.class-sizes adds up to 1.1: give"),
        (lambda: ts.propagate(3, class_sizes="0.5,0.5"), "2 shares: give one for each of 3"),
        (lambda: ts.propagate(2, class_sizes="even"), "--head.class-sizes is 'even': give equal"),
        (lambda: ts.propagate(2, class_sizes=(0.0, 1.0)), "give shares above 0 and below 1"),
        (lambda: ts.propagate(2).prepare(np.ones((12, 2))), "neighbours is 12 for 12 training"),
        (lambda: ts.propagate(2).solve(KEY, {}), "has no graph: put prepared"),
        (lambda: ts.knn_reliable(2, least=5, most=3), "most is 3: give a whole number from 5"),
        (lambda: ts.knn_reliable(2, doubt=-1.0), "doubt is -1.0"),
        (lambda: ts.prototype(2, steps=-1), "steps is -1"),
        (lambda: ts.prototype(2, temperature=0.0), "temperature is 0.0"),
    ],
)
def test_wrong_values_get_one_sentence(call, message):
    with pytest.raises(ts.UserError, match=message):
        call()
