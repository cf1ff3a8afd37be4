"""Trainings by gradient descent, for all draws in one `vmap`: trained heads and whole networks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.engine.state import make_init
from twostage_jax.engine.train import make_train
from twostage_jax.runs.study.draws import Draws
from twostage_jax.runs.study.parallel import Parallel
from twostage_jax.runs.study.solved import blockwise
from twostage_jax.stages.stage import Params, Stage, as_image, new_key
from twostage_jax.trees import PyTree

BATCH = 32
DURATIONS = 4  # number of checkpoints of a training; one of them is chosen


class Recipe(NamedTuple):
    """Training of one member.

    Attributes:
        name: name of the recipe.
        stage: stage to train, on batches of `image`.
        tx: optimiser.
        apply: `(params, image float32 [B, ...]) -> logits [B, K]`.
        steps: smallest number of steps of a training.
        passes: smallest number of epochs of a training; fewer for very many labels.
        pretrained: groups that replace the initial ones.
        choose_below: largest number of labels for which the duration is chosen.
    """

    name: str
    stage: Stage
    tx: optax.GradientTransformation
    apply: Callable[[Params, jax.Array], jax.Array]
    steps: int
    passes: int
    pretrained: Params
    choose_below: int


class Data(NamedTuple):
    """Examples of a recipe from A representations.

    Attributes:
        train: images uint8 or features float32, `[A, N, ...]`.
        test: the same for test, `[A, T, ...]`.
    """

    train: np.ndarray
    test: np.ndarray


def epochs_of(recipe: Recipe, count: int) -> int:
    """Return the epochs of a training with `count` labels, a multiple of `DURATIONS`.

    At least `steps` steps and `passes` epochs; a very large set has fewer epochs.
    """
    steps = -(-count // min(BATCH, count))
    passes = max(DURATIONS, min(recipe.passes, 40_000 // count))
    epochs = max(-(-recipe.steps // steps), passes)
    return -(-epochs // DURATIONS) * DURATIONS


def make_fit(recipe: Recipe, count: int, epochs: int) -> Callable[..., Params]:
    """Make `(key, image, label) -> params [4, ...]`, after each quarter of training."""
    train = make_train(recipe.stage, recipe.tx, min(BATCH, count), epochs // DURATIONS)
    start = make_init(recipe.stage, recipe.tx)

    def fit(key: jax.Array, image: jax.Array, label: jax.Array) -> Params:
        data = {"image": image, "label": label}
        start_data = {name: values[:2] for name, values in data.items()}
        init_key, train_key = jax.random.split(key)
        state = start(init_key, start_data, recipe.pretrained)

        def quarter(state: PyTree, nothing: None) -> tuple[PyTree, Params]:
            state, _ = train(state, data, train_key)
            return state, state.params

        return jax.lax.scan(quarter, state, None, length=DURATIONS)[1]

    return fit


def choose_durations(
    parallel: Parallel, recipe: Recipe, draws: Draws, data: Data, seed: int
) -> tuple[np.ndarray, str]:
    """Choose after which quarter each training ends, by two folds of the draw's own labels.

    Returns:
        Quarters int32 `[A, R]`, 0 to 3, and `cross-validation`; or the last and `default` if a
        class has a single label, or for more labels than `recipe.choose_below`.
    """
    arms = len(data.train)
    repeats = len(draws.index)
    if draws.smallest < 2 or draws.count > recipe.choose_below:
        return np.full((arms, repeats), DURATIONS - 1, np.int32), "default"
    half = draws.count // 2
    epochs = epochs_of(recipe, draws.count)
    fit = make_fit(recipe, half, epochs)
    parts = [np.arange(draws.count)[fold::2][:half] for fold in (0, 1)]
    rests = [np.setdiff1d(np.arange(draws.count), part) for part in parts]
    arm, draw, fold = (part.ravel() for part in np.indices((arms, repeats, 2)))
    inside = np.stack(parts)[fold]
    outside = np.stack(rests)[fold]
    rows = draws.index[draw]

    def score(number, arm, index, label, other, target, train):
        key = jax.random.fold_in(new_key(seed), number)
        params = fit(key, train[arm, index], label)
        image = as_image(train[arm, other])

        def score_quarter(values: Params) -> tuple[jax.Array, jax.Array]:
            logits = recipe.apply(values, image)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
            return (logits.argmax(-1) == target).sum(), losses.sum()

        return jax.lax.map(score_quarter, params)

    correct, loss = parallel.map(
        ("choose", recipe.name, draws.count),
        score,
        (
            draw.astype(np.int32),
            arm.astype(np.int32),
            np.take_along_axis(rows, inside, 1),
            np.take_along_axis(draws.label[draw], inside, 1),
            np.take_along_axis(rows, outside, 1),
            np.take_along_axis(draws.label[draw], outside, 1),
        ),
        (data.train,),
        _floats(recipe, draws, data),
    )
    correct = correct.reshape(arms, repeats, 2, DURATIONS).sum(2)
    loss = loss.reshape(arms, repeats, 2, DURATIONS).sum(2)
    tied = np.where(correct == correct.max(-1, keepdims=True), loss, np.inf)
    return tied.argmin(-1).astype(np.int32), "cross-validation"


def _floats(recipe: Recipe, draws: Draws, data: Data) -> int:
    """Values that one member holds: its examples, and its parameters with the optimiser's state."""
    shapes = jax.eval_shape(
        recipe.stage.init,
        new_key(),
        {
            "image": jnp.zeros((2, *data.train.shape[2:])),
            "label": jnp.zeros(2, jnp.int32),
            "weight": jnp.ones(2),
        },
    )
    params = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    return draws.count * int(np.prod(data.train.shape[2:])) + (3 + DURATIONS) * params


def train_draws(
    parallel: Parallel, recipe: Recipe, durations: np.ndarray, draws: Draws, data: Data, seed: int
) -> np.ndarray:
    """Train on every representation and draw; return classes int32 `[A, R, T]`.

    Args:
        parallel: compiles and runs.
        recipe: the training.
        durations: chosen quarters `[A, R]`.
        draws: labels.
        data: examples.
        seed: seed of the initial values and the order of the examples; draw r has its own.
    """
    fit = make_fit(recipe, draws.count, epochs_of(recipe, draws.count))
    arm, draw = (part.ravel() for part in np.indices(durations.shape))

    def predict(number, duration, arm, index, label, train, test):
        key = jax.random.fold_in(new_key(seed), number)
        quarters = fit(key, train[arm, index], label)
        params = jax.tree.map(lambda leaf: leaf[duration], quarters)

        def classify(image: jax.Array) -> jax.Array:
            return recipe.apply(params, as_image(image)).argmax(-1)

        return blockwise(classify, test[arm])

    predicted = parallel.map(
        ("predict", recipe.name, draws.count),
        predict,
        (
            draw.astype(np.int32),
            durations.ravel(),
            arm.astype(np.int32),
            draws.index[draw],
            draws.label[draw],
        ),
        (data.train, data.test),
        _floats(recipe, draws, data),
    )
    return predicted.reshape(*durations.shape, -1)
