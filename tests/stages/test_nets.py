"""Initial values and shapes of the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twostage_jax as ts


@pytest.mark.parametrize("torch_init", [True, False])
def test_initial_values_have_the_bounds_and_the_spread_of_their_fan_in(torch_init):
    net = ts.MLP((400, 50), torch_init)
    params = jax.jit(net.init)(jax.random.key(0), jnp.ones((1, 5, 5, 4)))["params"]
    for name, fan_in in (("dense_0", 100), ("dense_1", 400)):
        kernel = np.asarray(params[name]["kernel"])
        bias = np.asarray(params[name]["bias"])
        bound = fan_in**-0.5
        if torch_init:
            for leaf in (kernel, bias):
                assert 0.9 * bound < np.abs(leaf).max() <= bound
        else:
            assert not bias.any()
        # The standard deviation of a uniform draw within ±b is b/√3; LeCun's is b.
        expected = bound / 3**0.5 if torch_init else bound
        np.testing.assert_allclose(kernel.std(), expected, rtol=0.02)


def test_mlp_flattens_images_and_has_no_last_activation():
    image = np.random.RandomState(0).normal(size=(50, 2, 2, 1)).astype(np.float32)
    layer = {"kernel": np.eye(4, 3, dtype=np.float32), "bias": np.zeros(3, np.float32)}
    output = ts.MLP((3,)).apply({"params": {"dense_0": layer}}, image)
    np.testing.assert_allclose(output, image.reshape(50, 4)[:, :3], rtol=1e-6)


def test_a_mirrored_decoder_ends_in_the_image_size():
    assert ts.mirror((256, 128), 784) == (256, 784)
    assert ts.mirror((128,), 784) == (784,)
