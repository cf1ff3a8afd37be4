"""A network applied to many images: padding and batches do not change the results."""

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests.engine.tiny import ENCODER, SPLIT, make_split
from twostage_jax.engine.compile import compile_all
from twostage_jax.engine.passes import Pass, apply_pass, choose_encoding, lower_pass
from twostage_jax.engine.placement import Placement, make_mesh
from twostage_jax.trees import PyTree, shapes_of


@pytest.fixture(scope="module")
def params() -> PyTree:
    """Encoders of three members."""
    keys = jax.random.split(jax.random.key(0), 3)
    image = ts.as_image(SPLIT["image"][:1])
    return jax.device_get(jax.vmap(lambda key: ENCODER.init(key, image))(keys))


def make_pass(params: PyTree, chunk: int, largest: int) -> Pass:
    single = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes_of(params))
    placement = Placement(make_mesh(3), 3, chunk)
    return compile_all(lower_pass(ENCODER.apply, single, (4, 4, 1), largest, placement, 0))


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_pass_over_any_number_of_images_equals_the_network(chunk, params):
    """Seventy images are two full batches of 32 and a padded one."""
    compiled = make_pass(params, chunk, 32)
    assert compiled.batch_size == 32
    whole = apply_pass(compiled, params, SPLIT["image"])
    assert whole.shape == (3, 70, 5)
    expected = jax.vmap(ENCODER.apply, (0, None))(params, ts.as_image(SPLIT["image"]))
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    for count in (0, 1, 31, 32, 33, 64):
        some = apply_pass(compiled, params, SPLIT["image"][:count])
        assert ts.digest(some) == ts.digest(whole[:, :count])


def test_a_pass_takes_no_more_images_than_the_largest_split(params):
    assert make_pass(params, 3, 5).batch_size == 5
    assert make_pass(params, 3, 0).batch_size == 1


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 2500])
def test_every_image_is_encoded_once_in_its_place(count):
    images = make_split(count, (2, 2, 1))["image"]
    features = ts.encode(lambda scale, image: scale * image.reshape(-1, 4), 2.0, images)
    np.testing.assert_allclose(features, 2 * ts.as_image(images).reshape(-1, 4), rtol=1e-6)


def test_the_reconstruction_error_is_a_mean_over_pixels():
    expected = ((np.asarray(ts.as_image(SPLIT["image"])) / 2) ** 2).mean()
    for batch_size in (7, 32, 1000):
        error = ts.reconstruction(lambda _, image: image * 0.5, {}, SPLIT, batch_size)
        np.testing.assert_allclose(error, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("requested", "free", "once", "words"),
    [
        ("auto", 3_000_000, True, "once before stage 2 (1.0 MB of features cached)"),
        ("auto", 1_900_000, False, "1.0 MB of features exceed half of the 1.9 MB free"),
        ("auto", None, True, "once before stage 2"),
        ("once", 1, True, "as requested (1.0 MB of features)"),
        ("loop", 3_000_000, False, "in every step of stage 2, as requested"),
    ],
)
def test_features_are_cached_if_they_fit_into_half_of_the_memory(requested, free, once, words):
    chosen, reason = choose_encoding(requested, 1_000_000, lambda: free)
    assert chosen is once
    assert words in reason
