"""Order in which a person labels a whole pool, as `twostage study next` would choose it."""

import jax
import numpy as np

from twostage_jax.runs.study.selection import Choice, Pool, choose_from
from twostage_jax.stages.stage import new_key

# Images of each round. With few labels, the clusters must be large to cover all classes; a single
# round for the whole pool would begin with the largest of 500 small clusters.
ROUNDS = (20, 80, 400)


def label_order(features: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Order all unlabelled examples of a pool, the most useful to label first.

    The first 20 are those of `twostage study next --budget 20`. Each following round is chosen as
    if the images before it had labels, so the order does not depend on a person's answers.

    Args:
        features: float32 `[N, D]`, of a frozen encoder.
        labelled: indices of the examples that have a label, int `[L]`; may be empty.

    Returns:
        Indices int32 `[N - L]`, each unlabelled example once.

    >>> features = np.repeat(np.eye(3), 10, axis=0) + 0.01 * np.arange(30)[:, None]
    >>> order = label_order(features, np.array([0, 1]))
    >>> len(order), len(set(order.tolist())), 0 in order
    (28, 28, False)
    """
    done = np.asarray(labelled, np.int32)
    left = len(features) - len(np.unique(done))
    # There is nothing to compare a single example with.
    if len(features) < 2:
        return np.setdiff1d(np.arange(len(features), dtype=np.int32), done)
    pool = Pool(np.asarray(features, np.float32))
    order = np.empty(0, np.int32)
    for number, count in enumerate((*ROUNDS, left)):
        budget = min(count, left - len(order))
        if budget:
            # The first key is that of the study.
            choice = Choice(budget, jax.random.fold_in(new_key(), number))
            chosen = choose_from(pool, "typical", choice, np.concatenate([done, order]))
            order = np.concatenate([order, chosen])
    return order
