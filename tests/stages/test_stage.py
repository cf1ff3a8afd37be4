"""Batches, stages and heads: every objective and head in the tables is tested by being listed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import twostage_jax as ts
from twostage_jax.config.choices import SUPERVISED
from twostage_jax.stages.families import HEADS, OBJECTIVES
from twostage_jax.stages.signature import call, check_head

CLASSES = 3


def new_key():
    # A key of its own for each use: the tests let jax refuse a key that is used twice.
    return jax.random.key(0)


def examples():
    """24 images of 2×2 in three classes, each with one bright pixel."""
    label = np.arange(24) % CLASSES
    noise = np.random.RandomState(0).normal(0, 0.1, (24, 4))
    image = np.eye(4)[label] + noise
    return ts.as_batch({"image": image.reshape(24, 2, 2, 1), "label": label})


def check_trainable(stage, batch):
    """Pure, finite and differentiable, under jit and vmap; returns the parameters and the loss."""
    params = jax.jit(stage.init)(new_key(), batch)
    keys = jax.random.wrap_key_data(jax.random.key_data(new_key())[None].repeat(2, 0))
    members = jax.vmap(jax.value_and_grad(stage.loss, has_aux=True), in_axes=(None, 0, None))
    (loss, metrics), gradient = jax.jit(members)(params, keys, batch)
    assert loss.shape == (2,) and np.isfinite(loss).all() and loss[0] == loss[1]
    assert all(value.shape == (2,) for value in metrics.values())
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    return params, loss[0]


def shifted(key, image):
    """An augmentation that draws one number for each image."""
    return image + 0.1 * jax.random.normal(key, (len(image), 1, 1, 1))


def make_objective(name, image_size=4):
    modules = {
        "encoder": ts.MLP((5,)),
        "decoder": ts.MLP((image_size,)),
        "projector": ts.MLP((6, 3)),
        "augment": shifted,
        "classes": CLASSES,
    }
    return call(OBJECTIVES[name], modules, {"patch": 1} if name == "masked" else {})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_an_encoder_and_only_supervised_reads_labels(name):
    stage = make_objective(name)
    batch = examples()
    params, loss = check_trainable(stage, batch)
    assert "encoder" in params
    unlabelled = {**batch, "label": jnp.zeros_like(batch["label"])}
    other = jax.jit(stage.loss)(params, new_key(), unlabelled)[0]
    assert (float(other) == pytest.approx(float(loss), rel=1e-6)) == (name not in SUPERVISED)


# The others are means of losses of single images.
@pytest.mark.parametrize("name", ["simclr-iic", "vicreg", "lejepa"])
def test_a_remainder_of_one_or_two_examples_has_a_finite_gradient(name):
    stage = make_objective(name)
    batch = examples()
    params = jax.jit(stage.init)(new_key(), batch)

    def total(params):
        few = [{key: values[:count] for key, values in batch.items()} for count in (1, 2)]
        return sum(stage.loss(params, new_key(), one)[0] for one in few)

    gradient = jax.jit(jax.value_and_grad(total))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", [name for name in HEADS if HEADS[name](CLASSES).stage])
def test_every_trained_head_classifies_easy_features(name):
    head = check_head(call(HEADS[name], {"classes": CLASSES, "widths": (8,)}, {}), name)
    batch = examples()
    batch["image"] = batch["image"].reshape(24, 4)
    params, _ = check_trainable(head.stage, batch)
    tx = optax.adam(0.05)

    def step(carry, _):
        params, state = carry
        gradient, _ = jax.grad(head.stage.loss, has_aux=True)(params, new_key(), batch)
        updates, state = tx.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    train = jax.jit(lambda carry: jax.lax.scan(step, carry, length=100)[0][0])
    logits = head.logits(train((params, tx.init(params))), batch["image"])
    assert logits.shape == (24, CLASSES)
    assert (logits.argmax(-1) == batch["label"]).all()


def test_classifier_has_the_documented_bits():
    """Initial values follow from the two halves of the key, and the loss from its formula."""
    encoder = ts.MLP((5,))
    module = ts.MLP((8, CLASSES))
    batch = examples() | {"weight": jnp.array([1.0, 0.0] * 12)}
    params = ts.classifier(encoder, module).init(new_key(), batch)
    halves = jax.random.split(new_key())
    encoder_params = encoder.init(halves[0], batch["image"])
    encoded = encoder.apply(encoder_params, batch["image"])
    expected = {"encoder": encoder_params, "head": module.init(halves[1], encoded)}
    assert ts.digest(params) == ts.digest(expected)
    attached = ts.attach(encoder, ts.mlp(CLASSES, (8,)))
    assert ts.digest(attached.init(new_key(), batch)) == ts.digest(params)
    logits = module.apply(params["head"], encoded)
    np.testing.assert_array_equal(ts.make_logits(encoder, module)(params, batch["image"]), logits)

    for smoothing in (0.0, 0.1):
        stage = ts.classifier(encoder, module, smoothing)
        target = optax.smooth_labels(jax.nn.one_hot(batch["label"], CLASSES), smoothing)
        losses = -(target * jax.nn.log_softmax(logits)).sum(-1)
        loss, metrics = stage.loss(params, new_key(), batch)
        np.testing.assert_allclose(loss, losses[::2].mean(), rtol=1e-6)
        hits = logits.argmax(-1) == batch["label"]
        np.testing.assert_allclose(metrics["accuracy"], hits[::2].mean(), rtol=1e-6)
        assert metrics["count"] == 12
        head = ts.mlp(CLASSES, (8,), label_smoothing=smoothing)
        assert ts.attach(encoder, head).loss(params, new_key(), batch)[0] == loss
    nothing, _ = stage.loss(params, new_key(), batch | {"weight": jnp.zeros(24)})
    assert nothing == 0


def test_denoising_decodes_the_clean_image_and_has_no_noise_in_an_autoencoder():
    batch = examples()
    encoder = ts.MLP((5,))
    decoder = ts.MLP((4,))
    image = batch["image"]
    plain = ts.autoencoder(encoder, decoder)
    params = plain.init(new_key(), batch)
    for noise, stage in ((0.0, plain), (0.5, ts.denoising(encoder, decoder))):
        decoded = ts.make_decode(encoder, decoder)(
            params, image + noise * jax.random.normal(new_key(), image.shape)
        )
        expected = float(((decoded - image) ** 2).mean())
        assert float(stage.loss(params, new_key(), batch)[0]) == pytest.approx(expected, rel=1e-6)


def test_a_decoder_of_another_size_is_rejected():
    stage = ts.autoencoder(ts.MLP((5,)), ts.MLP((7,)))
    batch = examples()
    params = jax.eval_shape(stage.init, new_key(), batch)
    with pytest.raises(ts.UserError, match=r"output is \[7\].* its last width must be 4"):
        jax.eval_shape(stage.loss, params, new_key(), batch)


def test_as_batch_normalises_uint8_only():
    batch = ts.as_batch({"image": np.array([[[[0]]], [[[255]]]], np.uint8), "label": [0, 1]})
    np.testing.assert_array_equal(batch["image"].ravel(), [-1, 1])
    np.testing.assert_array_equal(batch["weight"], [1, 1])
    assert batch["label"].dtype == jnp.int32
    again = ts.as_batch(batch)
    np.testing.assert_array_equal(again["image"], batch["image"])
    with pytest.raises(ts.UserError, match="images are int32: give uint8"):
        ts.as_batch({"image": np.zeros((1, 2, 2, 1), np.int32), "label": [0]})


@pytest.mark.parametrize(
    "label", [np.zeros(2), np.eye(2, dtype=np.int32), np.zeros((2, 1), np.int32), np.zeros(3, int)]
)
def test_labels_must_be_one_whole_number_for_each_image(label):
    with pytest.raises(ts.UserError, match=r"give class numbers int32 \[2\]; label.argmax"):
        ts.as_batch({"image": np.zeros((2, 2, 2, 1), np.uint8), "label": label})


@pytest.mark.parametrize("name", HEADS)
def test_a_label_out_of_range_is_refused_or_gives_nan_unless_its_weight_is_0(name):
    head = call(HEADS[name], {"classes": CLASSES}, {"k": 3} if name == "knn" else {})
    batch = examples() | {"weight": jnp.array([0.0, 1.0, 1.0, 1.0] * 6)}
    batch["image"] = batch["image"].reshape(24, 4)
    batch |= {"validation_image": batch["image"], "validation_label": batch["label"]}
    if head.prepare is not None:
        batch |= {"prepared": head.prepare(np.asarray(batch["image"]))}
        batch |= {"features": batch["image"], "index": jnp.arange(24)}

    def result(batch):
        if head.solve is not None:
            return head.logits(head.solve(new_key(), batch), batch["image"])
        return head.stage.loss(head.stage.init(new_key(), batch), new_key(), batch)

    compiled = jax.jit(result)
    expected = compiled(batch)
    for mark in (-1, CLASSES, -100):
        unlabelled = batch | {"label": batch["label"].at[::4].set(mark)}
        for value, other in zip(
            *map(jax.tree.leaves, (compiled(unlabelled), expected)), strict=True
        ):
            np.testing.assert_array_equal(value, other)
        wrong = batch | {"label": batch["label"].at[1].set(mark)}
        assert np.isnan(jax.tree.leaves(compiled(wrong))[0]).all()
        with pytest.raises(
            ts.UserError, match=f"1 of 18 labels are out of range .* instance {mark}"
        ):
            result(wrong)
