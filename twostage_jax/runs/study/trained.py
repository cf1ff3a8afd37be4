"""Trainings by gradient descent for the draws of a study: trained heads and whole networks.

Members are trained one after the other, as many at once as there are cores. A `vmap` over draws is
slower for convolutions, and the programs here have the same shapes for every number of labels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.engine.epoch import make_step
from twostage_jax.engine.finish import finish_rows
from twostage_jax.engine.state import TrainState, make_init
from twostage_jax.runs.study.draws import Draws
from twostage_jax.runs.study.parallel import Parallel, side_by_side
from twostage_jax.runs.study.solved import blockwise
from twostage_jax.stages.stage import Params, Stage, as_image, new_key

BATCH = 32
QUARTERS = 4  # checkpoints of a training; one of them is chosen
SEGMENT = 100  # number of steps of one call
# Numbers of images for the statistics of a batch normalisation and for the comparison of quarters.
SMALL_SIZE = 128
LARGE_SIZE = 1024
BLOCK = 250  # number of test examples in one product; larger blocks leave the caches


class Recipe(NamedTuple):
    """Training of one member.

    Attributes:
        name: name of the recipe.
        programs: name of the compiled programs; recipes with equal `stage`, `tx` and `apply` share
            them.
        stage: stage to train, on batches of `image`.
        tx: `rates -> optimiser`.
        rates: learning rates for `tx`.
        apply: `(params, image float32 [B, ...]) -> logits [B, K]`.
        pretrained: groups that replace the initial ones.
        steps: `number of labels -> steps`, see `steps_of`.
        choose_below: largest number of labels for which the duration is chosen.
    """

    name: str
    programs: str
    stage: Stage
    tx: Callable[[jax.Array], optax.GradientTransformation]
    rates: tuple[float, ...]
    apply: Callable[[Params, jax.Array], jax.Array]
    pretrained: Params
    steps: Callable[[int], int]
    choose_below: int


class Data(NamedTuple):
    """Examples of a recipe from A representations.

    Attributes:
        train: images uint8 or features float32 `[N, ...]`, for each representation.
        test: the same for test `[T, ...]`; empty while choices are made.
    """

    train: Sequence[np.ndarray]
    test: Sequence[np.ndarray]


class Member(NamedTuple):
    """One training.

    Attributes:
        draw: number of the draw, which gives the initial values and the order of the examples.
        bank: training examples of a representation `[N, ...]`, on the device.
        index: labelled rows of them, int32 `[n]`.
        label: their labels, int32 `[n]`.
    """

    draw: int
    bank: jax.Array
    index: np.ndarray
    label: np.ndarray


class Programs(NamedTuple):
    """Compiled functions of a recipe.

    Attributes:
        start: `(rates, key, image [2, ...], label [2], pretrained) -> state`.
        advance: `(rates, state, key, bank, rows [SEGMENT, B], label [SEGMENT, B], count) -> state`
            trains for `count` steps.
        finish: `(params, image) -> params`, with the statistics of these images.
        score: `(params, image, label, weight) -> (correct, loss)`, weighted sums.
        classify: `(params, image [T, ...]) -> classes [T]`.
    """

    start: Callable[..., TrainState]
    advance: Callable[..., TrainState]
    finish: Callable[..., Params]
    score: Callable[..., tuple[jax.Array, jax.Array]]
    classify: Callable[..., jax.Array]


def make_programs(parallel: Parallel, recipe: Recipe) -> Programs:
    """Return the programs of a recipe; each is compiled once for all numbers of labels."""

    def optimiser(rates: jax.Array) -> optax.GradientTransformation:
        tx = recipe.tx(rates)
        return tx if recipe.stage.optimiser is None else recipe.stage.optimiser(tx)

    def start(rates, key, image, label, pretrained):
        batch = {"image": image, "label": label}
        return make_init(recipe.stage, optimiser(rates))(key, batch, pretrained)

    def advance(rates, state, key, bank, rows, label, count):
        step = make_step(recipe.stage, optimiser(rates))

        def body(number: jax.Array, state: TrainState) -> TrainState:
            examples = {"image": bank[rows[number]], "label": label[number]}
            return step(state, jax.random.fold_in(key, state.step), examples)[0]

        return jax.lax.fori_loop(0, count, body, state)

    def finish(params, image):
        if recipe.stage.finish is None:
            return params
        return recipe.stage.finish(params, as_image(image))

    def score(params, image, label, weight):
        logits = recipe.apply(params, as_image(image))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return (weight * (logits.argmax(-1) == label)).sum(), (weight * losses).sum()

    def classify(params, image):
        def classes(image: jax.Array) -> jax.Array:
            return recipe.apply(params, as_image(image)).argmax(-1)

        return blockwise(classes, image, BLOCK)

    functions = (start, advance, finish, score, classify)
    return Programs(*(parallel.program((recipe.programs, f.__name__), f) for f in functions))


def steps_of(count: int, fewest: int, root: float, epochs: int) -> int:
    """Return the steps of a training with `count` labels, a multiple of `QUARTERS`.

    The number grows with the root of the number of labels, because larger sets need fewer epochs.

    Args:
        count: number of labels n.
        fewest: smallest number of steps.
        root: steps divided by the root of n.
        epochs: smallest number of epochs.

    >>> [steps_of(n, fewest=80, root=8, epochs=2) for n in (10, 100, 1000, 55_000)]
    [80, 80, 256, 3440]
    """
    return whole_quarters(max(fewest, root * count**0.5, epochs * count / BATCH))


def whole_quarters(steps: float) -> int:
    """Return the smallest multiple of `QUARTERS` that is not below `steps`."""
    return math.ceil(steps / QUARTERS) * QUARTERS


def images_of(recipe: Recipe, count: int, classes: int, tested: int) -> int:
    """Return the cost of one draw, in images of a training step.

    Trainings, those of the choice, and predictions: these take a sixth of a step for each image.
    """
    share = 0.0
    if 2 * classes <= count <= recipe.choose_below:
        share = 1.0 if count <= SMALL_SIZE else 0.8
    return round((1 + share) * recipe.steps(count) * BATCH + tested / 6)


def make_batches(count: int, steps: int, seed: tuple[int, int]) -> np.ndarray:
    """Return positions in a draw, int32 `[steps, B]`: shuffled epochs, one after the other.

    A batch can hold an example several times if there are fewer examples than `BATCH`.
    """
    # NumPy guarantees the numbers of `RandomState` for all versions.
    random = np.random.RandomState(np.array(seed) % 2**32)
    epochs = [random.permutation(count) for _ in range(-(-steps * BATCH // count))]
    return np.concatenate(epochs)[: steps * BATCH].reshape(steps, BATCH).astype(np.int32)


def train_quarters(
    programs: Programs, recipe: Recipe, member: Member, steps: int, seed: int
) -> Iterator[Params]:
    """Train a member; yield its parameters after each quarter of the steps."""
    rates = jnp.array(recipe.rates, jnp.float32)
    start_key, key = jax.random.split(jax.random.fold_in(new_key(seed), member.draw))
    state = programs.start(rates, start_key, member.bank[:2], member.label[:2], recipe.pretrained)
    positions = make_batches(len(member.index), steps, (seed, member.draw))
    for quarter in np.split(positions, QUARTERS):
        for first in range(0, len(quarter), SEGMENT):
            part = quarter[first : first + SEGMENT]
            # Zeros fill up the last segment, so that one program serves all of them.
            padded = np.zeros((SEGMENT, BATCH), np.int32)
            padded[: len(part)] = part
            rows = member.index[padded].astype(np.int32)
            label = member.label[padded]
            state = programs.advance(rates, state, key, member.bank, rows, label, len(part))
        yield state.params


def finished(programs: Programs, member: Member, params: Params) -> Params:
    """Return parameters with the statistics of the labelled images."""
    rows = member.index[_sample(len(member.index), member.bank.shape[1:])]
    return programs.finish(params, member.bank[rows])


def _sample(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Positions of one of two numbers of examples, evenly spaced; few examples are repeated."""
    size = SMALL_SIZE if count <= SMALL_SIZE else len(finish_rows(LARGE_SIZE, shape))
    return np.arange(size) * count // size


def fold_positions(draws: Draws) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return positions in a draw to train on and to hold out, for each fold of a choice.

    Up to `SMALL_SIZE` labels, each half is held out once. Above, there is one fold, which holds out
    a fifth. Labels are sorted by class, so every fold has all classes.
    """
    positions = np.arange(draws.count)
    parts = positions % (2 if draws.count <= SMALL_SIZE else 5)
    folds = range(2) if draws.count <= SMALL_SIZE else range(1)
    return [(positions[parts != fold], positions[parts == fold]) for fold in folds]


def choose_durations(
    parallel: Parallel, recipe: Recipe, draws: Draws, data: Data, seed: int
) -> tuple[np.ndarray, str]:
    """Choose after which quarter each training ends, by folds of the draw's own labels.

    A fold trains as many epochs as the training itself.

    Returns:
        Quarters int32 `[A, R]`, 0 to 3, and `cross-validation`; or the last and `default` if a
        class has a single label, or for more labels than `recipe.choose_below`.
    """
    shape = (len(data.train), len(draws.index))
    if draws.smallest < 2 or draws.count > recipe.choose_below:
        return np.full(shape, QUARTERS - 1, np.int32), "default"
    programs = make_programs(parallel, recipe)
    banks = [jax.device_put(part) for part in data.train]
    folds = fold_positions(draws)

    def score_member(number: int) -> np.ndarray:
        arm, draw, fold = map(int, np.unravel_index(number, (*shape, len(folds))))
        inside, outside = folds[fold]
        row = draws.index[draw]
        label = draws.label[draw]
        member = Member(draw, banks[arm], row[inside], label[inside])
        steps = whole_quarters(recipe.steps(draws.count) * len(inside) / draws.count)
        sample = outside[_sample(len(outside), member.bank.shape[1:])]
        # Copies of a held-out example do not count.
        weight = np.zeros(len(sample), np.float32)
        weight[np.unique(sample, return_index=True)[1]] = 1
        scores = []
        for params in train_quarters(programs, recipe, member, steps, seed):
            params = finished(programs, member, params)
            scores.append(programs.score(params, member.bank[row[sample]], label[sample], weight))
        return np.array(jax.device_get(scores))

    scores = np.stack(side_by_side(score_member, int(np.prod(shape)) * len(folds)))
    correct, loss = np.moveaxis(scores.reshape(*shape, len(folds), QUARTERS, 2).sum(2), -1, 0)
    # Few labels give many ties, and the smaller loss decides them.
    tied = np.where(correct == correct.max(-1, keepdims=True), loss, np.inf)
    return tied.argmin(-1).astype(np.int32), "cross-validation"


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
    programs = make_programs(parallel, recipe)
    banks = [jax.device_put(part) for part in data.train]
    tests = [jax.device_put(part) for part in data.test]

    def predict(number: int) -> np.ndarray:
        arm, draw = map(int, np.unravel_index(number, durations.shape))
        member = Member(draw, banks[arm], draws.index[draw], draws.label[draw])
        quarters = train_quarters(programs, recipe, member, recipe.steps(draws.count), seed)
        # Nothing is trained after the chosen quarter.
        *_, params = (next(quarters) for _ in range(durations[arm, draw] + 1))
        return np.asarray(programs.classify(finished(programs, member, params), tests[arm]))

    predicted = side_by_side(predict, durations.size)
    return np.stack(predicted).reshape(*durations.shape, -1)
