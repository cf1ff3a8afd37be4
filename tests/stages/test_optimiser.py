"""Adam compared with its definition in float64, and with Optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import twostage_jax as ts


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
