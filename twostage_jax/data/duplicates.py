"""Duplicates across the splits of a data set: identical and nearly identical images."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from twostage_jax.data.similarity import Matches, describe, find_matches, is_searchable
from twostage_jax.data.split import Split

# Splits in the order of their use. A copy in an earlier split can spoil a later one. Copies between
# train and unlabelled images spoil nothing.
USES = ("train", "unlabelled", "validation", "test")
JUDGED = ("validation", "test")
# Pairs of images that are compared by default; 0.9 billion take two seconds of a core.
PAIR_LIMIT = 2_000_000_000


class Pairs(NamedTuple):
    """Images of one split that have a copy in an earlier split, at most one pair for each.

    Attributes:
        earlier: name of the split with the copies, such as `train`.
        later: name of the other split, such as `test`.
        copy: positions in the earlier split, int64 `[P]`.
        image: positions in the later split, int64 `[P]`.
        distance: 0 for identical pixels, else 1 minus the correlation of the pixels, float32 `[P]`.
    """

    earlier: str
    later: str
    copy: np.ndarray
    image: np.ndarray
    distance: np.ndarray

    @property
    def identical(self) -> np.ndarray:
        """Mask of the pairs with identical pixels, bool `[P]`."""
        return self.distance == 0


class Duplicates(NamedTuple):
    """Duplicates across the splits of a data set.

    Attributes:
        pairs: pairs of each earlier and later split that has any.
        near: True if nearly identical images were searched too.
        reason: sentence that says why not; empty if they were.
    """

    pairs: tuple[Pairs, ...]
    near: bool
    reason: str

    @property
    def counts(self) -> list[tuple[str, str, int, int]]:
        """Earlier split, later split, number of identical copies and of all copies."""
        return [
            (pairs.earlier, pairs.later, int(pairs.identical.sum()), len(pairs.image))
            for pairs in self.pairs
        ]

    def affected(self, split: str, count: int) -> np.ndarray:
        """Mask bool `[count]` of the images of a split that have a copy in an earlier split."""
        mask = np.zeros(count, bool)
        for pairs in self.pairs:
            if pairs.later == split:
                mask[pairs.image] = True
        return mask


def find_duplicates(splits: Mapping[str, Split], search: str = "auto") -> Duplicates:
    """Find images of validation and test that have a copy in an earlier split.

    Labels are ignored. Identical images have the same SHA-256 of their pixels. The search for
    nearly identical images is that of `similarity`.

    Args:
        splits: images by name, such as `Dataset.splits`.
        search: `exact` for identical images alone; `near` for both; `auto` for both if at most two
            billion pairs of images must be compared.

    >>> import twostage_jax as ts
    >>> dataset = ts.load("digits")
    >>> splits = {"train": dataset.train, "test": {"image": dataset.train["image"][:5]}}
    >>> pairs = find_duplicates(splits).pairs[0]
    >>> pairs.later, pairs.copy.tolist(), pairs.identical.all().item()
    ('test', [0, 1, 2, 3, 4], True)
    """
    images = {name: splits[name]["image"] for name in USES if name in splits}
    images = {name: values for name, values in images.items() if len(values)}
    exact = _identical(images)
    reason = _reason(images, search, exact)
    near = [] if reason else _nearly_identical(images, exact)
    merged = []
    for earlier, later in _compared(images):
        both = [x for x in (*exact, *near) if (x.earlier, x.later) == (earlier, later)]
        if both:
            columns = zip(*(x[2:] for x in both), strict=True)
            merged.append(_sorted(Pairs(earlier, later, *map(np.concatenate, columns))))
    return Duplicates(tuple(merged), not reason, reason)


def digests_of(images: np.ndarray) -> list[bytes]:
    """Return the SHA-256 of the pixels of each image `[N, H, W, C]`."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


def _compared(images: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    names = list(images)
    return [(a, b) for b in names if b in JUDGED for a in names[: names.index(b)]]


def _sorted(pairs: Pairs) -> Pairs:
    order = np.argsort(pairs.image, kind="stable")
    return pairs._replace(
        copy=pairs.copy[order], image=pairs.image[order], distance=pairs.distance[order]
    )


def _identical(images: Mapping[str, np.ndarray]) -> list[Pairs]:
    digests = {name: digests_of(values) for name, values in images.items()}
    pairs_of_splits = []
    for earlier, later in _compared(images):
        # Backwards, so that the first of several copies is kept.
        first = {x: row for row, x in reversed(list(enumerate(digests[earlier])))}
        rows = [row for row, x in enumerate(digests[later]) if x in first]
        if rows:
            copies = np.array([first[digests[later][row]] for row in rows])
            distance = np.zeros(len(rows), np.float32)
            pairs_of_splits.append(Pairs(earlier, later, copies, np.array(rows), distance))
    return pairs_of_splits


def _without_copy(
    images: Mapping[str, np.ndarray], exact: Sequence[Pairs], later: str
) -> np.ndarray:
    """Positions of the images of a split that have no identical copy in an earlier split."""
    has_copy = np.zeros(len(images[later]), bool)
    for pairs in exact:
        if pairs.later == later:
            has_copy[pairs.image] = True
    return np.flatnonzero(~has_copy)


def _reason(images: Mapping[str, np.ndarray], search: str, exact: Sequence[Pairs]) -> str:
    """Reason why nearly identical images are not searched, or empty."""
    if search == "exact":
        return "--duplicates exact was given"
    shape = images["train"].shape[1:]
    if not is_searchable(shape, len(images["train"])):
        return "it needs at least 32 training images of 8x8 pixels"
    count = sum(len(images[a]) * len(_without_copy(images, exact, b)) for a, b in _compared(images))
    if search == "auto" and count > PAIR_LIMIT:
        return f"{count:,} pairs take long: give --duplicates near to search anyway"
    return ""


def _nearly_identical(images: Mapping[str, np.ndarray], exact: list[Pairs]) -> list[Pairs]:
    """Search each judged split in all earlier splits; images with an identical copy are skipped."""
    left = {name: _without_copy(images, exact, name) for name in images if name in JUDGED}
    if not any(map(len, left.values())):
        return []
    descriptions = {name: describe(values) for name, values in images.items()}
    pairs_of_splits = []
    for later, rows in left.items():
        earlier = [a for a, b in _compared(images) if b == later]
        if not len(rows):
            continue
        take = partial(_take, [images[name] for name in earlier])
        described = np.concatenate([descriptions[name] for name in earlier])
        matches = find_matches(take, images[later][rows], described, descriptions[later][rows])
        pairs_of_splits += _by_split(matches, rows, images, earlier, later)
    return pairs_of_splits


def _take(parts: Sequence[np.ndarray], positions: np.ndarray) -> np.ndarray:
    """Images at positions in several arrays, one after the other."""
    # They are not joined, because that would need the memory of all of them.
    taken = np.empty((len(positions), *parts[0].shape[1:]), parts[0].dtype)
    start = 0
    for images in parts:
        inside = (positions >= start) & (positions < start + len(images))
        taken[inside] = images[positions[inside] - start]
        start += len(images)
    return taken


def _by_split(
    matches: Matches,
    rows: np.ndarray,
    images: Mapping[str, np.ndarray],
    earlier: list[str],
    later: str,
) -> list[Pairs]:
    """Divide matches in a joint bank into pairs with each earlier split."""
    pairs_of_splits = []
    start = 0
    for name in earlier:
        stop = start + len(images[name])
        inside = (matches.bank >= start) & (matches.bank < stop)
        if inside.any():
            # A distance of 0 means identical pixels.
            distance = np.maximum(matches.distance[inside], np.float32(1e-6))
            copies = matches.bank[inside] - start
            pairs_of_splits.append(
                Pairs(name, later, copies, rows[matches.query[inside]], distance)
            )
        start = stop
    return pairs_of_splits
