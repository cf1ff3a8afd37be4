"""Likely wrong labels: labels that out-of-fold heads and neighbours disagree with."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.errors import UserError
from twostage_jax.scores.ranking import WrongLabels, count_wrong_labels
from twostage_jax.stages.heads.labels import check_labels
from twostage_jax.stages.heads.search import nearest
from twostage_jax.stages.stage import Key, new_key

FOLDS = 5
NEIGHBOURS = 10
# Random Fourier features of a head. Twice as many take twice the time and increase the precision on
# MNIST by 0.1 points.
_WAVES = 1024
# Scale of the kernel, exp(-(0.7 · distance)² / 2), on centred features of length 1. Their mean
# distance is the root of 2. Half and twice this scale change the precision on MNIST by 0.1 points.
_SCALE = 0.7
_STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # penalties, relative to the mean of the Gram diagonal
_FLOOR = 0.01  # added to shares, because they are no more accurate than this
# Weight of the neighbours relative to the heads. From 0 to 0.5, the precision on MNIST rises by 0.5
# points under asymmetric noise and does not change under symmetric noise.
_VOTE = 0.5


class Suspects(NamedTuple):
    """Training examples, the most likely wrong label first.

    Attributes:
        order: all examples by descending score, int32 `[N]`.
        score: score of each example, float32 `[N]`, in the order of the features; above 0 if
            another class agrees better than the given label.
        suggested: the other class that agrees best, int32 `[N]`.
        head: out-of-fold probability of each class, float32 `[N, K]`.
        neighbours: share of each class among the nearest neighbours, float32 `[N, K]`; a neighbour
            has the class that is most probable in `head`.
        estimate: estimated number of wrong labels, with its interval.
    """

    order: np.ndarray
    score: np.ndarray
    suggested: np.ndarray
    head: np.ndarray
    neighbours: np.ndarray
    estimate: WrongLabels


def find_suspects(
    features: np.ndarray,
    label: np.ndarray,
    classes: int,
    key: Key | None = None,
    neighbours: int = NEIGHBOURS,
    folds: int = FOLDS,
) -> Suspects:
    """Rank labels by how much heads and neighbours disagree with them.

    Two judges compare each label with the other classes:

    - A head that was not fitted to the fold of the example, because a head can learn a wrong label.
      It is ridge regression on random Fourier features (Rahimi and Recht, "Random Features for
      Large-Scale Kernel Machines", 2007), in closed form, with the strength that has the smallest
      out-of-fold error on the given labels.
    - The vote of the `neighbours` nearest examples. Each of them has the class that the heads
      predict, because wrong labels that neighbours share would confirm each other.

    For each judge, take the logarithm of the ratio between the best other class and the given
    label. The score is the value of the head plus half the value of the neighbours. The loss of a
    trained head is not used.

    Args:
        features: float32 `[N, D]`, of a frozen encoder.
        label: given labels int `[N]`, from 0 to K - 1.
        classes: number of classes K, at least 2.
        key: key for the folds and the random features; by default that of seed 0.
        neighbours: number of neighbours, from 1 to N - 1.
        folds: number of folds, from 2 to N.

    Raises:
        UserError: a number that does not fit the examples, labels that are no class, or features
            that are not finite.

    >>> import twostage_jax as ts
    >>> random = np.random.RandomState(0)
    >>> label = np.arange(100) % 2
    >>> features = random.normal(size=(100, 3)) + 6 * label[:, None]
    >>> label[7] = 0
    >>> suspects = ts.find_suspects(features, label, 2)
    >>> int(suspects.order[0]), int(suspects.suggested[7]), suspects.estimate.count
    (7, 1, 1)
    """
    label = np.asarray(label)
    count = len(label)
    _check(features, label, classes, neighbours, folds)
    key = new_key() if key is None else key
    centred = centred_units(features)
    _, index = nearest(centred, centred, neighbours, exclude_self=True)
    rows = np.asarray(jax.random.permutation(jax.random.fold_in(key, 0), count))
    waves = jax.random.fold_in(key, 1)
    head = _out_of_fold(centred, label.astype(np.int32), rows, waves, classes, folds)
    vote = _shares(head.argmax(1)[index], classes)
    score, suggested = _disagreement(head, vote, label)
    order = np.argsort(-score, kind="stable").astype(np.int32)
    return Suspects(order, score, suggested, head, vote, count_wrong_labels(head, label))


def centred_units(features: np.ndarray) -> np.ndarray:
    """Features float32 `[N, D]` minus their mean, scaled to length 1; zeros stay zeros.

    Features that are all positive, as after a ReLU, have cosines near 1 before they are centred.
    """
    features = np.asarray(features, np.float32)
    centred = features - features.mean(0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.maximum(length, 1e-30)


def _check(
    features: np.ndarray, label: np.ndarray, classes: int, neighbours: int, folds: int
) -> None:
    count = len(label)
    if np.ndim(features) != 2 or len(features) != count:
        raise UserError(
            f"features have shape {list(np.shape(features))} for {count} labels: give [{count}, D]"
        )
    if not np.isfinite(features).all():
        raise UserError("features contain values that are not finite: remove these rows first")
    if classes < 2:
        raise UserError(f"{classes} class is too few: give at least 2")
    check_labels(label, np.ones(count), classes)  # pyright: ignore[reportArgumentType]
    if not 1 <= neighbours < count:
        raise UserError(
            f"{neighbours} neighbours do not fit {count} examples: give a number from 1 to "
            f"{count - 1}"
        )
    if not 2 <= folds <= count:
        raise UserError(
            f"{folds} folds do not fit {count} examples: give a number from 2 to {count}"
        )


def _shares(label: np.ndarray, classes: int) -> np.ndarray:
    """Share of each class among the labels `[N, k]` of neighbours, float32 `[N, K]`."""
    count, neighbours = label.shape
    cell = np.arange(count)[:, None] * classes + label
    votes = np.bincount(cell.ravel(), minlength=count * classes).reshape(count, classes)
    return (votes / neighbours).astype(np.float32)


def _disagreement(
    head: np.ndarray, vote: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Score and suggested class of each example, both `[N]`."""
    evidence = np.log(head + _FLOOR) + _VOTE * np.log(vote + _FLOOR)
    rows = np.arange(len(label))
    agreed = evidence[rows, label]
    evidence[rows, label] = -np.inf
    score = (evidence.max(1) - agreed).astype(np.float32)
    return score, evidence.argmax(1).astype(np.int32)


def _out_of_fold(
    features: np.ndarray, label: np.ndarray, rows: np.ndarray, key: Key, classes: int, folds: int
) -> np.ndarray:
    """Probabilities `[N, K]` of heads that were fitted without the fold of the example.

    Args:
        features: centred, of length 1, `[N, D]`.
        label: int32 `[N]`.
        rows: order in which the examples are assigned to folds in turn, int `[N]`.
        key: key for the random features.
        classes: number of classes K.
        folds: number of folds.
    """
    count = len(label)
    size = -(-count // folds)
    # Folds have the same size. The last ones are filled up with repeated examples of weight 0.
    dealt = np.resize(rows, folds * size).reshape(folds, size)
    weight = (np.arange(folds * size) < count).astype(np.float32).reshape(folds, size)
    probability = _predict_folds(features[dealt], label[dealt], weight, key, classes)
    result = np.empty((count, classes), np.float32)
    result[rows] = np.asarray(probability).reshape(-1, classes)[:count]
    return result


@partial(jax.jit, static_argnames="classes")
def _predict_folds(
    features: jax.Array, label: jax.Array, weight: jax.Array, key: Key, classes: int
) -> jax.Array:
    """Out-of-fold probabilities `[F, S, K]` of folds `[F, S, D]`."""
    wave_key, phase_key = jax.random.split(key)
    wave = _SCALE * jax.random.normal(wave_key, (features.shape[-1], _WAVES))
    phase = jax.random.uniform(phase_key, (_WAVES,), maxval=2 * jnp.pi)

    def lift(fold: jax.Array) -> jax.Array:
        waves = jnp.cos(fold @ wave + phase[None])
        return jnp.concatenate([waves, jnp.ones((len(fold), 1))], axis=1)

    def products(fold: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        lifted = lift(fold[0]) * fold[2][:, None]
        return lifted.T @ lifted, lifted.T @ jax.nn.one_hot(fold[1], classes)

    # The features of one fold at a time: those of all examples may not fit into memory.
    gram, target = jax.lax.map(products, (features, label, weight))
    # All folds except one are the total minus that one, so each example is multiplied once.
    solve = jax.vmap(_kernels)
    kernel = solve(
        gram.sum(0, keepdims=True) - gram, target.sum(0, keepdims=True) - target
    )  # [F, strengths, waves, K]

    def outputs(fold: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        image, label, weight, kernel = fold
        output = jnp.einsum("sw,pwk->psk", lift(image), kernel)
        error = ((output - jax.nn.one_hot(label, classes)[None]) ** 2).sum(-1)
        return output, (error * weight[None]).sum(-1)

    output, error = jax.lax.map(outputs, (features, label, weight, kernel))
    best = jnp.nanargmin(error.sum(0))
    # Least squares estimates the probability of each given label; values can leave [0, 1] slightly.
    probability = jnp.clip(output[:, best], 0, None)
    return probability / jnp.maximum(probability.sum(-1, keepdims=True), 1e-9)


def _kernels(gram: jax.Array, target: jax.Array) -> jax.Array:
    """Kernels `[strengths, W, K]` of ridge regression from `[W, W]` and `[W, K]`."""
    size = len(gram)
    scale = jnp.trace(gram) / size

    def kernel(strength: jax.Array) -> jax.Array:
        factor = jax.scipy.linalg.cho_factor(gram + strength * scale * jnp.eye(size))
        return jax.scipy.linalg.cho_solve(factor, target)

    return jax.vmap(kernel)(jnp.array(_STRENGTHS))
