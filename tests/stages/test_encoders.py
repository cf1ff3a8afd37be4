"""Encoders and decoders: convolutions as products, shapes for any image, batches and members."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twostage_jax as ts
from twostage_jax.stages.nets.decoders import make_decoder
from twostage_jax.stages.nets.patches import PatchConv, depth_to_space, space_to_depth

TINY = {
    "conv": ts.Conv((4, 4, 6, 5)),
    "resnet": ts.ResNet((4, 6, 8)),
    "vit": ts.ViT((8, 8, 5)),
}
SHAPES = [(8, 8, 1), (28, 28, 1), (64, 64, 3), (33, 17, 3), (1, 5, 1)]


def new_key() -> jax.Array:
    return jax.random.key(0)


def random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.RandomState(0).normal(size=shape), jnp.float32)


def convolution(image: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The convolution of XLA, as a reference."""
    axes = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(image, kernel, strides, "SAME", dimension_numbers=axes)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (8, 4), (4, 2), (3, 2)])
def test_patches_times_matrix_equals_the_convolution_of_xla(kernel, stride):
    layer = PatchConv(5, kernel, stride, use_bias=True)

    @jax.jit
    def difference(image, weights, bias):
        weights = {"kernel": weights, "bias": bias}
        expected = convolution(image, weights["kernel"], stride) + bias[None, None, None]
        return jnp.abs(layer.apply({"params": weights}, image) - expected).max()

    image = random(2, 7, 9, 3)  # odd, and not square
    weights = random(kernel, kernel, 3, 5)
    assert difference(image, weights, random(5)) < 1e-4


def test_depth_to_space_inverts_space_to_depth():
    image = random(2, 6, 4, 3)
    assert (depth_to_space(space_to_depth(image, 2), 2) == image).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TINY)
def test_an_image_of_any_shape_becomes_features_and_an_image_again(name, shape):
    encoder = TINY[name]
    image = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    params = jax.eval_shape(encoder.init, new_key(), image)
    features = jax.eval_shape(encoder.apply, params, image)
    assert (features.shape, features.dtype) == ((2, encoder.widths[-1]), jnp.float32)
    decoder = make_decoder(name, encoder.widths, shape)
    decoded = jax.eval_shape(lambda x: decoder.init_with_output(new_key(), x)[0], features)
    assert decoded.shape == image.shape


def drawn(encoder, image: jax.Array, *lead: int):
    """Variables of an encoder, without compiling its `init`."""
    shapes = jax.eval_shape(encoder.init, new_key(), image)
    draw = np.random.RandomState(0)
    return jax.tree.map(
        lambda x: jnp.asarray(draw.normal(0, 0.3, (*lead, *x.shape)), jnp.float32), shapes
    )


def features(encoder, variables, image: jax.Array) -> jax.Array:
    """Features in training."""
    train = {} if isinstance(encoder, ts.ViT) else {"train": True}
    return encoder.apply(variables, image, mutable=["batch_stats"], **train)[0]


@pytest.mark.parametrize("name", TINY)
def test_members_under_vmap_equal_members_in_turn(name):
    encoder = TINY[name]
    image = random(2, 6, 9, 1)

    @jax.jit
    def both(members):
        def compute(variables):
            return features(encoder, variables, image)

        return jax.vmap(compute)(members), jax.lax.map(compute, members)

    together, in_turn = both(drawn(encoder, image, 3))
    np.testing.assert_allclose(together, in_turn, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_no_gradient_of_members_has_a_convolution(name):
    """A convolution is XLA's slow path in loops, and a grouped one under `vmap`."""
    encoder = TINY[name]
    image = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
    decoder = make_decoder(name, encoder.widths, image.shape[1:])

    def loss(key, image):
        variables = encoder.init(key, image)

        def error(variables):
            return jnp.sum(decoder.init_with_output(key, features(encoder, variables, image))[0])

        return jax.grad(error)(variables)

    keys = jax.eval_shape(lambda: jax.random.split(new_key(), 3))
    lowered = jax.jit(jax.vmap(loss, (0, None))).lower(keys, image)
    assert "convolution" not in lowered.as_text()


def test_conv_is_products_normalised_by_the_batch_and_features_before_the_last_relu():
    conv = ts.Conv((3, 4, 5, 2))

    def normalise(x):
        axes = tuple(range(x.ndim - 1))
        variance = x.var(axes, keepdims=True)
        return (x - x.mean(axes, keepdims=True)) / jnp.sqrt(variance + 1e-5)

    @jax.jit
    def both(variables, image):
        weights = variables["params"]
        x = image
        for index, stride in enumerate((4, 1, 2)):
            if index:
                x = convolution(x, weights[f"conv_{index}"]["kernel"], stride)
            else:
                # The border is repeated, not zero: patches that touch zeros are cut off.
                x = jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="edge")
                x = convolution(x, weights["conv_0"]["kernel"], 4)[:, 1:-1, 1:-1]
            norm = weights[f"norm_{index}"]["batch"]
            x = jax.nn.relu(normalise(x) * norm["scale"] + norm["bias"])
        norm = weights["norm"]["batch"]
        expected = normalise(x.reshape(len(x), -1) @ weights["dense"]["kernel"])
        return features(conv, variables, image), expected * norm["scale"] + norm["bias"]

    image = random(6, 28, 28, 1)
    with jax.numpy_rank_promotion("allow"):
        computed, expected = both(drawn(conv, image), image)
    np.testing.assert_allclose(computed, expected, atol=1e-4)
    assert (computed < 0).any()


def test_kernels_are_he_normal():
    params = jax.jit(PatchConv(64, 4, 2).init)(new_key(), random(1, 8, 8, 32))
    np.testing.assert_allclose(params["params"]["kernel"].std(), (2 / 512) ** 0.5, rtol=0.02)


def test_a_projector_can_begin_with_a_relu():
    @jax.jit
    def outputs(features):
        projector = ts.Projector((5, 3), activate=True)
        params = projector.init(new_key(), features)
        plain = ts.Projector((5, 3)).apply(params, features)
        return projector.apply(params, features), plain, projector.apply(params, relu(features))

    def relu(x):
        return jnp.maximum(x, 0)

    activated, plain, positive = outputs(random(4, 6))
    np.testing.assert_allclose(activated, positive, atol=1e-6)
    assert not np.allclose(activated, plain)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (ts.Conv((8,)), r"conv has the widths \[8\]: give at least two"),
        (ts.ResNet((8,)), r"resnet has the widths \[8\]: give at least two"),
        (ts.ViT((8,)), r"vit has the widths \[8\]: give one width of the tokens"),
        (ts.ViT((8, 4, 5)), r"vit has the widths \[8, 4, 5\]: give one width of the tokens"),
        (ts.ViT((6, 5)), "a multiple of 4"),
        (ts.ViT((8, 5), patch=9), "patch size 9 for images 8×8: give 1 to 8"),
        (ts.Conv(norm="layer"), "unknown norm 'layer': choose from batch, group"),
    ],
)
def test_what_an_encoder_cannot_be_made_of_is_refused(encoder, message):
    with pytest.raises(ts.UserError, match=message):
        jax.eval_shape(encoder.init, new_key(), jnp.zeros((2, 8, 8, 1)))
