"""Duplicates across the splits of a data set: identical and nearly identical images."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from twostage_jax.data.similarity import (
    UNCHANGED,
    Matches,
    View,
    describe,
    find_matches,
    is_searchable,
    usable_views,
)
from twostage_jax.data.split import Split

# Splits in the order of their use. A copy in an earlier split can spoil a later one. Copies between
# train and unlabelled images spoil nothing.
USES = ("train", "unlabelled", "validation", "test")
JUDGED = ("validation", "test")
# Comparisons of two images that are made by default, by the number of channels. A core makes half a
# billion in a second. Copies of photographs are often cropped or mirrored, so they get more.
LIMITS = {1: 2_000_000_000, 3: 10_000_000_000}
UNSEARCHED = "nearly identical images were not searched"


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
        reason: sentence that says what was not searched, and why; empty if everything was.
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
        search: `exact` for identical images alone; `near` for all; `auto` for all that need at most
            two billion comparisons of images, or ten billion of images in colour.

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
    views, reason = _choose_views(images, search, exact)
    near = _nearly_identical(images, exact, views) if views else []
    merged = []
    for earlier, later in _compared(images):
        both = [x for x in (*exact, *near) if (x.earlier, x.later) == (earlier, later)]
        if both:
            columns = zip(*(x[2:] for x in both), strict=True)
            merged.append(_sorted(Pairs(earlier, later, *map(np.concatenate, columns))))
    return Duplicates(tuple(merged), bool(views), reason)


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


def _choose_views(
    images: Mapping[str, np.ndarray], search: str, exact: Sequence[Pairs]
) -> tuple[tuple[View, ...], str]:
    """Return the views that are compared, and a sentence about the others, or empty."""
    shape = images["train"].shape[1:]
    if search == "exact":
        return (), f"{UNSEARCHED}: --duplicates exact was given"
    if not is_searchable(shape, len(images["train"])):
        return (), f"{UNSEARCHED}: this needs at least 32 training images of at least 8x8 pixels"
    views = usable_views(shape)
    count = sum(len(images[a]) * len(_without_copy(images, exact, b)) for a, b in _compared(images))
    limit = LIMITS.get(shape[-1], min(LIMITS.values()))
    if search == "near" or count * len(views) <= limit:
        return views, ""
    remedy = f"{count:,} pairs take long: give --duplicates near to search anyway"
    if count <= limit:
        return (UNCHANGED,), f"mirrored and cropped copies were not searched: {remedy}"
    return (), f"{UNSEARCHED}: {remedy}"


def _nearly_identical(
    images: Mapping[str, np.ndarray], exact: list[Pairs], views: Sequence[View]
) -> list[Pairs]:
    """Search each judged split in all earlier splits; images with an identical copy are skipped."""

    @cache
    def describe_split(name: str, share: float) -> np.ndarray:
        return describe(images[name], share)

    def describe_bank(names: list[str], share: float) -> np.ndarray:
        return np.concatenate([describe_split(name, share) for name in names])

    pairs_of_splits = []
    for later in JUDGED:
        if later not in images:
            continue
        rows = _without_copy(images, exact, later)
        if not len(rows):
            continue
        earlier = [a for a, b in _compared(images) if b == later]
        take = partial(_take, [images[name] for name in earlier])
        matches = find_matches(take, images[later][rows], partial(describe_bank, earlier), views)
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
