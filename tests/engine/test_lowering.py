"""Every program of both stages lowers for GPUs and TPUs, for which there is no device here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twostage_jax as ts
from tests.engine.tiny import AUTOENCODER, CLASSIFIER, ENCODER, HEAD, SPLIT
from tests.tiny import CLASSES
from twostage_jax.engine.epoch import shuffle
from twostage_jax.engine.passes import sum_over
from twostage_jax.engine.placement import Placement, make_mesh, spread
from twostage_jax.engine.state import make_init
from twostage_jax.scores.metrics import score_sums
from twostage_jax.stages.families import ENCODERS, HEADS, OBJECTIVES
from twostage_jax.stages.nets.decoders import make_decoder
from twostage_jax.stages.signature import call
from twostage_jax.trees import shapes_of

PLATFORMS = ("cuda", "tpu")
KEY = jax.eval_shape(lambda: jax.random.key(0))
DATA = shapes_of(SPLIT)


def lowers(function, *arguments):
    """Export for both platforms; fails for what only a CPU can run."""
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS


def training(stage, tx):
    """A whole training, from the initial values on."""

    def train(key, data):
        state = make_init(stage, tx)(key, {n: x[:2] for n, x in data.items()}, {})
        return ts.make_train(stage, tx, 32, 2)(state, data, key)

    return train


def gradient(stage):
    """Initial values, a gradient and the end: all parts of a training that are the stage's own."""

    def compute(key, data):
        keys = jax.random.split(key)
        batch = ts.as_batch(data)
        params = stage.init(keys[0], batch)
        gradients = jax.grad(stage.loss, has_aux=True)(params, keys[1], batch)
        return gradients, stage.finish and stage.finish(params, batch["image"])

    return compute


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_lowers(name):
    modules = {
        "encoder": ENCODER,
        "decoder": ts.MLP((8, 16)),
        "projector": ts.MLP((4,)),
        "augment": lambda key, image: image,
        "classes": CLASSES,
    }
    lowers(gradient(call(OBJECTIVES[name], modules, {})), KEY, DATA)


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "mlp"])
def test_every_encoder_lowers(name):
    widths = (8, 8, 5)
    encoder = call(ENCODERS[name], {"widths": widths}, {})
    stage = ts.autoencoder(encoder, make_decoder(name, widths, (4, 4, 1)))
    lowers(gradient(stage), KEY, DATA)


def test_a_classifier_on_a_frozen_encoder_lowers_for_members():
    train = training(CLASSIFIER, ts.freeze(ts.adam(1e-3), "encoder"))
    placement = Placement(make_mesh(1), members=3, chunk=3)
    lowers(spread(train, placement, (0, None)), jax.ShapeDtypeStruct((3,), KEY.dtype), DATA)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_lowers(name):
    head = HEADS[name](CLASSES)
    features = jax.ShapeDtypeStruct((70, 5), jnp.float32)
    label = jax.ShapeDtypeStruct((70,), jnp.int32)
    weight = jax.ShapeDtypeStruct((70,), jnp.float32)
    batch = {"image": features, "label": label, "weight": weight}
    if head.stage is None:
        batch |= {"validation_image": features, "validation_label": label}
        if head.prepare is not None:
            prepared = head.prepare(np.random.default_rng(0).normal(size=(70, 5)))
            batch |= {"features": features, "prepared": prepared, "index": label}
        lowers(head.solve, KEY, batch)
        params = jax.eval_shape(head.solve, KEY, batch)
    else:
        params = jax.eval_shape(head.stage.init, KEY, batch)
        lowers(head.stage.loss, params, KEY, batch)
    lowers(head.logits, params, features)


def test_shuffle_and_evaluation_lower():
    lowers(lambda key: shuffle(key, 0, 70), KEY)
    params = jax.eval_shape(CLASSIFIER.init, KEY, jax.eval_shape(ts.as_batch, DATA))
    logits = ts.make_logits(ENCODER, HEAD)

    def scores(params, data):
        def measure(batch):
            return score_sums(logits(params, batch["image"]), batch["label"], batch["weight"])

        return sum_over(measure, data, 32)

    lowers(scores, params, DATA)
    params = jax.eval_shape(AUTOENCODER.init, KEY, jax.eval_shape(ts.as_batch, DATA))
    decode = ts.make_decode(ENCODER, ts.MLP((8, 16)))
    image = jax.ShapeDtypeStruct((6, 4, 4, 1), np.uint8)
    lowers(lambda params, image: decode(params, ts.as_image(image)), params, image)
