"""Choice of unlabelled examples to label next."""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.errors import UserError, did_you_mean
from twostage_jax.runs.study.agreement import centred_units
from twostage_jax.runs.study.clusters import k_means
from twostage_jax.stages.heads.search import nearest
from twostage_jax.stages.stage import Key, new_key

TYPICAL_NEIGHBOURS = 20
# More clusters would be smaller than the neighbourhood that makes an example typical.
CLUSTER_LIMIT = 500
# Starts of k-means for at most 100 clusters. With few clusters, a class without one costs most: on
# the digits, the error with 20 labels is 17 % with one start and 10 % with the best of five.
STARTS = 5
SMALL_CLUSTER = 5  # smaller clusters are outliers and come last


def choose_next(
    features: np.ndarray,
    budget: int,
    strategy: str = "typical",
    labelled: np.ndarray | None = None,
    probability: np.ndarray | None = None,
    key: Key | None = None,
) -> np.ndarray:
    """Choose the unlabelled examples to label next, the most useful first.

    - `typical`: the example with the nearest neighbours in each of the largest clusters without a
      label (Hacohen, Dekel and Weinshall, "Active Learning on a Budget", 2022). It needs no labels.
    - `k-centre`: the example that is farthest from all labelled and chosen ones (Sener and
      Savarese, "Active Learning for Convolutional Neural Networks", 2018).
    - `margin`: the smallest difference between the two most probable classes (Scheffer, Decomain
      and Wrobel, 2001). It needs the probabilities of a head that was fitted to labels.
    - `random`: all examples are equally likely, so classes can be unbalanced.

    Distances are those of centred features of length 1.

    Args:
        features: float32 `[N, D]`, of a frozen encoder.
        budget: number of examples to choose, from 1 to the number of unlabelled ones.
        strategy: a name of `STRATEGIES`.
        labelled: indices of the examples that have a label, int `[L]`; by default none.
        probability: probability of each class, `[N, K]`, only for `margin`.
        key: key for random choices; by default that of seed 0.

    Returns:
        Indices int32 `[budget]`, distinct, none of them in `labelled`.

    Raises:
        UserError: a budget that does not fit, an unknown strategy, indices out of range, features
            that are not finite, or `margin` without probabilities.

    >>> import twostage_jax as ts
    >>> features = np.repeat(np.eye(3), 10, axis=0) + 0.01 * np.arange(30)[:, None]
    >>> first = ts.choose_next(features, 3)
    >>> sorted((first // 10).tolist()), len(ts.choose_next(features, 5, labelled=first))
    ([0, 1, 2], 5)
    """
    if strategy not in STRATEGIES:
        raise UserError(f"unknown strategy {strategy!r}: {did_you_mean(strategy, STRATEGIES)}")
    key = new_key() if key is None else key
    pool = Pool(np.asarray(features, np.float32))
    return choose_from(pool, strategy, Choice(budget, key, probability), labelled)


class Choice(NamedTuple):
    """Arguments of `choose_next`."""

    budget: int
    key: Key
    probability: np.ndarray | None = None


class Pool:
    """Features `[N, D]`, and arrays that several choices share."""

    def __init__(self, features: np.ndarray) -> None:
        self.features = features

    @cached_property
    def units(self) -> np.ndarray:
        """Centred features of length 1, `[N, D]`."""
        return centred_units(self.features)

    @cached_property
    def typicality(self) -> np.ndarray:
        """Inverse mean distance to the nearest neighbours, float32 `[N]`."""
        neighbours = min(TYPICAL_NEIGHBOURS, len(self.units) - 1)
        similarity, _ = nearest(self.units, self.units, neighbours, exclude_self=True)
        distance = np.sqrt(np.maximum(2 - 2 * similarity, 0)).mean(1)
        return 1 / np.maximum(distance, 1e-6)


def choose_from(
    pool: Pool, strategy: str, choice: Choice, labelled: np.ndarray | None = None
) -> np.ndarray:
    """Choose examples from a pool, as `choose_next` does; several choices can share the pool."""
    if strategy not in STRATEGIES:
        raise UserError(f"unknown strategy {strategy!r}: {did_you_mean(strategy, STRATEGIES)}")
    indices = np.unique(np.asarray(() if labelled is None else labelled, np.int64))
    _check(pool.features, choice, strategy, indices)
    free = np.ones(len(pool.features), bool)
    free[indices] = False
    return np.asarray(STRATEGIES[strategy](pool, free, choice), np.int32)


def _check(features: np.ndarray, choice: Choice, strategy: str, labelled: np.ndarray) -> None:
    count = len(features)
    if features.ndim != 2 or count < 2 or not np.isfinite(features).all():
        raise UserError(
            f"features have shape {list(features.shape)} or values that are not finite: give "
            "finite features [N, D] of at least two examples"
        )
    if len(labelled) and not (labelled[0] >= 0 and labelled[-1] < count):
        wrong = labelled[0] if labelled[0] < 0 else labelled[-1]
        raise UserError(f"no example has the index {wrong}: give indices from 0 to {count - 1}")
    check_budget(choice.budget, count - len(labelled))
    probability = choice.probability
    if strategy == "margin" and (probability is None or len(probability) != count):
        raise UserError(NEEDS_LABELS)


NEEDS_LABELS = (
    "margin needs the probabilities of a head that was fitted to labels: label some examples "
    "first, for instance those of the strategy typical"
)


def check_budget(budget: int, unlabelled: int) -> None:
    """Check a number of examples to choose.

    Raises:
        UserError: fewer than 1, or more than there are unlabelled ones.
    """
    if not 1 <= budget <= unlabelled:
        raise UserError(
            f"a budget of {budget} does not fit {unlabelled} unlabelled images: give a number "
            f"from 1 to {unlabelled}"
        )


def _typical(pool: Pool, free: np.ndarray, choice: Choice) -> list[int]:
    """Most typical examples of the largest clusters without a label."""
    labelled = np.flatnonzero(~free)
    clusters = min(len(labelled) + choice.budget, CLUSTER_LIMIT, len(free))
    starts = STARTS if clusters <= 100 else 1
    cluster = k_means(pool.units, clusters, choice.key, starts=starts).index
    sizes = np.bincount(cluster, minlength=clusters)
    taken = np.bincount(cluster[labelled], minlength=clusters)
    # Unlabelled examples of each cluster, the most typical first.
    rows = np.flatnonzero(free)
    rows = rows[np.lexsort((-pool.typicality[rows], cluster[rows]))]
    left = np.bincount(cluster[rows], minlength=clusters)
    following = np.cumsum(left) - left
    small = sizes < SMALL_CLUSTER
    chosen = []
    for _ in range(choice.budget):
        # Clusters with the fewest labels come first, and among them the largest.
        best = np.lexsort((-sizes, taken, small, left == 0))[0]
        chosen.append(int(rows[following[best]]))
        following[best] += 1
        left[best] -= 1
        taken[best] += 1
    return chosen


def _k_centre(pool: Pool, free: np.ndarray, choice: Choice) -> list[int]:
    """Greedy centres: each is the example farthest from all labelled and chosen ones."""
    units = pool.units
    labelled = np.flatnonzero(~free)
    chosen: list[int] = []
    if len(labelled):
        similarity = nearest(units, units[labelled], 1)[0][:, 0]
    else:
        # There is no other example yet, so the first one is random.
        chosen.append(int(jax.random.randint(choice.key, (), 0, len(units))))
        similarity = units @ units[chosen[0]]
    closeness = np.where(free, similarity, np.inf)
    closeness[chosen] = np.inf
    while len(chosen) < choice.budget:
        row = int(closeness.argmin())
        chosen.append(row)
        closeness = np.maximum(closeness, units @ units[row])
        closeness[row] = np.inf
    return chosen


def _margin(pool: Pool, free: np.ndarray, choice: Choice) -> list[int]:
    """Examples whose two most probable classes are closest together."""
    assert choice.probability is not None, "`_check` has rejected this"
    two = np.sort(choice.probability, axis=1)[:, -2:]
    margin = np.where(free, two[:, 1] - two[:, 0], np.inf)
    return np.argsort(margin, kind="stable")[: choice.budget].tolist()


def _random(pool: Pool, free: np.ndarray, choice: Choice) -> list[int]:
    """Examples drawn without replacement."""
    rows = np.flatnonzero(free)
    order = np.asarray(jax.random.permutation(choice.key, len(rows)))
    return rows[order[: choice.budget]].tolist()


# `config` lists the same names, because parsing a command line must not import jax.
STRATEGIES: dict[str, Callable[[Pool, np.ndarray, Choice], list[int]]] = {
    "typical": _typical,
    "k-centre": _k_centre,
    "margin": _margin,
    "random": _random,
}
