"""Modules of users: collections beside `params`, dropout, and what is no Linen module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import twostage_jax as ts
from twostage_jax.stages.modules import check_finish, forward, init_module

IMAGE = jnp.asarray(np.random.RandomState(0).normal(size=(6, 2, 2, 1)), jnp.float32)


class Net(nn.Module):
    """A dense layer, and then the part that is tested."""

    @nn.compact
    def __call__(self, x):
        return self.part(nn.Dense(8)(x.reshape(len(x), -1)))


class Constants(Net):
    def part(self, x):
        order = self.variable("constants", "order", lambda: jnp.arange(8)[::-1])
        self.sow("intermediates", "features", x)
        return nn.BatchNorm(use_running_average=True)(x[:, order.value])


class Updated(Net):
    def part(self, x):
        return nn.BatchNorm(use_running_average=False)(x)


class UpdatedInTraining(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1))


class UpdatedIfMutable(Net):
    def part(self, x):
        mean = self.variable("ema", "mean", lambda: jnp.zeros(8))
        if self.is_mutable_collection("ema") and not self.is_initializing():
            mean.value = 0.9 * mean.value + 0.1 * x.mean(0)
        return x - mean.value[None]


class Projection(nn.Module):
    """Constants alone."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        return x @ self.variable("fixed", "w", lambda: jnp.ones((x.shape[-1], 3))).value


class Dropout(Net):
    def part(self, x):
        return nn.Dropout(0.5, deterministic=not self.has_rng("dropout"))(x)


class DropoutByFlag(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dropout(0.5, deterministic=not train)(x.reshape(len(x), -1))


class DropoutByOtherFlag(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return nn.Dropout(0.5, deterministic=deterministic)(x.reshape(len(x), -1))


class AlwaysDropout(Net):
    def part(self, x):
        return nn.Dropout(0.5, deterministic=False)(x)


class Noisy(Net):
    def part(self, x):
        return x + jax.random.normal(self.make_rng("noise"), x.shape)


class Pair(Net):
    def part(self, x):
        return x, x


class Mean(Net):
    def part(self, x):
        return x.mean(0)


class OfNnx(nnx.Module):
    def __call__(self, x):
        return x


def init(module):
    return jax.jit(lambda image: init_module(module, jax.random.key(0), image))(IMAGE)


def test_groups_are_what_init_returns():
    assert ts.digest(init(Constants())) == ts.digest(Constants().init(jax.random.key(0), IMAGE))
    # An empty `params` tells the engine that the others are collections.
    assert init(Projection()).keys() == {"fixed", "params"}


@pytest.mark.parametrize(
    ("module", "collection"),
    [(Updated, "batch_stats"), (UpdatedIfMutable, "ema")],
)
def test_a_collection_that_a_forward_pass_updates_is_refused(module, collection):
    remedy = r"write nn.BatchNorm\(use_running_average=not train\)"
    with pytest.raises(ts.UserError, match=f"updates {collection} in the forward .* {remedy}"):
        init(module())


def statistics_of(x):
    """Mean and variance of each value over the batch."""
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    return x.mean(0), x.var(0)


def test_training_normalises_with_the_batch_and_evaluation_with_fixed_statistics():
    module = UpdatedInTraining()
    variables = init(module)
    x = 3 * IMAGE + 5
    mean, variance = statistics_of(x)
    expected = (np.asarray(x).reshape(6, -1) - mean) / np.sqrt(variance + 1e-5)
    trained = forward(module, variables, x, jax.random.key(0))
    np.testing.assert_allclose(trained, expected, atol=1e-5)
    # Before the statistics are fixed, mean 0 and variance 1 are used.
    start = np.asarray(x).reshape(6, -1) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(forward(module, variables, x), start, rtol=1e-5)
    finished = ts.make_finish(module)({"encoder": variables}, x)["encoder"]
    assert ts.digest(finished["params"]) == ts.digest(variables["params"])
    np.testing.assert_allclose(forward(module, finished, x), expected, atol=1e-4)


class Layers(nn.Module):
    """Two layers with batch normalisation; the second sees the output of the first."""

    momentum: float = 0.99

    @nn.compact
    def __call__(self, x, train=False):
        for width in (8, 3):
            x = nn.BatchNorm(use_running_average=not train, momentum=self.momentum)(
                nn.Dense(width)(x.reshape(len(x), -1))
            )
        return nn.Dropout(0.5, deterministic=not self.has_rng("never"))(x)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_finishing_finds_the_statistics_of_all_layers_whatever_the_momentum(momentum):
    encoder = Layers(momentum)
    decoder = UpdatedInTraining()
    variables = jax.jit(encoder.init)(jax.random.key(0), IMAGE)
    params = {"encoder": variables, "decoder": decoder.init(jax.random.key(1), jnp.ones((1, 3)))}
    x = 20 * IMAGE + 30
    finish = jax.jit(ts.make_finish(encoder, decoder=decoder))
    finished = finish(params, x)
    features = forward(encoder, finished["encoder"], x)
    trained = forward(encoder, variables, x, jax.random.key(0))
    np.testing.assert_allclose(features, trained, atol=1e-4)
    decoded = forward(decoder, finished["decoder"], features)
    expected = forward(decoder, params["decoder"], features, jax.random.key(0))
    np.testing.assert_allclose(decoded, expected, atol=1e-4)
    # Statistics that were fixed before do not count.
    again = finish({**finished, "encoder": finished["encoder"]}, x)
    np.testing.assert_allclose(forward(encoder, again["encoder"], x), features, atol=1e-4)


def test_a_stage_with_statistics_must_fix_them():
    params = {"encoder": init(UpdatedInTraining()), "decoder": {"params": {}}}
    with pytest.raises(ts.UserError, match=r"mine has batch_stats in encoder and no finish: .*"):
        check_finish(ts.Stage(None, None), params, "mine")  # type: ignore
    for finish in (ts.autoencoder, ts.denoising):
        check_finish(finish(UpdatedInTraining(), ts.MLP((4,))), params, "ours")


def test_an_update_is_refused_for_given_variables_too():
    variables = jax.jit(Updated().init)(jax.random.key(0), IMAGE)
    with pytest.raises(ts.UserError, match="Updated updates a collection in the forward pass"):
        forward(Updated(), variables, IMAGE)


@pytest.mark.parametrize("module", [Dropout(), DropoutByFlag(), DropoutByOtherFlag()])
def test_dropout_is_on_with_a_key_and_off_without(module):
    variables = init(module)
    dropped = {seed: forward(module, variables, IMAGE, jax.random.key(seed)) for seed in (0, 1)}
    assert (forward(module, variables, IMAGE) != 0).all()
    assert 0.2 < np.mean(dropped[0] == 0) < 0.8
    assert (dropped[0] != dropped[1]).any()


def test_training_drops_per_key_and_evaluation_does_not():
    batch = ts.as_batch({"image": IMAGE, "label": [0, 1, 2] * 2})
    for stage in (
        ts.autoencoder(Dropout(), ts.MLP((4,))),
        ts.autoencoder(ts.MLP((8,)), nn.Sequential([Dropout(), nn.Dense(4)])),
        ts.classifier(Dropout(), ts.MLP((3,))),
        ts.classifier(ts.MLP((8,)), nn.Sequential([Dropout(), nn.Dense(3)])),
    ):
        params = jax.jit(stage.init)(jax.random.key(0), batch)
        losses = [float(stage.loss(params, jax.random.key(s), batch)[0]) for s in (0, 1)]
        assert losses[0] != losses[1]
    stage = ts.classifier(Dropout(), ts.MLP((3,)), frozen=True)
    params = jax.jit(stage.init)(jax.random.key(0), batch)
    losses = [float(stage.loss(params, jax.random.key(s), batch)[0]) for s in (0, 1)]
    assert losses[0] == losses[1]  # a frozen encoder is that of evaluation


def test_encoder_and_decoder_drop_different_values():
    stage = ts.autoencoder(DropoutByFlag(), DropoutByFlag())
    batch = ts.as_batch({"image": jnp.ones((100, 2, 2, 1)), "label": np.zeros(100, int)})
    params = jax.jit(stage.init)(jax.random.key(0), batch)
    # A value that survives both is 4, with an error of 9; the others are 0, with an error of 1.
    # Equal masks would let half of the values survive, and the loss would be 5.
    assert float(stage.loss(params, jax.random.key(1), batch)[0]) == pytest.approx(3, abs=0.8)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (AlwaysDropout(), r"'dropout' key .* deterministic=not self.has_rng\(\"dropout\"\)"),
        (Noisy(), "asks for a 'noise' key .*: a stage gives only the key dropout"),
        (Pair(), "Pair returned a tuple: return one array"),
        (Mean(), r"Mean returned \[8\] for 6 inputs: return \[6, ...\]"),
        (OfNnx(), "OfNnx has no methods init and apply: give a module of flax.linen"),
        (lambda x: x, "has no methods init and apply"),
        (Net, r"Net is a class: give a module, such as Net\(\)"),
    ],
)
def test_unsuitable_modules_are_refused_in_one_sentence(module, message):
    with pytest.raises(ts.UserError, match=message):
        forward(module, init(module), IMAGE)


def test_raw_images_are_refused():
    encoder, head = ts.MLP((3,)), ts.MLP((2,))
    batch = {"image": np.zeros((2, 2, 2, 1), np.uint8), "label": np.zeros(2, np.int32)}
    stage = ts.classifier(encoder, head)
    params = jax.jit(stage.init)(jax.random.key(0), ts.as_batch(batch))
    with pytest.raises(ts.UserError, match=r"values of type uint8: .* ts.as_image\(image\)"):
        ts.make_logits(encoder, head)(params, batch["image"])
    with pytest.raises(ts.UserError, match="values of type uint8"):
        stage.loss(params, jax.random.key(0), {**batch, "weight": np.ones(2)})
