"""Nearest-neighbour graph of features, and the leading vectors of its normalised weights."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from twostage_jax.errors import UserError
from twostage_jax.stages.heads.search import nearest

WIDTH = 8  # entries of a row of `Rows`
_BRIDGE = 1e-3  # weight of an edge that joins two components
_DENSE = 400  # largest number of nodes for which all eigenvectors are computed
_TOLERANCE = 1e-3  # of the eigenvalues; the resulting error of a label is much smaller


class Rows(NamedTuple):
    """Sparse matrix as rows of `WIDTH` entries; a long row of the matrix is cut into several.

    Attributes:
        column: int32 `[C, WIDTH]`.
        value: float32 `[C, WIDTH]`, 0 where there is no entry.
        row: row of the matrix, int32 `[C]`, sorted.
    """

    column: np.ndarray
    value: np.ndarray
    row: np.ndarray


def self_tuning(similarity: np.ndarray) -> np.ndarray:
    """Return the weights `exp(-4 d² / d_k²)` of neighbours with cosine similarities `[N, k]`.

    `d² = 2 - 2 · similarity` is the squared distance of unit vectors, and `d_k` the distance of
    the last neighbour (Zelnik-Manor and Perona, "Self-Tuning Spectral Clustering", 2004; the
    factor is Calder's).

    >>> import numpy as np
    >>> self_tuning(np.array([[1.0, 0.5]])).round(3).tolist()
    [[1.0, 0.018]]
    """
    squared = np.maximum(2 - 2 * similarity, 0)
    return np.exp(-4 * squared / np.maximum(squared[:, -1:], 1e-9))


def neighbour_graph(features: np.ndarray, neighbours: int) -> sparse.csr_matrix:
    """Return the symmetric weights `[N, N]` of the graph of nearest neighbours by cosine.

    Each example has an edge to its nearest other examples, with the weight of `self_tuning`; the
    result is the mean of this matrix and its transpose. If the graph has several components, an
    edge of weight 0.001 between their most similar examples joins them (Borůvka, 1926).

    Args:
        features: floats `[N, D]`.
        neighbours: number of neighbours, from 1 to N - 1.

    Raises:
        UserError: features that are not finite, or too few examples.

    >>> import numpy as np
    >>> graph = neighbour_graph(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]), 1)
    >>> graph.shape, graph.nnz  # two pairs and a bridge
    ((4, 4), 6)
    """
    count = len(features)
    if count < 2:
        raise UserError(f"a graph of neighbours has {count} training image: give at least 2")
    if neighbours > count - 1:
        raise UserError(
            f"neighbours is {neighbours} for {count} training images: give --head.set "
            f"neighbours=N with N of at most {count - 1}"
        )
    similarity, index = nearest(features, features, neighbours, exclude_self=True)
    row = np.repeat(np.arange(count), neighbours)
    entries = (self_tuning(similarity).ravel(), (row, index.ravel()))
    graph = sparse.csr_matrix(entries, (count, count))
    return _connected(((graph + graph.T) / 2).tocsr(), features)


def _connected(graph: sparse.csr_matrix, features: np.ndarray) -> sparse.csr_matrix:
    """Join the components of a graph, each by one edge to the most similar example outside."""
    while True:
        count, component = sparse.csgraph.connected_components(graph, directed=False)
        if count == 1:
            return graph
        largest = np.bincount(component).argmax()
        ends = []
        for number in range(count):
            if number == largest:
                continue
            inside = np.flatnonzero(component == number)
            outside = np.flatnonzero(component != number)
            similarity, index = nearest(features[inside], features[outside], 1)
            best = similarity[:, 0].argmax()
            ends.append((inside[best], outside[index[best, 0]]))
        # Two components may choose the same edge: `maximum` counts it once.
        start, end = np.array(ends).T
        value = np.full(len(ends), _BRIDGE)
        bridges = sparse.csr_matrix((value, (start, end)), graph.shape)
        bridges.data[:] = _BRIDGE
        graph = graph.maximum(bridges).maximum(bridges.T).tocsr()


def normalised(graph: sparse.csr_matrix) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return `D^-1/2 W D^-1/2` and the degrees `[N]` of a graph W."""
    degree = np.asarray(graph.sum(1)).ravel()
    scale = sparse.diags(1 / np.sqrt(np.maximum(degree, 1e-12)))
    return (scale @ graph @ scale).tocsr(), degree


def leading_vectors(matrix: sparse.csr_matrix, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues `[m]`, in falling order, and their vectors `[N, m]`.

    Args:
        matrix: symmetric `[N, N]`.
        count: number of vectors m, from 1 to N.
    """
    size = len(matrix.indptr) - 1
    if size <= _DENSE or count >= size // 2:
        values, vectors = np.linalg.eigh(matrix.toarray())
    else:
        # A fixed start makes the result the same in each run.
        start = np.random.default_rng(0).normal(size=size).astype(np.float32)
        values, vectors = sparse.linalg.eigsh(
            matrix.astype(np.float32),
            count,
            which="LA",
            tol=_TOLERANCE,
            v0=start,
            ncv=min(size, int(1.6 * count) + 10),
        )
    order = np.argsort(-values)[:count]
    return values[order].astype(np.float32), np.ascontiguousarray(vectors[:, order], np.float32)


def as_rows(matrix: sparse.csr_matrix, most: int) -> Rows:
    """Return a sparse matrix `[N, N]` as rows for a product on the device.

    Args:
        matrix: sparse matrix.
        most: bound for the number of entries; the number of rows depends on it and on N alone.
    """
    size = len(matrix.indptr) - 1
    lengths = np.diff(matrix.indptr)
    pieces = -(-lengths // WIDTH)
    total = size + most // WIDTH
    # Unused rows are zeros at the end.
    row = np.full(total, size - 1, np.int32)
    row[: pieces.sum()] = np.repeat(np.arange(size), pieces)
    first = np.concatenate([[0], np.cumsum(pieces)[:-1]])
    # Place of each entry: the first row of its matrix row, and its number within that row.
    within = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
    place = np.repeat(first * WIDTH, lengths) + within
    column = np.zeros(total * WIDTH, np.int32)
    value = np.zeros(total * WIDTH, np.float32)
    column[place] = matrix.indices
    value[place] = matrix.data
    return Rows(column.reshape(total, WIDTH), value.reshape(total, WIDTH), row)
