"""Objectives compared with their definitions, written out in NumPy or worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twostage_jax as ts
from twostage_jax.stages.dropout import without_dropout
from twostage_jax.stages.pretrain.contrastive import mutual_information, nt_xent
from twostage_jax.stages.pretrain.jepa import sigreg
from twostage_jax.stages.pretrain.masked import patch_mask
from twostage_jax.stages.pretrain.two_views import two_views
from twostage_jax.stages.pretrain.vae import gaussian_divergence
from twostage_jax.stages.pretrain.variance import deviation_hinge, squared_covariances

ENCODER = ts.MLP((5,))
PROJECTOR = ts.MLP((3,))


def key(seed=0):
    # A key of its own for each use: the tests let jax refuse a key that is used twice.
    return jax.random.key(seed)


def normal(*shape, seed=0):
    return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


def same(key, image):
    return image


def brighter(key, image):
    return image + jax.random.normal(key, ())


def evaluate(stage, batch, seed=1):
    """Initial parameters, the loss and the metrics; compiled, which is faster than step by step."""

    @jax.jit
    def run(batch):
        params = stage.init(key(), batch)
        return params, stage.loss(params, key(seed), batch)

    params, (loss, metrics) = run(batch)
    return params, loss, metrics


def test_the_contrastive_loss_equals_its_definition():
    projected = normal(8, 3)
    unit = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    losses = []
    for row in range(8):
        partner = (row + 4) % 8
        scores = np.exp(unit @ unit[row] / 0.5)
        losses.append(-np.log(scores[partner] / (scores.sum() - scores[row])))
    np.testing.assert_allclose(nt_xent(projected, 0.5), np.mean(losses), rtol=1e-5)
    assert float(nt_xent(projected[:2], 0.5)) == pytest.approx(0, abs=1e-6)


def test_mutual_information_is_log_k_for_equal_clusters_and_0_for_independent_ones():
    cluster = np.tile(np.arange(4), 4)
    matched = 50 * np.eye(4)[cluster]
    # The second view's cluster does not depend on the first view's.
    independent = 50 * np.eye(4)[np.repeat(np.arange(4), 4)]
    for second, expected in ((matched, np.log(4)), (independent, 0.0)):
        views = np.concatenate([matched, second])[:, None]
        assert float(mutual_information(views)) == pytest.approx(expected, abs=1e-5)
    # A mean over heads, each of which has a joint distribution of its own.
    both = np.stack([np.concatenate([matched, matched]), np.concatenate([matched, independent])], 1)
    assert float(mutual_information(both)) == pytest.approx(np.log(4) / 2, abs=1e-5)


def test_simclr_iic_is_simclr_minus_the_weighted_information():
    batch = {"image": jnp.asarray(normal(6, 2, 2, 1))}
    stage = ts.simclr_iic(ENCODER, PROJECTOR, same, heads=2, clusters=3, weight=5.0)
    params, loss, metrics = evaluate(stage, batch)
    assert set(params) == {"encoder", "projector", "clusters"}
    contrast = jax.jit(ts.simclr(ENCODER, PROJECTOR, same).loss)(params, key(1), batch)[0]
    np.testing.assert_allclose(loss, contrast - 5 * metrics["information"], rtol=1e-5)
    assert 0 < float(metrics["information"]) < np.log(3)


def test_the_terms_of_vicreg_by_hand():
    # Columns with variances 2 and 8, and covariance 4.
    rows = jnp.array([[1.0, 2.0], [-1.0, -2.0]])
    assert float(squared_covariances(rows)) == pytest.approx(2 * 16 / 2)
    assert float(deviation_hinge(rows)) == 0
    # Standard deviations 0.25 and 0 fall short of 1 by 0.75 and 1.
    narrow = jnp.array([[0.25, 0.0], [-0.25, 0.0]]) / np.sqrt(2)
    assert float(deviation_hinge(narrow)) == pytest.approx(1.75 / 2, abs=6e-3)
    stage = ts.vicreg(ENCODER, PROJECTOR, same, invariance=2.0, variance=3.0, covariance=4.0)
    batch = {"image": jnp.asarray(normal(6, 2, 2, 1))}
    _, loss, terms = evaluate(stage, batch)
    weighted = 2 * terms["invariance"] + 3 * terms["variance"] + 4 * terms["covariance"]
    np.testing.assert_allclose(loss, weighted, rtol=1e-5)
    assert float(terms["invariance"]) == 0  # equal views


def test_sigreg_equals_its_integral_and_tells_gaussian_from_collapsed():
    samples = normal(400, 6)
    gaussian = sigreg(key(), samples, 32)
    assert 0 < float(gaussian) < 2
    others = {
        "collapsed": np.zeros_like(samples),
        "shifted": samples + 1,
        "too wide": 3 * samples,
        "two points": np.sign(samples[:, :1]) * np.ones((1, 6), np.float32),
    }
    for name, values in others.items():
        assert float(sigreg(key(), values, 32)) > 10 * float(gaussian), name
    # One dimension has one direction, up to its sign.
    line = samples[:, :1]
    knots = np.linspace(-3, 3, 1001)
    empirical = np.exp(1j * knots * line).mean(0)
    window = np.exp(-(knots**2) / 2)
    integral = 400 * np.trapezoid(np.abs(empirical - window) ** 2 * window, knots)
    assert float(sigreg(key(), line, 1)) == pytest.approx(integral, rel=0.02)


def test_lejepa_mixes_prediction_and_sigreg():
    batch = {"image": jnp.asarray(normal(6, 2, 2, 1))}
    stage = ts.lejepa(ENCODER, PROJECTOR, brighter, weight=0.25, slices=8)
    _, loss, metrics = evaluate(stage, batch)
    expected = 0.75 * metrics["prediction"] + 0.25 * metrics["sigreg"]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    # Each view has a key of its own, even for one number per batch.
    assert float(metrics["prediction"]) > 0
    first, second = jnp.split(two_views(brighter, key(), jnp.zeros((3, 2, 2, 1))), 2)
    assert first.min() == first.max() != second.max()


def test_the_masked_error_counts_hidden_pixels_only():
    image = jnp.asarray(normal(5, 4, 6, 2))
    mask = patch_mask(key(), image.shape, 2, 0.5)
    patches = np.asarray(mask).reshape(5, 2, 2, 3, 2)
    share = patches.mean((2, 4))
    assert set(np.unique(share)) == {0, 1}  # whole patches
    assert (share.sum((1, 2)) == 3).all()  # half of six, in each image
    assert len({tuple(row) for row in share.reshape(5, 6)}) > 1
    # Sides that are not multiples of the patch, and a share that rounds to no patch.
    assert (patch_mask(key(), (3, 5, 3, 1), 4, 0.01).sum((1, 2)) > 0).all()

    class Zeros(ts.MLP):
        def __call__(self, x):
            return jnp.zeros((len(x), self.widths[-1]))

    stage = ts.masked(ENCODER, Zeros((48,)), patch=2, ratio=0.5)
    _, loss, _ = evaluate(stage, {"image": image})
    mask = np.asarray(patch_mask(jax.random.fold_in(key(1), 2), image.shape, 2, 0.5))
    hidden = np.broadcast_to(mask, image.shape)
    expected = (np.asarray(image)[hidden] ** 2).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_hidden_pixels_do_not_reach_the_encoder():
    image = jnp.asarray(normal(2, 4, 4, 1))
    mask = np.asarray(patch_mask(jax.random.fold_in(key(1), 2), image.shape, 2, 0.75))
    other = jnp.where(mask, 9.0, image)
    decoder = ts.MLP((16,))
    stage = ts.masked(ENCODER, decoder, patch=2)
    params, loss, _ = evaluate(stage, {"image": image})
    # The prediction is the same, so the loss of other hidden pixels follows from that prediction.
    decoded = ts.make_decode(ENCODER, decoder)(params, jnp.where(mask, 0.0, image))
    for target, value in ((image, loss), (other, stage.loss(params, key(1), {"image": other})[0])):
        errors = np.asarray((decoded - target) ** 2)[mask]
        np.testing.assert_allclose(value, errors.mean(), rtol=1e-5)


def test_the_loss_of_a_vae_is_cross_entropy_plus_divergence():
    # Means 1 and 0, variances 1 and e: (1 + 0)/2 + (0 + e - 1 - 1)/2.
    divergence = gaussian_divergence(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]]))
    np.testing.assert_allclose(divergence, [(1 + np.e - 2) / 2], rtol=1e-6)
    batch = {"image": jnp.asarray(np.sign(normal(6, 2, 2, 1)))}
    stage = ts.vae(ENCODER, ts.MLP((4,)), beta=3.0)
    params, loss, metrics = evaluate(stage, batch)
    terms = metrics["reconstruction"] + 3 * metrics["divergence"]
    np.testing.assert_allclose(loss, terms, rtol=1e-6)
    # A decoder that always answers 0 says 1/2 for each pixel: log 2 nats.
    params = {**params, "decoder": jax.tree.map(jnp.zeros_like, params["decoder"])}
    blind = stage.loss(params, key(1), batch)[1]["reconstruction"]
    assert float(blind) == pytest.approx(4 * np.log(2), rel=1e-5)


def test_supervised_augments_in_training_and_counts_labels():
    batch = ts.as_batch(
        {"image": normal(4, 2, 2, 1), "label": [0, 1, 2, 9], "weight": [1] * 3 + [0]}
    )
    plain = ts.supervised(ENCODER, 3)
    params, loss, metrics = evaluate(plain, batch)
    assert set(params) == {"encoder", "classifier"}  # `head` is the group of stage 2
    assert float(metrics["count"]) == 3
    augmented = ts.supervised(ENCODER, 3, lambda key, image: -image)
    assert float(augmented.loss(params, key(1), batch)[0]) != float(loss)
    with without_dropout():
        assert float(augmented.loss(params, key(1), batch)[0]) == float(loss)


NUMBERS = {
    "temperature": (lambda x: ts.simclr(ENCODER, PROJECTOR, same, x), 0, 0.5),
    "weight": (lambda x: ts.simclr_iic(ENCODER, PROJECTOR, same, weight=x), -1, 2.0),
    "invariance": (lambda x: ts.vicreg(ENCODER, PROJECTOR, brighter, x), -1, 25.0),
    "share": (lambda x: ts.lejepa(ENCODER, PROJECTOR, same, x, slices=4), 2, 0.1),
    "ratio": (lambda x: ts.masked(ENCODER, ts.MLP((4,)), 1, x), 0, 0.5),
    "beta": (lambda x: ts.vae(ENCODER, ts.MLP((4,)), x), -1, 1.0),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_can_be_traced_and_is_checked(name):
    make, wrong, right = NUMBERS[name]
    with pytest.raises(ts.UserError, match=f"is {wrong}: give a"):
        make(wrong)
    batch = {"image": jnp.asarray(normal(6, 2, 2, 1))}
    params, loss, _ = evaluate(make(right), batch)
    losses = jax.jit(jax.vmap(lambda x: make(x).loss(params, key(1), batch)[0]))
    swept = losses(jnp.array([right, right / 2]))
    np.testing.assert_allclose(swept[0], loss, rtol=1e-5)
    assert swept[0] != swept[1]


def test_numbers_that_decide_shapes_cannot_be_traced():
    with pytest.raises(ts.UserError, match="heads decides shapes, so it cannot be swept"):
        jax.eval_shape(
            lambda x: ts.simclr_iic(ENCODER, PROJECTOR, same, heads=x).init(
                key(), {"image": jnp.zeros((2, 2, 2, 1))}
            ),
            jnp.int32(2),
        )
    with pytest.raises(ts.UserError, match="clusters is 1: give a whole number of at least 2"):
        ts.simclr_iic(ENCODER, PROJECTOR, same, clusters=1)
    with pytest.raises(ts.UserError, match="patch is 9 for images of 4x4: give at most 4"):
        patch_mask(key(), (2, 4, 4, 1), 9, 0.5)
