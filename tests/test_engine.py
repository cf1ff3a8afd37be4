"""The engine: what a step does, what an epoch covers, and which ways to train are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import twostage_jax as ts
from twostage_jax.engine import compile as compilation
from twostage_jax.engine.compile import compile_all
from twostage_jax.engine.epoch import make_epoch, permutation, shuffle
from twostage_jax.engine.loop import fit, lower_epoch
from twostage_jax.engine.state import make_init

ENCODER, DECODER, HEAD = ts.MLP((8, 5)), ts.MLP((8, 16)), ts.MLP((6, 3))
STAGES = {
    "autoencoder": ts.autoencoder(ENCODER, DECODER),
    "placeholder": ts.placeholder(ENCODER),
    "classifier": ts.classifier(ENCODER, HEAD),
}


def start(stage, tx, split, seed=0, **pretrained):
    return ts.init_state(stage, tx, jax.random.key(seed), split, **pretrained)


def compiled_epoch(stage, tx, batch_size, state, data):
    epoch = make_epoch(stage, tx, batch_size, state, data)
    return compile_all(lower_epoch(epoch, state, data))


def train_in_calls(stage, tx, state, split, key, epochs, batch_size=32, **options):
    """The host loop to its end: the last state and the metrics of each epoch."""
    data = jax.device_put(split)
    epoch = compiled_epoch(stage, tx, batch_size, state, data)
    means = []
    for moment in fit(epoch, state, data, key, epochs, **options):
        state = moment.state
        if moment.metrics:
            means.append(moment.metrics)
    return state, means


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_trains_and_reports_its_loss(name, split):
    stage, tx = STAGES[name], optax.adam(1e-2)
    train = jax.jit(ts.make_train(stage, tx, 32, 4))
    state, metrics = train(start(stage, tx, split), split, jax.random.key(1))
    assert metrics["loss"].shape == (4,)
    assert state.step == 4 * 3
    if name == "placeholder":
        assert not np.any(metrics["loss"])
    else:
        assert metrics["loss"][-1] < metrics["loss"][0]


def test_placeholder_leaves_the_parameters_exactly_where_they_are(split):
    stage, tx = STAGES["placeholder"], optax.adam(1e-2)
    state = start(stage, tx, split)
    # An update of +0.0 would turn this into 0.0.
    bias = state.params["encoder"]["params"]["dense_0"]["bias"] * -0.0
    state.params["encoder"]["params"]["dense_0"]["bias"] = bias
    after, _ = jax.jit(ts.make_train(stage, tx, 32, 2))(state, split, jax.random.key(1))
    assert ts.digest(after.params) == ts.digest(state.params)


def test_freeze_leaves_the_encoder_bitwise_unchanged_while_the_head_moves(split):
    stage, tx = STAGES["classifier"], ts.freeze(optax.adam(1e-2), "encoder")
    state = start(stage, tx, split)
    kernel = state.params["encoder"]["params"]["dense_0"]["kernel"]
    state.params["encoder"]["params"]["dense_0"]["kernel"] = kernel.at[0].set(-0.0)
    after, metrics = jax.jit(ts.make_train(stage, tx, 32, 3))(state, split, jax.random.key(1))
    assert ts.digest(after.params["encoder"]) == ts.digest(state.params["encoder"])
    assert ts.digest(after.params["head"]) != ts.digest(state.params["head"])
    assert set(metrics) == {"loss", "accuracy"}


def test_no_gradient_reaches_a_frozen_group(split):
    """A stage whose encoder refuses to be differentiated trains all the same."""

    @jax.custom_jvp
    def encode(w, x):
        return x @ w

    @encode.defjvp
    def refuse(primals, tangents):
        raise AssertionError("the frozen encoder was differentiated")

    def init(key, batch):
        return {"encoder": jnp.ones((16, 4)), "head": jnp.ones((4, 3))}

    def loss(params, key, batch):
        features = encode(params["encoder"], batch["image"].reshape(-1, 16))
        logits = features @ params["head"]
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return entropy.mean(), {}

    stage = ts.Stage(init, loss)

    def train_with(tx):
        train = jax.jit(ts.make_train(stage, tx, 32, 1))
        return train(start(stage, tx, split), split, jax.random.key(1))

    frozen = ts.freeze(optax.adam(1e-2), "encoder")
    train_with(frozen)
    train_with(optax.chain(optax.clip_by_global_norm(1.0), frozen))
    with pytest.raises(AssertionError, match="differentiated"):
        train_with(optax.adam(1e-2))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda frozen: optax.chain(optax.clip_by_global_norm(1.0), frozen),
        lambda frozen: optax.chain(frozen, optax.add_decayed_weights(0.1)),
        lambda frozen: optax.MultiSteps(frozen, 2).gradient_transformation(),
        lambda frozen: optax.apply_if_finite(frozen, 3),
    ],
)
def test_a_wrapped_freeze_leaves_the_encoder_bitwise_unchanged(wrap, split):
    stage, tx = STAGES["classifier"], wrap(ts.freeze(optax.adamw(1e-2), "encoder"))
    state = start(stage, tx, split)
    kernel = state.params["encoder"]["params"]["dense_0"]["kernel"]
    state.params["encoder"]["params"]["dense_0"]["kernel"] = kernel.at[0].set(-0.0)
    after, _ = jax.jit(ts.make_train(stage, tx, 32, 2))(state, split, jax.random.key(1))
    assert ts.digest(after.params["encoder"]) == ts.digest(state.params["encoder"])
    assert ts.digest(after.params["head"]) != ts.digest(state.params["head"])


def test_labels_of_weight_zero_do_not_train_and_do_not_count(split):
    """Wrong labels of weight 0 change nothing; metrics are means over the labels that count."""
    stage, tx, key = STAGES["classifier"], optax.adam(1e-2), jax.random.key(1)
    weight = (np.arange(70) < 5).astype(np.float32)
    lies = np.where(weight > 0, split["label"], (split["label"] + 1) % 3).astype(np.int32)
    train, state = jax.jit(ts.make_train(stage, tx, 32, 1)), start(stage, tx, split)
    one, metrics = train(state, split | {"weight": weight}, key)
    other, _ = train(state, split | {"weight": weight, "label": lies}, key)
    assert ts.digest(one.params) == ts.digest(other.params)
    still = optax.sgd(0.0)
    _, metrics = jax.jit(ts.make_train(stage, still, 32, 1))(
        start(stage, still, split), split | {"weight": weight}, key
    )
    logits = ts.make_logits(ENCODER, HEAD)
    params = start(stage, still, split).params
    counted = ts.evaluate(logits, params, split | {"weight": weight})
    np.testing.assert_allclose(metrics["loss"][0], counted["nll"], rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"][0], counted["accuracy"], rtol=1e-5)


def test_every_step_of_every_epoch_has_a_key_of_its_own(split):
    def loss(params, key, batch):
        draw = jax.random.uniform(key)
        return params["encoder"] * 0, {"first": draw, "second": draw**2}

    stage = ts.Stage(lambda key, batch: {"encoder": jnp.zeros(())}, loss)
    tx = optax.sgd(0.1)
    _, metrics = jax.jit(ts.make_train(stage, tx, 10, 3))(
        start(stage, tx, split), split, jax.random.key(1)
    )
    variance = metrics["second"] - metrics["first"] ** 2
    assert np.all(variance > 1e-3)  # steps differ
    assert len(set(np.asarray(metrics["first"]).tolist())) == 3  # epochs differ


def test_negative_epochs_and_batch_sizes_are_refused(split):
    stage, tx = STAGES["autoencoder"], optax.sgd(0.1)
    with pytest.raises(ValueError, match="epochs is -1"):
        ts.make_train(stage, tx, 32, -1)
    with pytest.raises(ValueError, match="batch_size 0"):
        ts.make_train(stage, tx, 0, 1)(start(stage, tx, split), split, jax.random.key(1))


@pytest.mark.parametrize("batch_size", [1, 7, 32, 35, 70, 100])
def test_every_example_is_seen_once_an_epoch(batch_size, split):
    """The loss is the mean of example numbers, so the epoch's mean says who was there."""
    seen = split | {"weight": np.arange(70, dtype=np.float32)}

    def loss(params, key, batch):
        total = (batch["weight"] ** 2).mean() + 0 * params["encoder"]
        return total, {"size": jnp.float32(batch["label"].shape[0])}

    stage = ts.Stage(lambda key, batch: {"encoder": jnp.zeros(())}, loss)
    tx = optax.sgd(0.1)
    state, metrics = jax.jit(ts.make_train(stage, tx, batch_size, 2))(
        start(stage, tx, split), seen, jax.random.key(1)
    )
    np.testing.assert_allclose(metrics["loss"], (np.arange(70.0) ** 2).mean(), rtol=1e-6)
    assert state.step == 2 * -(-70 // batch_size)
    # The remainder comes as a batch of its own size: no padding reaches the stage.
    full, rest = divmod(70, batch_size)
    np.testing.assert_allclose(metrics["size"], (full * batch_size**2 + rest**2) / 70, rtol=1e-6)


def test_an_epoch_equals_plain_steps_in_its_order(split):
    """Against a loop in Python over the same order, without engine, scan or optax."""
    stage, tx, key = STAGES["classifier"], optax.sgd(0.1), jax.random.key(1)
    state = start(stage, tx, split)
    order, _ = shuffle(key, 0, 70)
    assert sorted(np.asarray(order)) == list(range(70))
    params, total = state.params, 0.0
    for rows in (order[:32], order[32:64], order[64:]):
        batch = ts.as_batch({name: values[rows] for name, values in split.items()})
        (value, _), gradient = jax.value_and_grad(stage.loss, has_aux=True)(params, key, batch)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        total += value * len(rows)
    after, metrics = jax.jit(ts.make_train(stage, tx, 32, 1))(state, split, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, params)
    np.testing.assert_allclose(metrics["loss"][0], total / 70, rtol=1e-6)


@pytest.mark.parametrize("count", [70, 64, 20])
def test_one_scan_equals_many_calls(count, split):
    stage, tx, key = STAGES["classifier"], optax.adam(1e-2), jax.random.key(1)
    split = {name: values[:count] for name, values in split.items()}
    state = start(stage, tx, split)
    whole, metrics = jax.jit(ts.make_train(stage, tx, 8, 3))(state, split, key)
    short, means = train_in_calls(stage, tx, state, split, key, 3, 8, seconds_per_call=0)
    long, _ = train_in_calls(stage, tx, state, split, key, 3, 8, seconds_per_call=9)
    assert ts.digest(short.params) == ts.digest(long.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), short.params, whole.params
    )
    np.testing.assert_allclose([m["loss"] for m in means], metrics["loss"], rtol=1e-5)


def test_stopping_anywhere_and_going_on_equals_the_uninterrupted_run(split):
    stage, tx, key = STAGES["classifier"], optax.adam(1e-2), jax.random.key(1)
    state, data = start(stage, tx, split), jax.device_put(split)
    expected, means = train_in_calls(stage, tx, state, split, key, 2, 4, seconds_per_call=0)
    epoch = compiled_epoch(stage, tx, 4, state, data)
    for stop in range(1, 2 * epoch.steps, 5):
        for moment in fit(epoch, state, data, key, 2, seconds_per_call=0):
            if int(moment.state.step) >= stop:
                break
        half = jax.tree.map(jnp.copy, moment)
        *_, last = fit(epoch, half.state, data, key, 2, half.sums)
        assert ts.digest(last.state) == ts.digest(expected)
        assert last.metrics == means[-1]


def test_more_epochs_never_change_earlier_ones(split):
    stage, tx, key = STAGES["autoencoder"], optax.adam(1e-2), jax.random.key(1)
    state = start(stage, tx, split)
    _, three = jax.jit(ts.make_train(stage, tx, 32, 3))(state, split, key)
    once = jax.jit(ts.make_train(stage, tx, 32, 1))
    for epoch in range(3):
        state, metrics = once(state, split, key)
        np.testing.assert_allclose(metrics["loss"][0], three["loss"][epoch], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 100, 4096, 70_000])
def test_a_shuffle_holds_every_example_once_and_differs_from_key_to_key(count):
    orders = [np.asarray(permutation(jax.random.key(seed), count)) for seed in range(2)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(count))
    assert count < 100 or (orders[0] != orders[1]).mean() > 0.9


def test_every_order_of_four_is_as_likely_as_any_other():
    keys = jax.random.split(jax.random.key(0), 24_000)
    orders = np.asarray(jax.vmap(lambda key: permutation(key, 4))(keys))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_epochs_are_shuffled_differently():
    first, _ = shuffle(jax.random.key(1), 0, 70)
    second, _ = shuffle(jax.random.key(1), 1, 70)
    assert np.any(first != second)
    assert sorted(np.asarray(second)) == list(range(70))


def test_an_explicit_order_takes_the_place_of_the_shuffle(split):
    """Given the orders a shuffle would make, both ways to train do what they do without."""
    stage, tx, key = STAGES["classifier"], optax.adam(1e-2), jax.random.key(1)
    state = start(stage, tx, split)
    order = np.stack([shuffle(key, number, 70)[0] for number in range(3)])
    train = jax.jit(ts.make_train(stage, tx, 32, 3))
    assert ts.digest(train(state, split, key, order)) == ts.digest(train(state, split, key))
    assert ts.digest(train(state, split, key, order[::-1])) != ts.digest(train(state, split, key))
    shuffled = train_in_calls(stage, tx, state, split, key, 3)
    given = train_in_calls(stage, tx, state, split, key, 3, order=order)
    assert ts.digest(given[0]) == ts.digest(shuffled[0])
    assert given[1] == shuffled[1]


def test_an_order_of_another_shape_is_refused(split):
    stage, tx, key = STAGES["placeholder"], optax.sgd(0.1), jax.random.key(1)
    state, order = start(stage, tx, split), np.zeros((2, 69), np.int32)
    with pytest.raises(ValueError, match=r"order is \[2, 69\].*all 70 examples.*the 2 epochs"):
        ts.make_train(stage, tx, 32, 2)(state, split, key, order)
    with pytest.raises(ValueError, match=r"order is \[2, 69\]"):
        train_in_calls(stage, tx, state, split, key, 2, order=order)


@pytest.mark.parametrize("name", STAGES)
def test_compiler_options_do_not_change_a_bit(name, split):
    stage, tx, key = STAGES[name], optax.adamw(1e-2), jax.random.key(1)
    state, train = start(stage, tx, split), ts.make_train(stage, tx, 8, 3)
    plain = jax.jit(train)(state, split, key)
    fast = jax.jit(train, compiler_options=ts.compiler_options())(state, split, key)
    assert ts.digest(fast) == ts.digest(plain)


def test_initial_values_do_not_depend_on_how_they_are_compiled(split):
    stage, tx = STAGES["classifier"], optax.adam(1e-2)
    plain = jax.jit(make_init(stage, tx))(jax.random.key(0), split, {})
    assert ts.digest(plain) == ts.digest(start(stage, tx, split))


def test_features_stand_for_images_whose_encoder_is_frozen(split):
    """Trained on cached features, a head ends where it ends with the encoder in the loop."""
    stage, tx, key = STAGES["classifier"], ts.freeze(optax.adam(1e-2), "encoder"), jax.random.key(1)
    state = start(stage, tx, split)
    on_features = ts.Stage(stage.init, ts.classifier(ts.Identity(), HEAD).loss)
    features = ts.encode(ENCODER.apply, state.params["encoder"], split["image"])
    assert features.shape == (70, 5)
    looped, means = jax.jit(ts.make_train(stage, tx, 32, 3))(state, split, key)
    cached, same = jax.jit(ts.make_train(on_features, tx, 32, 3))(
        state, {**split, "image": features}, key
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), cached, looped)
    np.testing.assert_allclose(same["loss"], means["loss"], rtol=1e-5)
    np.testing.assert_allclose(same["accuracy"], means["accuracy"], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 2500])
def test_every_example_is_encoded_once_and_in_its_place(count):
    images = np.random.RandomState(0).randint(0, 256, (count, 2, 2, 1)).astype(np.uint8)
    features = ts.encode(lambda params, image: params * image.reshape(-1, 4), 2.0, images)
    np.testing.assert_allclose(features, 2 * ts.as_image(images).reshape(-1, 4), rtol=1e-6)


def test_vmapped_training_equals_solo_runs(split):
    stage, tx = STAGES["autoencoder"], optax.adam(1e-2)
    train = ts.make_train(stage, tx, 32, 2)

    def keys(seed):
        return jax.random.split(jax.random.key(seed), 3)

    states = jax.vmap(lambda key: ts.init_state(stage, tx, key, split))(keys(5))
    ensemble, metrics = jax.jit(jax.vmap(train, in_axes=(0, None, 0)))(states, split, keys(6))
    assert metrics["loss"].shape == (3, 2)
    for member in range(3):
        alone = jax.tree.map(lambda x, m=member: x[m], states)
        solo, _ = jax.jit(train)(alone, split, keys(6)[member])
        jax.tree.map(
            lambda a, b, m=member: np.testing.assert_allclose(a[m], b, atol=1e-5),
            ensemble.params,
            solo.params,
        )


def test_training_moves_nothing_between_host_and_device_unasked(split):
    stage, tx, key = STAGES["classifier"], optax.adam(1e-2), jax.random.key(1)
    state, data = start(stage, tx, split), jax.device_put(split)
    epoch = compiled_epoch(stage, tx, 32, state, data)
    with jax.transfer_guard("disallow"):
        *_, last = fit(epoch, state, data, key, 2)
    assert last.epoch == 2


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_states_are_donated_but_for_the_caller_s_and_but_on_a_cpu(split, device, monkeypatch):
    monkeypatch.setattr(compilation, "_on_cpu", lambda: device == "cpu")
    stage, tx, key = STAGES["autoencoder"], optax.adam(1e-2), jax.random.key(1)
    state, data = start(stage, tx, split), jax.device_put(split)
    before = ts.digest(state)
    epoch = compiled_epoch(stage, tx, 32, state, data)
    moments = [moment.state for moment in fit(epoch, state, data, key, 1)]
    assert ts.digest(state) == before
    given_up = [leaf.is_deleted() for leaf in jax.tree.leaves(moments[0].params)]
    assert not any(given_up) if device == "cpu" else all(given_up)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(moments[-1].params))


def test_a_user_s_own_encoder_and_stage_train(split):
    from flax import linen as nn

    class Own(nn.Module):
        @nn.compact
        def __call__(self, image):
            assert image.dtype == jnp.float32 and image.ndim == 4
            x = nn.LayerNorm()(nn.Conv(4, (3, 3))(image))
            return nn.Dense(5)(x.reshape(len(x), -1))

    def denoise(encoder, decoder):
        plain = ts.autoencoder(encoder, decoder)

        def loss(params, key, batch):
            noise = jax.random.normal(key, batch["image"].shape)
            return plain.loss(params, key, {**batch, "image": batch["image"] + 0.1 * noise})

        return ts.Stage(plain.init, loss)

    stage, tx = denoise(Own(), DECODER), optax.adam(1e-2)
    train = jax.jit(ts.make_train(stage, tx, 32, 3))
    state, metrics = train(start(stage, tx, split), split, jax.random.key(1))
    assert metrics["loss"][-1] < metrics["loss"][0]
    head = ts.classifier(Own(), HEAD)
    frozen = ts.freeze(tx, "encoder")
    second = start(head, frozen, split, encoder=state.params["encoder"])
    jax.jit(ts.make_train(head, frozen, 32, 1))(second, split, jax.random.key(2))


def test_a_decoder_of_the_wrong_size_is_named_before_anything_is_compiled(split):
    stage, tx = ts.autoencoder(ENCODER, ts.MLP((8, 15))), optax.adam(1e-2)
    state = start(stage, tx, split)
    with pytest.raises(ts.UserError, match=r"gives \[15\] for an image of \[4, 4, 1\].*must be 16"):
        jax.eval_shape(ts.make_train(stage, tx, 32, 1), state, split, jax.random.key(1))


def test_reconstruction_error_by_hand(split):
    def half(params, image):
        return image * 0.5

    expected = ((np.asarray(ts.as_batch(split)["image"]) / 2) ** 2).mean()
    for batch_size in (7, 32, 1000):
        error = ts.reconstruction(half, {}, split, batch_size)
        np.testing.assert_allclose(error, expected, rtol=1e-5)
