"""Solved heads compared with their definitions in float64."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import Ridge

import twostage_jax as ts
from twostage_jax.stages.families import HEADS
from twostage_jax.stages.heads.neighbours import _vote
from twostage_jax.stages.signature import call, check_head, numbers

KEY = jax.random.key(0)


def make_batch(examples=60, features=5, seed=0, validation=20, spread=1.0):
    """Three classes that overlap if the spread is 1; a third of the examples has weight 0."""
    random = np.random.RandomState(seed)
    label = random.randint(0, 3, examples + validation)
    centre = random.normal(size=(3, features))
    image = centre[label] + spread * random.normal(size=(len(label), features)) + 2
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


@cache
def solver(name):
    """One program for four members of a head, each with its own number and data."""

    def solve(value, batch):
        number = next(iter(numbers(HEADS[name])))
        head = check_head(call(HEADS[name], {"classes": 3}, {number: value}), name)
        params = head.solve(KEY, batch)
        return params, head.logits(params, batch["validation_image"])

    return jax.jit(jax.vmap(solve))


def with_graph(batch, head):
    """The batch of a head that also sees the images without a label, or those of any other."""
    features = np.asarray(batch["image"])
    prepared = head.prepare(features) if head.prepare else {}
    return batch | {
        "features": batch["image"],
        "index": jnp.arange(len(features)),
        "prepared": jax.tree.map(jnp.asarray, prepared),
    }


def stacked(batches):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)


@pytest.mark.parametrize("name", [name for name in HEADS if HEADS[name](3).solve])
def test_every_solved_head_classifies_easy_features_for_swept_numbers_and_data(name):
    head = HEADS[name](3)
    batches = stacked([with_graph(make_batch(seed=s, spread=0.1), head) for s in range(4)])
    default = next(iter(numbers(HEADS[name]).values()))
    params, logits = solver(name)(default * jnp.array([0.5, 1.0, 1.0, 0.5]), batches)
    assert logits.shape == (4, 20, 3) and np.isfinite(logits).all()
    assert (logits.argmax(-1) == batches["validation_label"]).all()


def test_linear_reaches_the_optimum_of_scipy_in_one_program_of_four_members():
    batch = make_batch()
    scaled = batch | {"image": batch["image"] * jnp.array([[1e-3, 1.0, 20.0, 0.0, 1.0]])}
    nothing = batch | {"weight": jnp.zeros(60)}
    members = [(1.0, batch), (1e-2, make_batch(seed=1)), (1e-2, scaled), (1e-3, nothing)]
    penalty = jnp.array([penalty for penalty, _ in members])
    params, _ = solver("linear")(penalty, stacked([batch for _, batch in members]))
    vectors = [as_vector(jax.tree.map(lambda leaf, m=m: leaf[m], params)) for m in range(4)]
    for member in range(2):
        optimum, objective = logistic_optimum(*members[member][::-1])
        assert abs(objective(vectors[member])[0] - optimum.fun) < 1e-6
        np.testing.assert_allclose(vectors[member], optimum.x, atol=1e-5)
    # With features of very different scales only the objective is that exact.
    optimum, objective = logistic_optimum(scaled, 1e-2)
    assert abs(objective(vectors[2])[0] - optimum.fun) < 1e-5
    assert not np.any(vectors[3])  # no example counts


@pytest.mark.parametrize("features", [5, 90])  # fewer features than examples, and more
def test_ridge_equals_scikit_learn_and_chooses_the_best_strength(features):
    batch = make_batch(features=features)
    image, label = counting(batch)
    targets = np.eye(3)[label]
    unit = len(image) * image.var(0).mean()
    validation = np.asarray(batch["validation_image"], np.float64)
    validation_targets = np.eye(3)[batch["validation_label"]]
    strengths = 10.0 ** np.arange(-6, 7)
    solve = jax.jit(jax.vmap(lambda strength: ts.ridge(3, strength).solve(KEY, batch)))
    params = solve(jnp.array([0.0, *strengths]))  # 0 chooses
    scores = []
    for member, strength in enumerate(strengths, 1):
        model = Ridge(strength * unit).fit(image, targets)
        output = model.predict(validation)
        correct = (output.argmax(1) == validation_targets.argmax(1)).sum()
        scores.append((-correct, ((output - validation_targets) ** 2).sum(), strength))
        if 1e-2 <= strength <= 1e2:
            np.testing.assert_allclose(params["kernel"][member], model.coef_.T, atol=2e-5)
            np.testing.assert_allclose(params["bias"][member], model.intercept_, atol=2e-4)
            np.testing.assert_allclose(params["scale"][member], 60 / scores[-1][1], rtol=1e-3)
    np.testing.assert_allclose(params["strength"], [min(scores)[2], *strengths], rtol=1e-6)


def test_ridge_without_validation_needs_a_strength():
    batch = make_batch(validation=0)
    with pytest.raises(ts.UserError, match="validation.*--head.set strength=1"):
        jax.eval_shape(ts.ridge(3).solve, KEY, batch)
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


def test_knn_equals_brute_force_in_blocks_of_any_size_and_with_a_swept_k():
    batch = make_batch()
    queries = batch["validation_image"]
    params = jax.jit(ts.knn(3, 5).solve)(KEY, batch)
    for block in (7, 1024):
        logits = jax.jit(partial(_vote, 3, block=block))(params, queries)
        np.testing.assert_allclose(jnp.exp(logits), brute_force(batch, queries, 5), atol=1e-5)

    def swept(k):
        head = ts.knn(3, k)
        return head.logits(head.solve(KEY, batch), queries)

    ks = [1, 5, 60]
    expected = [brute_force(batch, queries, k) for k in ks]
    logits = jax.jit(jax.vmap(swept))(jnp.array(ks))
    np.testing.assert_allclose(jnp.exp(logits), expected, atol=1e-5)


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
