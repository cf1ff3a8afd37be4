"""Adam compared with its definition in float64, and with Optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import twostage_jax as ts
from twostage_jax.stages.optimiser import make_schedule


def updates_for(tx, gradients):
    params = jnp.zeros(3)

    def step(state, gradient):
        update, state = tx.update(gradient, state, params)
        return state, update

    run = jax.jit(lambda gradients: jax.lax.scan(step, tx.init(params), gradients)[1])
    return np.asarray(run(jnp.asarray(gradients, jnp.float32)))


def by_definition(gradients, rate=0.001, b1=0.9, b2=0.999, eps=1e-8):
    m = v = np.zeros(3)
    for t, gradient in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * gradient
        v = b2 * v + (1 - b2) * gradient**2
        yield -rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)


def test_adam_equals_its_definition_within_float32_and_optax_does_not():
    gradients = np.random.RandomState(0).normal(size=(300, 3))
    exact = np.stack(list(by_definition(gradients)))
    np.testing.assert_allclose(updates_for(ts.adam(0.001), gradients), exact, rtol=2e-6, atol=1e-9)
    error = np.abs(updates_for(optax.adam(0.001), gradients) / exact - 1)[0].max()
    assert error > 5e-6  # the reason for our own Adam


def test_the_learning_rate_can_be_swept():
    def first(rate):
        tx = ts.adam(rate)
        update, _ = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)), None)
        return update

    rates = jnp.array([0.1, 0.01])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(first))(rates), [[-0.1] * 2, [-0.01] * 2], rtol=1e-5
    )


@pytest.mark.parametrize("decays", [{"b1": 1.0}, {"b2": 0.0}])
def test_decays_outside_0_to_1_are_rejected(decays):
    with pytest.raises(ValueError, match="between 0 and 1"):
        ts.adam(0.001, **decays)


def test_schedules_count_steps_from_zero_as_in_optax():
    schedule = optax.piecewise_constant_schedule(0.5, {1: 0.5, 2: 0.5})
    gradients = np.ones((3, 3))
    # Constant gradients make every update of Adam as large as the rate.
    np.testing.assert_allclose(
        updates_for(ts.adam(schedule), gradients)[:, 0], [-0.5, -0.25, -0.125], rtol=1e-5
    )
    decay = ts.adam(1.0, weight_decay=lambda count: 0.1 * count)
    params = jnp.full(1, 2.0)
    state = decay.init(params)
    for expected in (-1.0, -1.2):
        update, state = decay.update(jnp.ones(1), state, params)
        np.testing.assert_allclose(update, [expected], rtol=1e-5)


def test_a_cosine_rises_in_the_warm_up_and_ends_at_its_last_step():
    schedule = make_schedule("cosine", 2.0, steps=100, warmup=50)  # at most a tenth: 10 steps
    counts = np.array([0, 4, 10, 40, 100, 200])
    falling = 2 * (0.005 + 0.995 * (1 + np.cos(np.pi * np.array([0, 1 / 3, 1, 1]))) / 2)
    rates = [schedule(count) for count in counts]
    np.testing.assert_allclose(rates, [0, 0.8, *falling], rtol=1e-5)
    swept = jax.vmap(lambda rate: make_schedule("cosine", rate, 100, 50)(40))(jnp.array([2.0, 4.0]))
    np.testing.assert_allclose(swept, [rates[3], 2 * rates[3]], rtol=1e-6)
    assert make_schedule("constant", 0.1, 100, 0) == 0.1  # the program has no schedule
    assert float(make_schedule("constant", 0.1, 100, 10)(5)) == pytest.approx(0.05)


def test_decay_can_leave_out_vectors():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for vectors in (True, False):
        tx = ts.adam(0.5, weight_decay=0.1, decay_vectors=vectors)
        updates, _ = tx.update(zeros, tx.init(params), params)
        np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
        np.testing.assert_allclose(updates["bias"], -0.05 if vectors else 0, rtol=1e-6)
