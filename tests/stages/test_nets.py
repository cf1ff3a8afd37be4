"""Initial values and shapes of the networks."""

import jax
import jax.numpy as jnp
import numpy as np

import twostage_jax as ts


def test_torch_init_is_uniform_within_one_over_root_fan_in():
    params = ts.MLP((400, 50), torch_init=True).init(jax.random.key(0), jnp.ones((1, 5, 5, 4)))
    for name, fan_in in (("dense_0", 100), ("dense_1", 400)):
        layer = params["params"][name]
        bound = fan_in**-0.5
        for leaf in (layer["kernel"], layer["bias"]):
            assert np.abs(leaf).max() <= bound
            assert np.abs(leaf).max() > 0.9 * bound
        # The standard deviation of a uniform draw within ±b is b/√3.
        np.testing.assert_allclose(layer["kernel"].std(), bound / 3**0.5, rtol=0.02)


def test_default_init_is_lecun_normal_with_zero_biases():
    params = ts.MLP((400,)).init(jax.random.key(0), jnp.ones((1, 100)))["params"]["dense_0"]
    assert not np.any(params["bias"])
    np.testing.assert_allclose(params["kernel"].std(), 100**-0.5, rtol=0.02)


def test_mlp_flattens_images_and_has_no_last_activation():
    net = ts.MLP((7, 3))
    image = jax.random.normal(jax.random.key(1), (50, 4, 4, 2))
    params = net.init(jax.random.key(0), image)
    out = net.apply(params, image)
    np.testing.assert_array_equal(out, net.apply(params, image.reshape(50, -1)))
    assert out.shape == (50, 3)
    assert (np.asarray(out) < 0).any()


def test_a_mirrored_decoder_ends_in_the_image_size():
    assert ts.mirror((256, 128), 784) == (256, 784)
    assert ts.mirror((128,), 784) == (784,)
