"""Epochs and steps: every example once, means over all, derived keys, frozen groups."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import linen as nn

import twostage_jax as ts
from tests.engine.tiny import CLASSIFIER, DECODER, ENCODER, HEAD, SPLIT
from twostage_jax.engine.epoch import permutation, shuffle
from twostage_jax.engine.health import find_diverged
from twostage_jax.trees import PyTree

KEY = jax.random.key(1)


ADAM = ts.adam(1e-2)
SGD = optax.sgd(0.1)


@cache
def compiled(stage: ts.Stage, tx: optax.GradientTransformation, batch_size: int, epochs: int):
    return jax.jit(ts.make_train(stage, tx, batch_size, epochs))


def start(stage: ts.Stage, tx: optax.GradientTransformation) -> ts.TrainState:
    return ts.init_state(stage, tx, jax.random.key(0), SPLIT)


def train(
    stage: ts.Stage,
    tx: optax.GradientTransformation,
    batch_size: int = 32,
    epochs: int = 1,
    data: dict[str, np.ndarray] = SPLIT,
    state: ts.TrainState | None = None,
) -> tuple[ts.TrainState, PyTree]:
    state = start(stage, tx) if state is None else state
    return compiled(stage, tx, batch_size, epochs)(state, data, jax.random.clone(KEY))


def probe(measure) -> ts.Stage:
    """A stage without parameters to learn, with metrics of the key and the batch."""

    def loss(params, key, batch):
        metrics = measure(key, batch)
        return metrics.pop("loss", 0.0) + 0 * params["encoder"], metrics

    return ts.Stage(lambda key, batch: {"encoder": jnp.zeros(())}, loss)


def test_an_epoch_equals_plain_steps_in_its_order():
    """Compared with a Python loop over the same order, without engine, scan or Optax."""
    state = start(CLASSIFIER, SGD)
    order, _ = shuffle(KEY, 0, 70)
    value_and_grad = jax.jit(jax.value_and_grad(CLASSIFIER.loss, has_aux=True))
    params = state.params
    total = 0.0
    for rows in (order[:32], order[32:64], order[64:]):
        batch = ts.as_batch({name: values[rows] for name, values in SPLIT.items()})
        (value, _), gradient = value_and_grad(params, KEY, batch)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        total += value * len(rows)
    after, metrics = train(CLASSIFIER, SGD, state=state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, params)
    np.testing.assert_allclose(metrics["loss"][0], total / 70, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [7, 32, 100])
def test_every_example_counts_once_in_batches_of_their_own_sizes(batch_size):
    """No remainder, a remainder, and nothing but a remainder."""
    numbered = SPLIT | {"weight": np.arange(70, dtype=np.float32)}

    def measure(key, batch):
        size = jnp.float32(batch["label"].shape[0])  # padding would make it larger
        return {"loss": (batch["weight"] ** 2).mean(), "size": size}

    state, metrics = train(probe(measure), SGD, batch_size, 2, numbered)
    np.testing.assert_allclose(metrics["loss"], (np.arange(70.0) ** 2).mean(), rtol=1e-6)
    full, rest = divmod(70, batch_size)
    np.testing.assert_allclose(metrics["size"], (full * batch_size**2 + rest**2) / 70, rtol=1e-6)
    assert state.step == 2 * (full + bool(rest))


def test_every_step_has_its_own_key_and_no_key_is_stored():
    def measure(key, batch):
        draw = jax.random.uniform(key)
        return {"first": draw, "second": draw**2}

    stage = probe(measure)
    state, metrics = train(stage, SGD, 10, 3)
    assert np.all(metrics["second"] - metrics["first"] ** 2 > 1e-3)  # steps differ
    assert len(set(np.asarray(metrics["first"]).tolist())) == 3  # epochs differ
    assert not any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(state))


def test_training_continues_with_the_next_epoch():
    """Epochs one by one equal epochs in one call, since nothing random is in the state."""
    whole, means = train(CLASSIFIER, ADAM, epochs=2)
    state = start(CLASSIFIER, ADAM)
    for epoch in range(2):
        state, metrics = train(CLASSIFIER, ADAM, state=state)
        np.testing.assert_allclose(metrics["loss"][0], means["loss"][epoch], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state, whole)


@pytest.mark.parametrize("count", [1, 2, 3, 100, 4096, 70_000])
def test_a_shuffle_is_a_permutation_that_differs_by_key_and_epoch(count):
    orders = [
        shuffle(jax.random.key(seed), epoch, count)[0] for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    for number, order in enumerate(orders):
        np.testing.assert_array_equal(np.sort(order), np.arange(count))
        for other in orders[:number]:
            assert count < 100 or np.mean(order != other) > 0.9


def test_all_orders_of_four_are_equally_likely():
    keys = jax.random.split(jax.random.key(0), 24_000)
    orders = np.asarray(jax.vmap(lambda key: permutation(key, 4))(keys))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_an_explicit_order_replaces_the_shuffle():
    state = start(CLASSIFIER, ADAM)
    order = np.stack([shuffle(KEY, number, 70)[0] for number in range(2)])
    run = compiled(CLASSIFIER, ADAM, 32, 2)
    shuffled = ts.digest(run(state, SPLIT, KEY))
    assert ts.digest(run(state, SPLIT, KEY, order)) == shuffled
    assert ts.digest(run(state, SPLIT, KEY, order[::-1])) != shuffled


def test_wrong_sizes_are_rejected():
    tx = SGD
    state = start(CLASSIFIER, tx)
    with pytest.raises(ValueError, match="epochs is -1"):
        ts.make_train(CLASSIFIER, tx, 32, -1)
    with pytest.raises(ValueError, match="batch_size 0"):
        ts.make_train(CLASSIFIER, tx, 0, 1)(state, SPLIT, KEY)
    with pytest.raises(ValueError, match="count 0 must be at least 1"):
        ts.make_train(CLASSIFIER, tx, 32, 1)(state, {n: x[:0] for n, x in SPLIT.items()}, KEY)
    with pytest.raises(ValueError, match=r"order is \[2, 69\].*all 70 examples.*the 2 epochs"):
        ts.make_train(CLASSIFIER, tx, 32, 2)(state, SPLIT, KEY, np.zeros((2, 69), np.int32))


def test_labels_of_weight_zero_do_not_train_and_do_not_count():
    """Wrong labels of weight 0 change nothing; metrics are means over the labels that count."""
    weight = (np.arange(70) < 5).astype(np.float32)
    weighted = SPLIT | {"weight": weight}
    wrong = np.where(weight > 0, SPLIT["label"], (SPLIT["label"] + 1) % 3).astype(np.int32)
    state, _ = train(CLASSIFIER, ADAM, data=weighted)
    other, _ = train(CLASSIFIER, ADAM, data=weighted | {"label": wrong})
    assert ts.digest(state.params) == ts.digest(other.params)
    # In one batch, the metrics are those of the initial parameters.
    state = start(CLASSIFIER, ADAM)
    _, metrics = train(CLASSIFIER, ADAM, 100, data=weighted, state=state)
    scores = ts.evaluate(ts.make_logits(ENCODER, HEAD), state.params, weighted)
    np.testing.assert_allclose(metrics["loss"][0], scores["nll"], rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"][0], scores["accuracy"], rtol=1e-5)


def wrapped_freezes() -> list[optax.GradientTransformation]:
    """Freezing of the encoder inside transformations, one of which would move it."""
    frozen = ts.freeze(optax.adamw(1e-2), "encoder")
    return [
        optax.chain(optax.clip_by_global_norm(1.0), frozen, optax.add_decayed_weights(0.1)),
        optax.MultiSteps(frozen, 2).gradient_transformation(),
        optax.apply_if_finite(frozen, 3),
    ]


@pytest.mark.parametrize("tx", wrapped_freezes())
def test_a_frozen_encoder_keeps_every_bit_while_the_head_trains(tx):
    state = start(CLASSIFIER, tx)
    kernel = state.params["encoder"]["params"]["dense_0"]["kernel"]
    # An update of +0.0 would turn -0.0 into 0.0.
    state.params["encoder"]["params"]["dense_0"]["kernel"] = kernel.at[0].set(-0.0)
    after, metrics = train(CLASSIFIER, tx, epochs=2, state=state)
    assert ts.digest(after.params["encoder"]) == ts.digest(state.params["encoder"])
    assert ts.digest(after.params["head"]) != ts.digest(state.params["head"])
    assert set(metrics) == {"loss", "accuracy"}


def test_the_placeholder_moves_no_bit():
    stage = ts.placeholder(ENCODER)
    state = start(stage, ADAM)
    bias = state.params["encoder"]["params"]["dense_0"]["bias"]
    state.params["encoder"]["params"]["dense_0"]["bias"] = bias * -0.0
    after, metrics = train(stage, ADAM, epochs=2, state=state)
    assert ts.digest(after.params) == ts.digest(state.params)
    assert not np.any(metrics["loss"])


def test_no_gradient_is_computed_for_a_frozen_group():
    """An encoder that cannot be differentiated trains if it is frozen."""

    @jax.custom_jvp
    def encode(w, x):
        return x @ w

    @encode.defjvp
    def fail(primals, tangents):
        raise AssertionError("the frozen encoder was differentiated")

    def init(key, batch):
        return {"encoder": jnp.ones((16, 4)), "head": jnp.ones((4, 3))}

    def loss(params, key, batch):
        logits = encode(params["encoder"], batch["image"].reshape(-1, 16)) @ params["head"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean(), {}

    stage = ts.Stage(init, loss)
    frozen = ts.freeze(optax.adam(1e-2), "encoder")
    train(stage, optax.chain(optax.clip_by_global_norm(1.0), frozen))
    with pytest.raises(AssertionError, match="differentiated"):
        train(stage, optax.adam(1e-2))


class ConvEncoder(nn.Module):
    """An encoder as a user would write it."""

    @nn.compact
    def __call__(self, image):
        assert image.dtype == jnp.float32 and image.ndim == 4
        x = nn.LayerNorm()(nn.Conv(4, (3, 3))(image))
        return nn.Dense(5)(x.reshape(len(x), -1))


def test_a_users_encoder_and_stage_train_and_are_handed_over():
    base = ts.autoencoder(ConvEncoder(), DECODER)

    def loss(params, key, batch):
        noise = jax.random.normal(key, batch["image"].shape)
        return base.loss(params, key, {**batch, "image": batch["image"] + 0.1 * noise})

    state, metrics = train(ts.Stage(base.init, loss), ADAM, epochs=2)
    assert metrics["loss"].shape == (2,)
    assert metrics["loss"][-1] < metrics["loss"][0]
    head = ts.classifier(ConvEncoder(), HEAD)
    tx = ts.freeze(ADAM, "encoder")
    encoder = state.params["encoder"]
    state = ts.init_state(head, tx, jax.random.key(0), SPLIT, encoder=encoder)
    after, _ = train(head, tx, state=state)
    assert ts.digest(after.params["encoder"]) == ts.digest(encoder)


class Collections(nn.Module):
    """An order of whole numbers, statistics, and a mask with an infinite value."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        order = self.variable("constants", "order", lambda: jnp.arange(16)[::-1])
        floor = self.variable("constants", "floor", lambda: jnp.full((1, 16), -jnp.inf))
        x = nn.BatchNorm(use_running_average=True)(jnp.maximum(x[:, order.value], floor.value))
        return nn.Dense(8)(x)


def test_collections_beside_params_are_not_trained():
    stage = ts.autoencoder(Collections(), DECODER)
    tx = ts.adam(1e-2, weight_decay=0.1)
    before = start(stage, tx)
    after, metrics = train(stage, tx, epochs=2)
    assert metrics["loss"][1] < metrics["loss"][0]
    groups = (before.params["encoder"], after.params["encoder"])
    assert ts.digest(groups[0]["params"]) != ts.digest(groups[1]["params"])
    for name in ("constants", "batch_stats"):
        assert ts.digest(groups[0][name]) == ts.digest(groups[1][name])
    # Two moments for each trained value, and the count of steps.
    trained = {"encoder": groups[0]["params"], "decoder": before.params["decoder"]}
    count = sum(leaf.size for leaf in jax.tree.leaves(trained))
    assert sum(leaf.size for leaf in jax.tree.leaves(before.opt_state)) == 2 * count + 1
    assert find_diverged(jax.tree.map(lambda leaf: leaf[None], after), None) == {}


def test_an_optimiser_that_wants_the_loss_gets_it():
    """Its value, its gradient and a function for other parameters, as `optax.lbfgs` wants them."""

    def update(updates, state, params, *, value, grad, value_fn):
        # Parameters of the head alone: those of the encoder are filled in.
        same = value_fn(params)
        square = sum(jnp.vdot(a, b) for a, b in pairs(updates, grad))
        return jax.tree.map(lambda g: -0.1 * g, grad), jnp.stack([value, same, square])

    def pairs(*trees):
        return zip(*map(jax.tree.leaves, trees), strict=True)

    wanting = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(3), update)
    tx = ts.freeze(wanting, "encoder")
    before = start(CLASSIFIER, tx)
    after, metrics = train(CLASSIFIER, tx, 100)
    value, same, square = jax.tree.leaves(after.opt_state)[0]
    np.testing.assert_allclose([value, same], metrics["loss"][0], rtol=1e-6)
    plain, _ = train(CLASSIFIER, ts.freeze(SGD, "encoder"), 100)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, plain.params
    )
    step = sum(np.sum((a - b) ** 2) for a, b in pairs(before.params, plain.params))
    np.testing.assert_allclose(square, step / 0.1**2, rtol=1e-3)
    assert ts.digest(after.params["encoder"]) == ts.digest(before.params["encoder"])


def test_arrays_of_different_lengths_are_rejected():
    state = start(CLASSIFIER, SGD)
    with pytest.raises(ts.UserError, match="lengths {'image': 70, 'label': 69}: give each array"):
        train(CLASSIFIER, SGD, data={**SPLIT, "label": SPLIT["label"][:69]}, state=state)
