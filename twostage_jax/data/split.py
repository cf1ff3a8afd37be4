"""Deterministic stratified splits."""

import numpy as np

# `image` [N, H, W, C] and `label` [N], and whatever else has an entry for each example.
Split = dict[str, np.ndarray]

# A split is a property of the data set, so its seed is not the seed of a run.
SPLIT_SEED = 0


def set_aside(split: Split, count: int) -> tuple[Split, Split]:
    """Split off `count` examples, stratified by class; return the rest and these examples."""
    chosen = np.zeros(len(split["label"]), bool)
    chosen[stratified_indices(split["label"], count)] = True
    rest = {name: values[~chosen] for name, values in split.items()}
    aside = {name: values[chosen] for name, values in split.items()}
    return rest, aside


def stratified_indices(label: np.ndarray, count: int) -> np.ndarray:
    """Draw `count` sorted indices so that each class keeps its share.

    Shares are rounded by largest remainder, ties by class. A class keeps at least one example
    outside the draw wherever the other classes allow it. Always the same draw for the same labels.
    """
    present, sizes = np.unique(label, return_counts=True)
    exact = sizes * (count / len(label))
    # Without the last example of a class in train, nothing could predict that class.
    room = sizes - 1 if count <= (sizes - 1).sum() else sizes
    take = np.minimum(np.floor(exact).astype(int), room)
    while take.sum() < count:
        # If a class has no room left, the next classes fill its place.
        ready = np.flatnonzero(take < room)
        shortfall = (take - exact)[ready]
        take[ready[np.argsort(shortfall, kind="stable")][: count - take.sum()]] += 1
    # NumPy guarantees the numbers of `RandomState` for all versions.
    random = np.random.RandomState(SPLIT_SEED)
    picks = [
        random.permutation(np.flatnonzero(label == k))[:n]
        for k, n in zip(present, take, strict=True)
    ]
    return np.sort(np.concatenate(picks))
