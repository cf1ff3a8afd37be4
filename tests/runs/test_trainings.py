"""Trainings and graphs of a label study: budget, batches, folds, and draws that are independent."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import twostage_jax as ts
from twostage_jax.runs.study.budget import share_draws
from twostage_jax.runs.study.draws import Draws
from twostage_jax.runs.study.on_graph import Graph, predict_on_graph
from twostage_jax.runs.study.parallel import Parallel, side_by_side
from twostage_jax.runs.study.solved import GRIDS, choose_values, predict_draws
from twostage_jax.runs.study.trained import (
    BATCH,
    QUARTERS,
    Data,
    Recipe,
    choose_durations,
    fold_positions,
    make_batches,
    steps_of,
    train_draws,
)

CLASSES = 3


@pytest.fixture(scope="module")
def parallel():
    return Parallel()


@pytest.fixture(scope="module")
def data():
    """Features of 90 examples in three classes that overlap."""
    random = np.random.RandomState(0)
    label = np.arange(90) % CLASSES
    image = random.normal(size=(90, 6)) + 1.5 * np.eye(CLASSES, 6)[label]
    return image.astype(np.float32), label.astype(np.int32)


def drawn(label, count, repeats=3):
    """Draws of `count` labels, sorted by class."""
    rows = [np.flatnonzero(label == number) for number in range(CLASSES)]
    each = count // CLASSES
    index = [
        np.concatenate([np.random.RandomState(seed).permutation(part)[:each] for part in rows])
        for seed in range(repeats)
    ]
    return Draws(np.stack(index).astype(np.int32), label[np.stack(index)], each)


def recipe(**options):
    head = ts.mlp(CLASSES, widths=())
    stage = ts.Stage(lambda key, batch: {"head": head.stage.init(key, batch)}, None)

    def loss(params, key, batch):
        return head.stage.loss(params["head"], key, batch)

    made = {
        "name": "test",
        "programs": "test",
        "stage": stage._replace(loss=loss),
        "tx": lambda rates: ts.adam(rates[0]),
        "rates": (0.01,),
        "apply": lambda params, image: head.logits(params["head"], image),
        "pretrained": {},
        "steps": partial(steps_of, fewest=8, root=1, epochs=1),
        "choose_below": 1000,
    }
    return Recipe(**{**made, **options})


def test_a_budget_is_kept_and_shared_equally_among_the_numbers_of_labels():
    costs = {10: 5, 100: 10, 1000: 40, 5000: 100}
    most = {10: 20, 100: 20, 1000: 20, 5000: 1}
    draws = share_draws(costs, most, 500)
    assert sum(costs[count] * draws[count] for count in costs) <= 500
    assert draws == {10: 20, 100: 14, 1000: 4, 5000: 1}
    # Three draws are taken in any case, or all if fewer are asked for.
    assert share_draws(costs, most, 0) == {10: 3, 100: 3, 1000: 3, 5000: 1}
    assert share_draws(costs, dict.fromkeys(costs, 2), 0) == dict.fromkeys(costs, 2)


@pytest.mark.parametrize("count", [3, 32, 50])
def test_batches_use_every_example_equally_often(count):
    steps = 2 * count
    batches = make_batches(count, steps, (0, 1))
    assert batches.shape == (steps, BATCH)
    # Here the steps are whole epochs.
    assert set(np.bincount(batches.ravel())) == {2 * BATCH}
    assert not np.array_equal(batches, make_batches(count, steps, (0, 2)))


@pytest.mark.parametrize(("count", "folds", "held"), [(24, 2, 0.5), (300, 1, 0.2)])
def test_folds_split_the_labels_of_a_draw_and_hold_every_class(count, folds, held):
    label = np.sort(np.arange(count) % CLASSES)[None].astype(np.int32)
    parts = fold_positions(Draws(np.arange(count)[None], label, count // CLASSES))
    assert len(parts) == folds
    for inside, outside in parts:
        np.testing.assert_array_equal(np.union1d(inside, outside), np.arange(count))
        assert not np.intersect1d(inside, outside).size
        assert len(outside) == pytest.approx(held * count)
        assert set(label[0, inside]) == set(label[0, outside]) == {0, 1, 2}


def test_a_draw_is_chosen_and_trained_with_its_own_labels_alone(parallel, data):
    image, label = data
    draws = drawn(label, 12)
    changed = label.copy()
    others = np.setdiff1d(np.arange(90), draws.index[0])
    changed[others] = (label[others] + 1) % CLASSES
    wrong = Draws(draws.index, np.stack([draws.label[0], *changed[draws.index[1:]]]), 4)
    parts = Data([image], [image[:20]])
    result = []
    for part in (draws, wrong, draws.first(1)):
        durations, how = choose_durations(parallel, recipe(), part, parts, 0)
        predicted = train_draws(parallel, recipe(), durations, part, parts, 0)
        result.append((durations[0, 0], predicted[0, 0].tolist(), how))
    assert result[0] == result[1] == result[2]
    assert result[0][2] == "cross-validation"


def test_a_chosen_quarter_is_a_training_that_ends_there(parallel, data):
    image, label = data
    draws = drawn(label, 12, 1)
    parts = Data([image], [image])
    half = np.full((1, 1), QUARTERS // 2 - 1)
    whole = np.full((1, 1), QUARTERS - 1)
    short = recipe(steps=lambda count: 8)
    long = recipe(steps=lambda count: 16)
    first = train_draws(parallel, short, whole, draws, parts, 0)
    np.testing.assert_array_equal(first, train_draws(parallel, long, half, draws, parts, 0))


def test_a_stage_adapts_the_optimiser(parallel, data):
    image, label = data
    draws = drawn(label, 12, 1)
    parts = Data([image], [image])
    last = np.full((1, 1), QUARTERS - 1)
    stage = recipe().stage._replace(optimiser=lambda tx: optax.set_to_zero())
    fixed = recipe(programs="fixed", stage=stage)
    longer = fixed._replace(steps=lambda count: 40)
    first = train_draws(parallel, fixed, last, draws, parts, 0)
    # Nothing is trained, so the number of steps does not matter.
    np.testing.assert_array_equal(first, train_draws(parallel, longer, last, draws, parts, 0))
    assert (first != train_draws(parallel, recipe(), last, draws, parts, 0)).any()


def test_filled_draws_give_the_numbers_of_the_draw_alone(parallel, data):
    image, label = data
    draws = drawn(label, 15)

    def make_head(numbers):
        return ts.ridge(CLASSES, **numbers)

    grid = GRIDS["ridge"]
    values, how = choose_values(parallel, "ridge", make_head, grid, draws, [image], None)
    assert how == "cross-validation" and set(values.ravel()) <= set(np.float32(grid.values))
    predicted = predict_draws(
        parallel, "ridge", make_head, grid, values, draws, [image], [image[:30]]
    )
    for draw, value in enumerate(values[0]):
        batch = {"image": image[draws.index[draw]], "label": draws.label[draw]}
        batch |= {"weight": np.ones(15, np.float32)}
        batch |= {"validation_image": image[:0], "validation_label": label[:0]}
        head = ts.ridge(CLASSES, strength=float(value))
        params = head.solve(jax.random.key(0), {k: jnp.asarray(v) for k, v in batch.items()})
        np.testing.assert_array_equal(
            predicted[0, draw], head.logits(params, image[:30]).argmax(-1)
        )


def test_draws_of_all_numbers_of_labels_are_classified_together_on_a_graph(parallel, data):
    image, label = data
    head = ts.propagate(CLASSES, neighbours=4, vectors=6)
    graph = Graph(image, head.prepare(image), image[:20] + 0.01, label)
    draws = [drawn(label, 6), drawn(label, 12, 2)]
    results = predict_on_graph(parallel, "propagate", head, draws, graph)
    assert [len(result["predicted"][0]) for result in results] == [3, 2]
    for part, result in zip(draws, results, strict=True):
        for draw, index in enumerate(part.index):
            batch = {"image": image[index], "label": part.label[draw], "index": index}
            batch |= {"weight": np.ones(len(index)), "features": image, "prepared": graph.prepared}
            params = head.solve(jax.random.key(0), batch)
            alone = head.logits(params, graph.test).argmax(-1)
            np.testing.assert_array_equal(result["predicted"][0, draw], alone)
            inside = np.array(head.transduce(params).argmax(-1)) != label
            inside[index] = False
            expected = inside.sum() / (90 - len(index))
            assert result["transductive"][0, draw] == pytest.approx(expected)


def test_members_run_side_by_side_and_an_error_ends_them():
    assert side_by_side(lambda number: number**2, 5) == [0, 1, 4, 9, 16]
    started = []

    def fail(number):
        started.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        side_by_side(fail, 100)
    assert len(started) < 100
