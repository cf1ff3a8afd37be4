"""`ts.evaluate`: every example counts once, for any batch size, and it can be vmapped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twostage_jax as ts

RANDOM = np.random.RandomState(1)
SPLIT = {
    "image": RANDOM.normal(size=(31, 1, 1, 3)).astype(np.float32),
    "label": RANDOM.randint(0, 3, 31).astype(np.int32),
}


def scaled_image(params, image):
    """Logits that are the image times one parameter."""
    return image[:, 0, 0, :] * params


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_every_example_counts_once_for_any_batch_size(batch_size):
    result = ts.evaluate(scaled_image, 1.0, SPLIT, batch_size)
    whole = ts.evaluate(scaled_image, 1.0, SPLIT, 31)
    assert result["count"] == 31
    for name in whole:
        np.testing.assert_allclose(result[name], whole[name], rtol=1e-5)


def test_weights_of_a_split_reach_the_scores():
    kept = {name: values[::2] for name, values in SPLIT.items()}
    weight = np.float32(np.arange(31) % 2 == 0)
    weighted = ts.evaluate(scaled_image, 1.0, SPLIT | {"weight": weight}, 7)
    for name, value in ts.evaluate(scaled_image, 1.0, kept).items():
        np.testing.assert_allclose(weighted[name], value, rtol=1e-5)


def test_evaluate_can_be_vmapped_over_parameters():
    split = {"image": np.eye(3, dtype=np.float32)[:, None, None], "label": np.arange(3)}
    result = jax.vmap(lambda params: ts.evaluate(scaled_image, params, split))(jnp.array([1.0, -1]))
    np.testing.assert_allclose(result["accuracy"], [1, 0])
