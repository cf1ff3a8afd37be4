"""Encoders and decoders: convolutions as products, shapes for any image, batches and members."""

from functools import partial

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
KEY = jax.random.key(0)


def random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.RandomState(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("shape", [(12, 12, 1), (7, 9, 3), (1, 5, 2)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (8, 4), (4, 2), (3, 2), (2, 2)])
def test_patches_times_matrix_equals_the_convolution_of_xla(kernel, stride, shape):
    image = random(2, *shape)
    layer = PatchConv(5, kernel, stride, use_bias=True)
    params = layer.init(KEY, image)
    params["params"]["bias"] = random(5)

    def expected(params, image):
        axes = ("NHWC", "HWIO", "NHWC")
        strides = (stride, stride)
        weights = params["params"]
        y = jax.lax.conv_general_dilated(
            image, weights["kernel"], strides, "SAME", dimension_numbers=axes
        )
        return y + weights["bias"]

    np.testing.assert_allclose(layer.apply(params, image), expected(params, image), atol=1e-5)


def test_depth_to_space_inverts_space_to_depth():
    image = random(2, 6, 4, 3)
    assert (depth_to_space(space_to_depth(image, 2), 2) == image).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TINY)
def test_an_image_of_any_shape_becomes_features_and_an_image_again(name, shape):
    encoder = TINY[name]
    image = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    params = jax.eval_shape(encoder.init, KEY, image)
    features = jax.eval_shape(encoder.apply, params, image)
    assert (features.shape, features.dtype) == ((2, encoder.widths[-1]), jnp.float32)
    decoder = make_decoder(name, encoder.widths, shape)
    decoded = jax.eval_shape(lambda x: decoder.init_with_output(KEY, x)[0], features)
    assert decoded.shape == image.shape


def compute(name: str, params, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Features in training and the decoded images."""
    encoder = TINY[name]
    train = {} if name == "vit" else {"train": True}
    features, _ = encoder.apply(params["encoder"], image, mutable=["batch_stats"], **train)
    decoder = make_decoder(name, encoder.widths, image.shape[1:])
    return features, decoder.apply(params["decoder"], features)


@pytest.mark.parametrize("name", TINY)
def test_members_under_vmap_equal_members_in_turn_without_a_convolution(name):
    image = random(2, 9, 9, 1)
    encoder = TINY[name]

    def init(key):
        decoder = make_decoder(name, encoder.widths, image.shape[1:])
        features = jnp.zeros((2, encoder.widths[-1]))
        return {"encoder": encoder.init(key, image), "decoder": decoder.init(key, features)}

    members = jax.jit(jax.vmap(init))(jax.random.split(KEY, 3))

    def loss(params, image):
        features, decoded = compute(name, params, image)
        return jnp.sum(decoded**2), features

    step = jax.value_and_grad(loss, has_aux=True)
    together = jax.jit(jax.vmap(step, (0, None))).lower(members, image)
    # XLA's slow path in loops, and a grouped convolution under `vmap`.
    assert "convolution" not in together.as_text()
    (_, features), _ = together.compile()(members, image)
    in_turn = jax.jit(lambda p: jax.lax.map(lambda q: compute(name, q, image)[0], p))(members)
    np.testing.assert_allclose(features, in_turn, rtol=1e-4, atol=1e-5)


def test_conv_is_products_normalised_by_the_batch_and_features_before_the_last_relu():
    image = random(6, 28, 28, 1)
    conv = ts.Conv((3, 4, 5, 2))
    variables = conv.init(KEY, image)
    weights = variables["params"]
    axes = ("NHWC", "HWIO", "NHWC")
    x = image
    for index, stride in enumerate((4, 1, 2)):
        kernel = weights[f"conv_{index}"]["kernel"]
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=axes
        )
        x = jax.nn.relu((x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5))
    x = x.reshape(6, -1) @ weights["dense"]["kernel"]
    expected = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5)
    features, _ = conv.apply(variables, image, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(features, expected, atol=1e-4)
    assert (features < 0).any()


def test_kernels_are_he_normal():
    params = PatchConv(64, 4, 2).init(KEY, random(1, 8, 8, 32))
    np.testing.assert_allclose(params["params"]["kernel"].std(), (2 / 512) ** 0.5, rtol=0.02)


def test_a_vit_does_not_see_the_patches_that_are_not_kept():
    vit = ts.ViT((8, 8, 5), patch=4)
    image = random(2, 8, 8, 1)
    params = vit.init(KEY, image)
    whole = vit.apply(params, image)
    in_another_order = jnp.tile(jnp.array([[2, 0, 3, 1]]), (2, 1))
    np.testing.assert_allclose(vit.apply(params, image, in_another_order), whole, atol=1e-5)
    keep = jnp.array([[0, 3], [0, 3]])
    seen = vit.apply(params, image, keep)
    changed = image.at[:, :4, 4:].add(5.0)  # patch 1
    assert (vit.apply(params, changed, keep) == seen).all()
    assert not np.allclose(vit.apply(params, changed), whole, atol=1e-2)


def test_a_projector_can_begin_with_a_relu():
    features = random(4, 6)
    params = ts.Projector((5, 3), activate=True).init(KEY, features)
    apply = partial(ts.Projector((5, 3), activate=True).apply, params)
    np.testing.assert_allclose(apply(features), apply(jnp.maximum(features, 0)), atol=1e-6)
    assert not np.allclose(ts.Projector((5, 3)).apply(params, features), apply(features))


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
        jax.eval_shape(encoder.init, KEY, jnp.zeros((2, 8, 8, 1)))
