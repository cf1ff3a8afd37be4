"""Solved heads: those of all members equal single solutions."""

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests.engine.tiny import SPLIT, member_keys, select_member
from twostage_jax.engine.compile import compile_all
from twostage_jax.engine.members import TrialData
from twostage_jax.engine.placement import Placement, make_mesh
from twostage_jax.engine.solve import lower_solve, solve_heads
from twostage_jax.stages.families import HEADS
from twostage_jax.trees import shapes_of

FEATURES = np.asarray(ts.as_image(SPLIT["image"])).reshape(70, 16)
SWEPT = {
    "linear": ("penalty", [1, 2, 4]),
    "ridge": ("strength", [1, 2, 4]),
    "knn": ("k", [1, 3, 5]),
    "knn-reliable": ("doubt", [0.1, 0.5, 1]),
    "prototype": ("temperature", [0.1, 0.5, 1]),
}


def labels(trials: np.ndarray) -> np.ndarray:
    """Training labels of each trial."""
    return (SPLIT["label"][:60] + trials[:, None]) % 3


DATA = TrialData(
    {
        "image": FEATURES[:60],
        "weight": np.ones(60, np.float32),
        "validation_image": FEATURES[60:],
        "validation_label": SPLIT["label"][60:],
    },
    {"label": labels},
)


@pytest.mark.parametrize("name", SWEPT)
def test_solved_heads_equal_single_solutions(name):
    """Features are shared; the labels, the key and the swept number are the member's own."""
    number, values = SWEPT[name]
    numbers = {number: np.float32(values)}

    def make_head(numbers):
        return HEADS[name](3, **numbers)

    batch = DATA.rows(np.array([0]))
    axes = {key: 0 if key == "label" else None for key in batch}
    single = {**batch, "label": batch["label"][0]}
    placement = Placement(make_mesh(3), 3, 3)
    programs = lower_solve(
        make_head, {number: numbers[number][0]}, shapes_of(single), axes, placement
    )
    heads = solve_heads(compile_all(programs), numbers, member_keys(0, 3), DATA)

    @jax.jit
    def solve(value, key, batch):
        return make_head({number: value}).solve(key, batch)

    logits = jax.jit(make_head({number: values[0]}).logits)
    for member, value in enumerate(numbers[number]):
        batch = {**single, "label": labels(np.array([member]))[0]}
        expected = logits(solve(value, member_keys(0, 3)[member], batch), FEATURES)
        actual = logits(select_member(heads, member), FEATURES)
        np.testing.assert_allclose(actual, expected, atol=1e-4)
