"""Batches, stages and heads: every objective and head in the tables is tested by being listed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import twostage_jax as ts
from twostage_jax.stages.families import HEADS, OBJECTIVES
from twostage_jax.stages.signature import call, check_head, numbers

CLASSES = 3


def examples():
    """24 images of 2×2 in three classes, each with one bright pixel."""
    label = np.arange(24) % CLASSES
    noise = np.random.RandomState(0).normal(0, 0.1, (24, 4))
    image = np.eye(4)[label] + noise
    return ts.as_batch({"image": image.reshape(24, 2, 2, 1), "label": label})


def features():
    batch = examples()
    image = batch["image"].reshape(24, 4)
    return {
        **batch,
        "image": image,
        "validation_image": image[:6],
        "validation_label": batch["label"][:6],
    }


def make_head(name, **settings):
    return check_head(call(HEADS[name], {"classes": CLASSES, "widths": (8,)}, settings), name)


def make_objective(name):
    modules = {"encoder": ts.MLP((5,)), "decoder": ts.MLP((4,))}
    return call(OBJECTIVES[name], modules, {})


def check_trainable(stage, batch):
    """Pure, finite and differentiable, under jit and vmap."""
    params = stage.init(jax.random.key(0), batch)
    losses = jax.jit(jax.value_and_grad(stage.loss, has_aux=True))
    (loss, metrics), gradient = losses(params, jax.random.key(1), batch)
    assert loss.shape == () and np.isfinite(loss)
    assert all(np.ndim(value) == 0 for value in metrics.values())
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    keys = jax.random.wrap_key_data(jax.random.key_data(jax.random.key(1))[None].repeat(2, 0))
    members, _ = jax.jit(jax.vmap(stage.loss, in_axes=(None, 0, None)))(params, keys, batch)
    np.testing.assert_allclose(members, [loss, loss], rtol=1e-5)
    return params


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_an_encoder_without_labels(name):
    stage = make_objective(name)
    batch = examples()
    params = check_trainable(stage, batch)
    assert "encoder" in params
    unlabelled = {**batch, "label": jnp.zeros_like(batch["label"])}
    with_labels, _ = stage.loss(params, jax.random.key(1), batch)
    assert stage.loss(params, jax.random.key(1), unlabelled)[0] == with_labels


@pytest.mark.parametrize("name", HEADS)
def test_every_head_classifies_easy_features(name):
    head = make_head(name)
    batch = features()
    key = jax.random.key(0)
    if head.stage is not None:
        params = check_trainable(head.stage, batch)
        tx = optax.adam(0.05)
        state = tx.init(params)

        @jax.jit
        def step(params, state):
            gradient, _ = jax.grad(head.stage.loss, has_aux=True)(params, key, batch)
            updates, state = tx.update(gradient, state)
            return optax.apply_updates(params, updates), state

        for _ in range(100):
            params, state = step(params, state)
    else:
        params = jax.jit(head.solve)(key, batch)
    logits = jax.jit(head.logits)(params, batch["image"])
    assert logits.shape == (24, CLASSES) and np.isfinite(logits).all()
    assert (logits.argmax(-1) == batch["label"]).all()


@pytest.mark.parametrize("name", [name for name in HEADS if make_head(name).solve])
def test_every_solved_head_is_swept_by_vmap_over_numbers_and_data(name):
    batch = features()
    number, default = next(iter(numbers(HEADS[name]).items()))
    values = jnp.array([2.0, default + 1])
    other = {**batch, "image": batch["image"][::-1], "label": batch["label"][::-1]}
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), batch, other)

    def predict(value, batch):
        head = call(HEADS[name], {"classes": CLASSES}, {number: value})
        return head.logits(head.solve(jax.random.key(0), batch), batch["image"])

    swept = jax.jit(jax.vmap(predict))(values, both)
    solo = jax.jit(predict)
    np.testing.assert_allclose(swept[0], solo(values[0], batch), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(swept[1], solo(values[1], other), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classifier_has_the_documented_bits(smoothing):
    """Initial values follow from the two halves of the key, and the loss from its formula."""
    encoder = ts.MLP((5,))
    module = ts.MLP((8, CLASSES))
    batch = examples() | {"weight": jnp.array([1.0, 0.0] * 12)}
    stage = ts.classifier(encoder, module, smoothing)
    params = stage.init(jax.random.key(3), batch)
    halves = jax.random.split(jax.random.key(3))
    encoder_params = encoder.init(halves[0], batch["image"])
    encoded = encoder.apply(encoder_params, batch["image"])
    expected = {"encoder": encoder_params, "head": module.init(halves[1], encoded)}
    assert ts.digest(params) == ts.digest(expected)

    logits = module.apply(params["head"], encoded)
    losses = -jax.nn.log_softmax(logits)
    target = optax.smooth_labels(jax.nn.one_hot(batch["label"], CLASSES), smoothing)
    loss, metrics = stage.loss(params, jax.random.key(0), batch)
    np.testing.assert_allclose(loss, (target * losses).sum(-1)[::2].mean(), rtol=1e-6)
    hits = logits.argmax(-1) == batch["label"]
    np.testing.assert_allclose(metrics["accuracy"], hits[::2].mean(), rtol=1e-6)
    assert metrics["count"] == 12
    nothing, _ = stage.loss(params, jax.random.key(0), batch | {"weight": jnp.zeros(24)})
    assert nothing == 0

    head = ts.mlp(CLASSES, (8,), label_smoothing=smoothing)
    attached = ts.attach(encoder, head)
    assert ts.digest(attached.init(jax.random.key(3), batch)) == ts.digest(params)
    assert attached.loss(params, jax.random.key(0), batch)[0] == loss
    np.testing.assert_array_equal(ts.make_logits(encoder, head)(params, batch["image"]), logits)


def test_denoising_without_noise_is_the_autoencoder_and_noise_costs_more():
    batch = examples()
    modules = ts.MLP((5,)), ts.MLP((4,))
    params = ts.autoencoder(*modules).init(jax.random.key(0), batch)

    def loss(stage):
        return float(stage.loss(params, jax.random.key(1), batch)[0])

    plain = loss(ts.autoencoder(*modules))
    assert loss(ts.denoising(*modules, noise=0.0)) == plain
    assert loss(ts.denoising(*modules, noise=5.0)) > plain
    image = batch["image"]
    noisy = image + 0.5 * jax.random.normal(jax.random.key(1), image.shape)
    decoded = ts.make_decode(*modules)(params, noisy)
    expected = float(((decoded - image) ** 2).mean())
    assert loss(ts.denoising(*modules)) == pytest.approx(expected, rel=1e-6)


def test_a_decoder_of_another_size_is_rejected():
    stage = ts.autoencoder(ts.MLP((5,)), ts.MLP((7,)))
    batch = examples()
    params = stage.init(jax.random.key(0), batch)
    with pytest.raises(ts.UserError, match=r"output is \[7\].* its last width must be 4"):
        stage.loss(params, jax.random.key(1), batch)


def test_as_batch_normalises_uint8_only():
    batch = ts.as_batch({"image": np.array([[[[0]]], [[[255]]]], np.uint8), "label": [0, 1]})
    np.testing.assert_array_equal(batch["image"].ravel(), [-1, 1])
    np.testing.assert_array_equal(batch["weight"], [1, 1])
    assert batch["label"].dtype == jnp.int32
    again = ts.as_batch(batch)
    np.testing.assert_array_equal(again["image"], batch["image"])
    with pytest.raises(ts.UserError, match="images are int32: give uint8"):
        ts.as_batch({"image": np.zeros((1, 2, 2, 1), np.int32), "label": [0]})
