"""Search for nearly identical images: the same picture after a small change.

Found: noise, JPEG compression, another brightness or contrast, resampling, a shift by up to an
eighth of the image, and small rotations. If there is time, mirrored copies too, and copies from
which up to a fifth of the height and width was cropped. Not found: strongly rotated copies.
`docs/protocol.md` has the measured shares.

1. Each image is described by the amplitudes of its lowest spatial frequencies, which a shift of the
   image does not change. Difference hashes are not used: on a uniform background, noise turns their
   bits at random.
2. The bank is divided at random into 16 groups. The best match in each group is a candidate, and
   the others show how close different pictures of this data set are.
3. An image is suspicious if its best match is much closer than its eighth. Then smoothed pixels are
   compared at all shifts, with the same rule. A rule without the other matches would find thousands
   of images of a thin 1 in MNIST.

These steps are repeated for each `View`: with mirrored images, and with the middle of the images.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

GROUPS = 16  # candidates of each image; the median of them is the background
FREQUENCIES = 4  # highest spatial frequency of a description, in periods per image
SMALLEST = 8  # smallest side of an image, in pixels
LARGEST = 32  # side of a thumbnail whose pixels are compared
SHIFT = 8  # a thumbnail is shifted by up to 1/8 of its side
# Ranks of the candidates whose pixels are compared: possible copies, then the background.
NEAREST = 3
BACKGROUND = (6, 7, 8, 9)
LEAST_CORRELATION = 0.9
_BLOCK = 512  # images at once

Take: TypeAlias = Callable[[np.ndarray], np.ndarray]


class View(NamedTuple):
    """What is compared: images, or a change of them.

    Both limits are for the distance to the copy, divided by the distance to the background.

    Attributes:
        mirrored: True if the queries are mirrored.
        query: share of the height and width of the queries that is kept around the middle.
        bank: the same for the images of the bank.
        suspicious: limit for the distances of descriptions.
        same: limit for the distances of pixels.
    """

    mirrored: bool = False
    query: float = 1.0
    bank: float = 1.0
    # A copy need not be cropped to exactly this share, so descriptions may differ more. The more
    # views, the more pictures are similar by chance, so pixels must differ less.
    suspicious: float = 0.5
    same: float = 0.05


UNCHANGED = View(suspicious=0.35, same=0.12)
# A query that was cropped resembles the middle of its copy, and the reverse.
CROPS = (0.95, 0.9, 0.8)
CHANGED = (
    View(mirrored=True),
    *(View(bank=share) for share in CROPS),
    *(View(query=share) for share in CROPS),
)
SMALLEST_CROPPED = 12  # smallest side of an image of which the middle is compared
# Descriptions of all images after a crop to a share.
Describe: TypeAlias = Callable[[float], np.ndarray]


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


def usable_views(shape: tuple[int, ...]) -> tuple[View, ...]:
    """Return all views of images `(H, W, C)`; there is no crop of tiny images."""
    is_large = min(shape[:2]) >= SMALLEST_CROPPED
    changed = [view for view in CHANGED if is_large or view.query == view.bank == 1]
    return (UNCHANGED, *changed)


def describe(images: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Describe images by amplitudes of low frequencies, float32 `[N, D]` of length 1.

    Args:
        images: uint8 `[N, H, W, C]`.
        share: only this share of the height and width is described, around the middle.

    >>> image = np.random.RandomState(0).randint(0, 255, (1, 16, 16, 1)).astype(np.uint8)
    >>> moved = np.roll(image, 3, axis=2)
    >>> bool(np.allclose(describe(image), describe(moved), atol=1e-5))
    True
    """
    images = _middle(images, share)
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


def _middle(images: np.ndarray, share: float) -> np.ndarray:
    """The middle of images `[N, H, W, C]`, with this share of their height and width."""
    height, width = (round(size * share) for size in images.shape[1:3])
    down = (images.shape[1] - height) // 2
    across = (images.shape[2] - width) // 2
    return images[:, down : down + height, across : across + width]


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
    take: Take, queries: np.ndarray, describe_bank: Describe, views: Sequence[View]
) -> Matches:
    """Find the images that are nearly identical with an image of the bank.

    Args:
        take: returns images uint8 `[P, H, W, C]` of the bank at positions int64 `[P]`. Few are
            read, so the bank need not be in memory.
        queries: images uint8 `[Q, H, W, C]`.
        describe_bank: returns descriptions of the bank, from `describe`, for a share.
        views: what is compared. The first view that finds a copy of an image counts.
    """
    nothing = np.empty(0, np.int64)
    matches = [Matches(nothing, nothing, np.empty(0, np.float32))]
    left = np.arange(len(queries))
    for view in views:
        found = _matches_of_view(take, queries[left], describe_bank, view)
        matches.append(found._replace(query=left[found.query]))
        left = np.delete(left, found.query)
    return Matches(*map(np.concatenate, zip(*matches, strict=True)))


def _matches_of_view(
    take: Take, queries: np.ndarray, describe_bank: Describe, view: View
) -> Matches:
    if view.mirrored:
        queries = queries[:, :, ::-1]
    described = describe(queries, view.query)
    candidates, similarity = _candidates(describe_bank(view.bank), described)
    middle = similarity.shape[1] // 2
    background = similarity[:, middle - 1 : middle + 1].mean(-1)
    ratio = _ratio(similarity[:, 0], background)
    rows = np.flatnonzero(ratio < view.suspicious)
    nothing = np.empty(0, np.int64)
    matches = [Matches(nothing, nothing, np.empty(0, np.float32))]
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        matches.append(_confirm(take, queries, candidates, block, view))
    return Matches(*map(np.concatenate, zip(*matches, strict=True)))


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


def _confirm(
    take: Take, queries: np.ndarray, candidates: np.ndarray, rows: np.ndarray, view: View
) -> Matches:
    """Return the suspicious `rows` of the queries whose pixels are those of a candidate."""
    least = min(view.query, view.bank)
    size = tuple(min(round(side * least), LARGEST) for side in queries.shape[1:3])
    thumbnails = _thumbnails(_middle(queries[rows], view.query), size)
    ranks = (*range(NEAREST), *BACKGROUND)
    similarity = np.empty((len(rows), len(ranks)), np.float32)
    for column, rank in enumerate(ranks):
        images = _middle(take(candidates[rows, rank]), view.bank)
        similarity[:, column] = _aligned_correlation(thumbnails, _thumbnails(images, size))
    best = similarity[:, :NEAREST].argmax(1)
    correlation = similarity[np.arange(len(rows)), best]
    ratio = _ratio(correlation, similarity[:, NEAREST:].mean(1))
    same = (ratio < view.same) & (correlation > LEAST_CORRELATION)
    copies = candidates[rows, best]
    distance = np.maximum(1 - correlation, 0)
    return Matches(rows[same], copies[same], distance[same])


def _thumbnails(images: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Grey, smoothed thumbnails float32 `[N, h, w]` of a size that is not larger."""
    grey = _grey(images)
    down = _means(grey.shape[1], size[0])
    across = _means(grey.shape[2], size[1])
    small = np.einsum("ph,nhw,qw->npq", down, grey, across, optimize=True)
    # Smoothing hides compression, and shifts by a part of a pixel.
    padded = np.pad(small, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]


def _means(length: int, size: int) -> np.ndarray:
    """Matrix float32 `[size, length]` of means over equal intervals."""
    edges = np.linspace(0, length, size + 1)[:, None]
    pixels = np.arange(length)[None]
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (np.maximum(overlap, 0) * size / length).astype(np.float32)


def _aligned_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Largest correlation `[N]` of two thumbnails over all shifts by up to an eighth of them."""
    height, width = first.shape[1:]
    down, across = (max(1, side // SHIFT) for side in (height, width))
    inner = first[:, down : height - down, across : width - across]
    size = inner.shape[1:]
    inner = _unit(inner.reshape(len(inner), -1)).reshape(inner.shape)
    # Sums of squares lose fewer digits around the mean.
    second = second - second.mean((1, 2), keepdims=True)
    parts = []
    for moved in _half_steps(second):
        products = _window_products(moved, inner)
        total = _window_sums(moved, size)
        squares = _window_sums(moved * moved, size) - total * total / np.prod(size)
        length = np.sqrt(np.maximum(squares, 1))
        parts.append((products / length).reshape(len(first), -1))
    return np.concatenate(parts, 1).max(1)


def _window_products(images: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Sums of products of each window of images `[N, H, W]` with `inner`, by Fourier transforms."""
    height, width = images.shape[1:]
    spectrum = np.fft.rfft2(images) * np.fft.rfft2(inner, (height, width)).conj()
    products = np.fft.irfft2(spectrum, (height, width))
    return products[:, : height - inner.shape[1] + 1, : width - inner.shape[2] + 1]


def _window_sums(images: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    down, across = (_windows(images.shape[axis + 1], size[axis]) for axis in (0, 1))
    return np.einsum("ph,nhw,qw->npq", down, images, across, optimize=True)


def _windows(length: int, size: int) -> np.ndarray:
    """Matrix float32 `[length - size + 1, length]` that sums each window of a size."""
    start = np.arange(length - size + 1)[:, None]
    pixels = np.arange(length)[None]
    return ((pixels >= start) & (pixels < start + size)).astype(np.float32)


def _half_steps(images: np.ndarray) -> Iterator[np.ndarray]:
    """Give thumbnails, and the same shifted by half a pixel down, across and both."""
    across = (images[:, :, :-1] + images[:, :, 1:]) / 2
    yield images
    yield across
    for moved in (images, across):
        yield (moved[:, :-1] + moved[:, 1:]) / 2
