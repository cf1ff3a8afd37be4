"""Search for nearly identical images: the same picture after a small change.

Found: noise, JPEG compression, another brightness or contrast, resampling, a shift by one pixel of
an image of at most 64 pixels, and most small rotations. Not found: mirrored, cropped or strongly
rotated copies. `docs/protocol.md` has the measured shares.

1. Each image is described by the amplitudes of its lowest spatial frequencies, which a shift of the
   image does not change. Difference hashes are not used: on a uniform background, noise turns their
   bits at random.
2. The bank is divided at random into 16 groups. The best match in each group is a candidate, and
   the others show how close different pictures of this data set are.
3. An image is suspicious if its best match is much closer than its eighth. Then smoothed pixels are
   compared at all shifts by one pixel, with the same rule. A rule without the other matches would
   find thousands of images of a thin 1 in MNIST.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

GROUPS = 16  # candidates of each image; the median of them is the background
FREQUENCIES = 4  # highest spatial frequency of a description, in periods per image
SMALLEST = 8  # smallest side of an image, in pixels
LARGEST = 64  # side of a thumbnail whose pixels are compared
# Ranks of the candidates whose pixels are compared: possible copies, then the background.
NEAREST = 3
BACKGROUND = (6, 7, 8, 9)
# Limits for the distance to the copy, divided by the distance to the background.
SUSPICIOUS = 0.35  # of descriptions
SAME = 0.12  # of pixels
LEAST_CORRELATION = 0.9
_BLOCK = 512  # images at once

Take: TypeAlias = Callable[[np.ndarray], np.ndarray]


class Matches(NamedTuple):
    """Nearly identical images.

    Attributes:
        query: positions of the images that have a copy in the bank, int64 `[P]`.
        bank: positions of their copies, int64 `[P]`.
        distance: 1 minus the correlation of the pixels, float32 `[P]`.
    """

    query: np.ndarray
    bank: np.ndarray
    distance: np.ndarray


def is_searchable(shape: tuple[int, ...], bank: int) -> bool:
    """Return True if images `(H, W, C)` are large enough, and the bank has enough of them."""
    return min(shape[:2]) >= SMALLEST and bank >= 2 * GROUPS


def describe(images: np.ndarray) -> np.ndarray:
    """Describe images by amplitudes of low frequencies, float32 `[N, D]` of length 1.

    Args:
        images: uint8 `[N, H, W, C]`.

    >>> image = np.random.RandomState(0).randint(0, 255, (1, 16, 16, 1)).astype(np.uint8)
    >>> moved = np.roll(image, 3, axis=2)
    >>> bool(np.allclose(describe(image), describe(moved), atol=1e-5))
    True
    """
    height, width = images.shape[1:3]
    rows = np.arange(-FREQUENCIES, FREQUENCIES + 1)
    down = _waves(rows, height)
    across = _waves(np.arange(FREQUENCIES + 1), width)
    # The mean, and conjugates of the amplitudes at opposite frequencies, add nothing.
    is_new = np.ones((len(rows), FREQUENCIES + 1), bool)
    is_new[: FREQUENCIES + 1, 0] = False
    parts = []
    for start in range(0, len(images), _BLOCK):
        grey = _grey(images[start : start + _BLOCK])
        amplitude = np.abs(np.einsum("uh,nhv->nuv", down, grey @ across.T, optimize=True))
        # The root reduces the weight of the few largest amplitudes.
        parts.append(_unit(np.sqrt(amplitude[:, is_new])).astype(np.float32))
    return np.concatenate(parts) if parts else np.empty((0, int(is_new.sum())), np.float32)


def _waves(frequencies: np.ndarray, length: int) -> np.ndarray:
    phase = -2j * np.pi * np.outer(frequencies, np.arange(length)) / length
    return np.exp(phase).astype(np.complex64)


def _grey(images: np.ndarray) -> np.ndarray:
    return images.mean(-1, dtype=np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Centre vectors `[..., D]` and give them length 1; those of constant images become 0."""
    centred = vectors - vectors.mean(-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.where(length > 1e-3, centred / np.maximum(length, 1e-3), 0)


def find_matches(
    take: Take, queries: np.ndarray, banks: np.ndarray, query_rows: np.ndarray
) -> Matches:
    """Find the images that are nearly identical with an image of the bank.

    Args:
        take: returns images uint8 `[P, H, W, C]` of the bank at positions int64 `[P]`. Few are
            read, so the bank need not be in memory.
        queries: images uint8 `[Q, H, W, C]`.
        banks: descriptions of the bank, from `describe`.
        query_rows: descriptions of the queries.
    """
    candidates, similarity = _candidates(banks, query_rows)
    middle = similarity.shape[1] // 2
    background = similarity[:, middle - 1 : middle + 1].mean(-1)
    ratio = _ratio(similarity[:, 0], background)
    rows = np.flatnonzero(ratio < SUSPICIOUS)
    parts = []
    for start in range(0, len(rows), _BLOCK):
        parts.append(_confirm(take, queries, candidates, rows[start : start + _BLOCK]))
    if not parts:
        nothing = np.empty(0, np.int64)
        return Matches(nothing, nothing, np.empty(0, np.float32))
    return Matches(*map(np.concatenate, zip(*parts, strict=True)))


def _ratio(similarity: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Distance to the best match relative to the distance to the background."""
    return (1 - similarity) / np.maximum(1 - background, 1e-6)


def _candidates(bank: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best match in each group and its similarity, `[Q, 16]`, the best one first."""
    # Sources may be sorted by class, and a group is a sample of all of them. NumPy guarantees the
    # numbers of `RandomState` for all versions.
    order = np.random.RandomState(0).permutation(len(bank))
    groups = [(rows, np.ascontiguousarray(bank[rows].T)) for rows in np.array_split(order, GROUPS)]
    candidates = np.empty((len(queries), GROUPS), np.int64)
    similarity = np.empty((len(queries), GROUPS), np.float32)
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, start + _BLOCK)
        for number, (rows, vectors) in enumerate(groups):
            products = queries[block] @ vectors
            best = products.argmax(1)
            candidates[block, number] = rows[best]
            similarity[block, number] = products[np.arange(len(best)), best]
    ranks = np.argsort(-similarity, axis=1, kind="stable")
    return np.take_along_axis(candidates, ranks, 1), np.take_along_axis(similarity, ranks, 1)


def _confirm(take: Take, queries: np.ndarray, candidates: np.ndarray, rows: np.ndarray) -> Matches:
    """Return the suspicious `rows` of the queries whose pixels are those of a candidate."""
    thumbnails = _thumbnails(queries[rows])
    ranks = (*range(NEAREST), *BACKGROUND)
    similarity = np.stack(
        [
            _aligned_correlation(thumbnails, _thumbnails(take(candidates[rows, rank])))
            for rank in ranks
        ],
        1,
    )
    best = similarity[:, :NEAREST].argmax(1)
    correlation = similarity[np.arange(len(rows)), best]
    ratio = _ratio(correlation, similarity[:, NEAREST:].mean(1))
    same = (ratio < SAME) & (correlation > LEAST_CORRELATION)
    copies = candidates[rows, best]
    distance = np.maximum(1 - correlation, 0).astype(np.float32)
    return Matches(rows[same], copies[same], distance[same])


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Grey, smoothed thumbnails float32 `[N, h, w]` with sides of at most 64 pixels."""
    grey = _grey(images)
    down = _means(grey.shape[1])
    across = _means(grey.shape[2])
    small = np.einsum("ph,nhw,qw->npq", down, grey, across, optimize=True)
    # Smoothing hides compression, and shifts by a part of a pixel.
    padded = np.pad(small, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]


def _means(length: int) -> np.ndarray:
    """Matrix float32 `[min(length, 64), length]` of means over equal intervals."""
    size = min(length, LARGEST)
    edges = np.linspace(0, length, size + 1)[:, None]
    pixels = np.arange(length)[None]
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (np.maximum(overlap, 0) * size / length).astype(np.float32)


def _aligned_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Largest correlation `[N]` of two thumbnails over all shifts by at most one pixel."""
    height, width = (size - 2 for size in first.shape[1:])
    inner = _unit(first[:, 1:-1, 1:-1].reshape(len(first), -1))
    correlations = []
    for down in range(3):
        for across in range(3):
            moved = second[:, down : down + height, across : across + width]
            moved = _unit(moved.reshape(len(moved), -1))
            correlations.append((inner * moved).sum(1))
    return np.max(correlations, axis=0)
