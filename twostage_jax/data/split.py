"""Deterministic splits, stratified by class, that keep groups together."""

import functools

import numpy as np

from twostage_jax.errors import UserError

# `image` [N, H, W, C] and `label` [N], and whatever else has an entry for each example.
Split = dict[str, np.ndarray]

# A split is a property of the data set, so its seed is not the seed of a run.
SPLIT_SEED = 0
TRIES = 20  # orders of groups of which the best is taken
TRIED_GROUPS = 40_000  # bound on the work of all tries


class Columns(dict[str, np.ndarray]):
    """Split with text, such as paths. For jax it has its numbers alone; text stays on the host."""


def as_columns(split: Split) -> Split:
    """Return a split that jax takes even if it has text."""
    if not any(values.dtype.kind == "U" for values in split.values()):
        return split
    _register()
    return Columns(split)


@functools.cache
def _register() -> None:
    # Only sources with paths need jax here; reading other data does without.
    import jax

    def flatten(split: Columns) -> tuple[list[np.ndarray], tuple[str, ...]]:
        names = tuple(sorted(name for name in split if split[name].dtype.kind != "U"))
        return [split[name] for name in names], names

    def unflatten(names: tuple[str, ...], values: list[np.ndarray]) -> Split:
        return dict(zip(names, values, strict=True))

    jax.tree_util.register_pytree_node(Columns, flatten, unflatten)  # pyright: ignore


def set_aside(split: Split, count: int) -> tuple[Split, Split]:
    """Split off `count` examples, stratified by class; return the rest and these examples.

    If the examples have groups, whole groups are split off, about `count` examples.
    """
    chosen = np.zeros(len(split["label"]), bool)
    if "group" in split and count:
        chosen[group_indices(split["label"], split["group"], count)] = True
    else:
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


def group_indices(label: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """Draw the sorted indices of whole groups, about `count` examples and as stratified as it goes.

    A class keeps at least one group outside of the draw. Always the same draw for the same labels
    and groups.

    Raises:
        UserError: groups of which none can be split off.
    """
    _, group = np.unique(group, return_inverse=True)
    _, label = np.unique(label, return_inverse=True)
    table = np.zeros((group.max() + 1, label.max() + 1))
    np.add.at(table, (group, label), 1)  # images of each group in each class
    groups_of_class = (table > 0).sum(0)
    # A group that has a class for itself stays, or nothing could predict that class.
    free = np.flatnonzero(~((table > 0) & (groups_of_class == 1)).any(1))
    if not len(free):
        raise UserError(
            f"the images cannot be split by their {len(table):,} groups, because a class needs "
            "at least two groups to have images on both sides: give images of more groups, other "
            "groups, or your own test and validation splits"
        )
    random = np.random.RandomState(SPLIT_SEED)
    tries = max(1, min(TRIES, TRIED_GROUPS // len(table)))
    draws = [_draw(table, random.permutation(free), count / len(label)) for _ in range(tries)]
    _, chosen = min(draws, key=lambda draw: draw[0])
    return np.flatnonzero(np.isin(group, chosen))


def _draw(table: np.ndarray, order: np.ndarray, share: float) -> tuple[float, list[int]]:
    """Take groups in an order as long as the classes come closer to their shares."""
    totals = table.sum(0)
    target = share * totals
    left = (table > 0).sum(0)  # groups of each class that are not taken
    taken = np.zeros_like(target)
    cost = _cost(taken, target, totals)
    chosen: list[int] = []
    for group in order.tolist():
        after = taken + table[group]
        better = _cost(after, target, totals)
        present = table[group] > 0
        if (better < cost or not chosen) and (left[present] > 1).all():
            taken = after
            cost = better
            left = left - present
            chosen.append(group)
    return cost, chosen


def _cost(taken: np.ndarray, target: np.ndarray, totals: np.ndarray) -> float:
    """Squared distance of the counts of all classes, and of all images, from their targets."""
    by_class = ((taken - target) ** 2 / totals).sum()
    return float(by_class + (taken.sum() - target.sum()) ** 2 / totals.sum())
