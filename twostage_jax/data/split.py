"""Arrays in, arrays out: parts of a data set, stratified splits, fingerprints, duplicates."""

import numpy as np

Split = dict[str, np.ndarray]


# Splits are part of what a data set is, so their seed is not the run's.
SPLIT_SEED = 0


def cut(split: Split, count: int) -> tuple[Split, Split]:
    """`split` without `count` of its examples, and these: stratified, always the same ones."""
    chosen = np.zeros(len(split["label"]), bool)
    chosen[stratified(split["label"], count)] = True
    return (
        {name: values[~chosen] for name, values in split.items()},
        {name: values[chosen] for name, values in split.items()},
    )


def stratified(label: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` examples with each class in its share, the last one of a class kept back.

    Shares are rounded by largest remainder, ties by class. `RandomState` is NumPy's frozen
    generator, so the choice is the same in every version.
    """
    present, sizes = np.unique(label, return_counts=True)
    exact = sizes * (count / len(label))
    # A class keeps at least one example where the rest of the set allows it.
    room = np.maximum(sizes - 1, 0) if count <= (sizes - 1).sum() else sizes
    take = np.minimum(np.floor(exact).astype(int), room)
    while (missing := count - take.sum()) > 0:
        # Where a class has no room left, the next ones take its place.
        ready = np.flatnonzero(take < room)
        first = ready[np.argsort((take - exact)[ready], kind="stable")][:missing]
        take[first] += 1
    random = np.random.RandomState(SPLIT_SEED)
    picks = [
        random.permutation(np.flatnonzero(label == k))[:n]
        for k, n in zip(present, take, strict=True)
    ]
    return np.sort(np.concatenate(picks))
