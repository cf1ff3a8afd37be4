"""The measured choice between members together and one after the other."""

import jax

import twostage_jax as ts
from tests.engine.tiny import AUTOENCODER, SPLIT
from twostage_jax.engine.memory import Need, choose_chunk
from twostage_jax.engine.speed import Speed, measure_speed
from twostage_jax.engine.state import make_init
from twostage_jax.trees import shapes_of


def test_the_faster_way_is_chosen_and_said():
    slow = Speed(alone=0.01, together=0.02, lanes=8)
    assert slow.best == 1
    assert "one after the other" in slow.words
    fast = Speed(alone=0.02, together=0.01, lanes=8)
    assert fast.best == 8
    assert "8 at a time" in fast.words


def test_both_ways_are_timed_per_member():
    tx = ts.adam(1e-3)
    few = {name: x[:2] for name, x in SPLIT.items()}
    state = jax.eval_shape(make_init(AUTOENCODER, tx), jax.random.key(0), few, {})
    examples = shapes_of({name: x[:8] for name, x in SPLIT.items()})
    speed = measure_speed(AUTOENCODER, tx, state, examples, 3)
    assert speed.lanes == 3
    assert min(speed.alone, speed.together) > 0
    assert max(speed.alone, speed.together) < 1  # seconds, for a few thousand numbers


def test_a_chunk_has_the_measured_lanes_on_each_device():
    need = Need(state=2**23, member=2**23, common=0)
    asked = []

    def one(lanes: int) -> int:
        asked.append(lanes)
        return 1

    assert choose_chunk(need, 16, 2, None, lambda: None, one) == 2
    assert choose_chunk(need, 16, 2, None, lambda: None, lambda lanes: lanes) == 16
    # Where the user or an earlier run has decided, or one member is alone, nothing is measured.
    assert choose_chunk(need, 16, 2, 5, lambda: None, one) == 5
    assert choose_chunk(need, 2, 2, None, lambda: None, one) == 2
    assert asked == [8]
