"""Solved heads compared with their definitions in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import Ridge

import twostage_jax as ts
from twostage_jax.stages.heads.neighbours import _vote

KEY = jax.random.key(0)


def make_batch(examples=60, features=5, seed=0, validation=20):
    """Three overlapping classes, with a third of the examples of weight 0."""
    random = np.random.RandomState(seed)
    label = random.randint(0, 3, examples + validation)
    centre = random.normal(size=(3, features))
    image = centre[label] + random.normal(size=(len(label), features)) + 2
    return {
        "image": jnp.asarray(image[:examples], jnp.float32),
        "label": jnp.asarray(label[:examples]),
        "weight": jnp.asarray(np.arange(examples) % 3 > 0, jnp.float32),
        "validation_image": jnp.asarray(image[examples:], jnp.float32),
        "validation_label": jnp.asarray(label[examples:]),
    }


def counting(batch):
    """Features in float64 and labels of the examples that count."""
    rows = np.asarray(batch["weight"]) > 0
    return np.asarray(batch["image"], np.float64)[rows], np.asarray(batch["label"])[rows]


def logistic_optimum(batch, penalty):
    """Value, kernel and bias at the minimum, and the objective."""
    image, label = counting(batch)
    size = image.shape[1] * 3

    def objective(vector):
        kernel = vector[:size].reshape(-1, 3)
        logits = image @ kernel + vector[size:]
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(label)), label]
        probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        residual = (probability - np.eye(3)[label]) / len(label)
        slope = image.T @ residual + penalty * kernel
        gradient = np.concatenate([slope.ravel(), residual.sum(0)])
        return losses.mean() + penalty / 2 * (kernel**2).sum(), gradient

    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 5000}
    start = np.zeros(size + 3)
    optimum = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return optimum, objective


def as_vector(params):
    return np.concatenate([np.ravel(params["kernel"]), params["bias"]]).astype(np.float64)


@jax.jit
def solve_linear(penalty, batch):
    return ts.linear(3, penalty).solve(KEY, batch)


@pytest.mark.parametrize("penalty", [1.0, 1e-2])
def test_linear_reaches_the_optimum_of_scipy(penalty):
    batch = make_batch()
    optimum, objective = logistic_optimum(batch, penalty)
    vector = as_vector(solve_linear(penalty, batch))
    assert abs(objective(vector)[0] - optimum.fun) < 1e-6
    np.testing.assert_allclose(vector, optimum.x, atol=1e-5)


def test_linear_reaches_the_optimum_with_features_of_very_different_scales():
    batch = make_batch()
    batch["image"] = batch["image"] * jnp.array([[1e-3, 1.0, 20.0, 0.0, 1.0]])
    optimum, objective = logistic_optimum(batch, 1e-2)
    assert abs(objective(as_vector(solve_linear(1e-2, batch)))[0] - optimum.fun) < 1e-5


def test_a_linear_head_without_counting_examples_is_zero():
    batch = make_batch() | {"weight": jnp.zeros(60)}
    params = solve_linear(1e-3, batch)
    assert not np.any(params["kernel"]) and not np.any(params["bias"])


@pytest.mark.parametrize("features", [5, 90])  # fewer features than examples, and more
def test_ridge_equals_scikit_learn_and_chooses_the_best_strength(features):
    batch = make_batch(features=features)
    image, label = counting(batch)
    targets = np.eye(3)[label]
    unit = len(image) * image.var(0).mean()
    validation = np.asarray(batch["validation_image"], np.float64)
    validation_targets = np.eye(3)[batch["validation_label"]]
    solve = jax.jit(lambda strength: ts.ridge(3, strength).solve(KEY, batch))
    scores = []
    for strength in 10.0 ** np.arange(-6, 7):
        model = Ridge(strength * unit).fit(image, targets)
        output = model.predict(validation)
        correct = (output.argmax(1) == validation_targets.argmax(1)).sum()
        scores.append((-correct, ((output - validation_targets) ** 2).sum(), strength))
        if 1e-2 <= strength <= 1e2:
            params = solve(strength)
            np.testing.assert_allclose(params["kernel"], model.coef_.T, atol=2e-5)
            np.testing.assert_allclose(params["bias"], model.intercept_, atol=2e-4)
            np.testing.assert_allclose(params["scale"], 60 / scores[-1][1], rtol=1e-3)
    expected = min(scores)[2]
    assert jax.jit(ts.ridge(3).solve)(KEY, batch)["strength"] == pytest.approx(expected)
    assert solve(0.0)["strength"] == pytest.approx(expected)
    assert solve(3.0)["strength"] == 3


def test_ridge_without_validation_needs_a_strength():
    batch = make_batch(validation=0)
    with pytest.raises(ts.UserError, match="validation.*--head.set strength=1"):
        jax.jit(ts.ridge(3).solve)(KEY, batch)
    assert np.isfinite(jax.jit(ts.ridge(3, 1.0).solve)(KEY, batch)["scale"])


def brute_force(batch, queries, k, temperature=0.07):
    """Share of votes `[B, K]` with one more neighbour who votes for all classes equally."""
    image, label = counting(batch)
    bank = image / np.linalg.norm(image, axis=1, keepdims=True)
    queries = np.asarray(queries, np.float64)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    similarity = queries @ bank.T
    shares = []
    for row in similarity:
        nearest = np.argsort(-row)[:k]
        votes = np.exp((row[nearest] - row.max()) / temperature)
        shares.append(np.bincount(label[nearest], votes, 3) / votes.sum())
    # `k` is the number of ranks asked for, also if fewer examples count.
    return (np.stack(shares) * k + 1 / 3) / (k + 1)


@pytest.mark.parametrize("k", [1, 5, 60])
def test_knn_equals_brute_force_in_blocks_of_any_size_and_with_a_traced_k(k):
    batch = make_batch()
    queries = batch["validation_image"]
    expected = brute_force(batch, queries, k)
    params = jax.jit(ts.knn(3, k).solve)(KEY, batch)
    for block in (7, 1024):
        logits = jax.jit(partial(_vote, 3, block=block))(params, queries)
        np.testing.assert_allclose(jnp.exp(logits), expected, atol=1e-5)

    @jax.jit
    def swept(k):
        head = ts.knn(3, k)
        return head.logits(head.solve(KEY, batch), queries)

    np.testing.assert_allclose(swept(k), logits, atol=1e-6)


def test_knn_is_finite_without_counting_examples_and_for_features_of_zeros():
    batch = make_batch() | {"weight": jnp.zeros(60)}
    head = ts.knn(3)
    logits = jax.jit(head.logits)(head.solve(KEY, batch), jnp.zeros((2, 5)))
    np.testing.assert_allclose(jnp.exp(logits), np.full((2, 3), 1 / 3 / 21), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ts.linear(3, -1.0), "penalty is -1.0"),
        (lambda: ts.ridge(3, float("nan")), "strength is nan"),
        (lambda: ts.knn(3, 0), "k is 0"),
        (lambda: ts.knn(3, temperature=0.0), "temperature is 0.0"),
        (lambda: ts.knn(3, 61).solve(KEY, make_batch()), "k is 61 for 60 examples"),
        (lambda: ts.mlp(3, label_smoothing=1.0), "label_smoothing is 1.0"),
        (lambda: ts.denoising(ts.MLP((3,)), ts.MLP((4,)), noise=-1.0), "noise is -1.0"),
    ],
)
def test_numbers_out_of_range_are_rejected(make, message):
    with pytest.raises(ts.UserError, match=message):
        make()
