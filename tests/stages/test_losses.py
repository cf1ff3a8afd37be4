"""Losses for wrong labels, and the optimisers that heads adapt."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import twostage_jax as ts
from twostage_jax.stages.freezing import by_group, only_matching
from twostage_jax.stages.heads.losses import (
    MEMORY,
    TRANSITION,
    cross_entropy,
    early_learning,
    forward_correction,
    generalised_cross_entropy,
    transition_matrix,
)

RANDOM = np.random.RandomState(0)
LOGITS = jnp.asarray(RANDOM.normal(size=(4, 3)), jnp.float32)
BATCH = {"label": jnp.array([0, 2, 1, 1]), "weight": jnp.ones(4)}
PROBABILITY = np.asarray(jax.nn.softmax(LOGITS), np.float64)[range(4), BATCH["label"]]
NOISE = [[0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.0, 0.5, 0.5]]


def losses_of(loss, arrays=None, batch=BATCH, key=None):
    return loss.value(arrays or {}, LOGITS, batch, key)[0]


def test_generalised_cross_entropy_is_between_cross_entropy_and_absolute_error():
    np.testing.assert_allclose(
        losses_of(generalised_cross_entropy(0.7)), (1 - PROBABILITY**0.7) / 0.7, rtol=1e-5
    )
    np.testing.assert_allclose(
        losses_of(generalised_cross_entropy(1.0)), 1 - PROBABILITY, rtol=1e-5
    )
    np.testing.assert_allclose(
        losses_of(generalised_cross_entropy(1e-4)), losses_of(cross_entropy()), rtol=1e-3
    )


def test_forward_correction_predicts_the_label_through_the_noise():
    np.testing.assert_allclose(
        losses_of(forward_correction(np.eye(3, dtype=np.float32))), -np.log(PROBABILITY), rtol=1e-5
    )
    given = np.asarray(jax.nn.softmax(LOGITS), np.float64) @ np.array(NOISE)
    expected = -np.log(given[range(4), BATCH["label"]])
    loss = forward_correction(np.float32(NOISE))
    np.testing.assert_allclose(losses_of(loss), expected, rtol=1e-5)
    assert loss.arrays(3) == {}
    start = transition_matrix(forward_correction().arrays(3)[TRANSITION])
    np.testing.assert_allclose(start.sum(-1), 1, rtol=1e-6)
    assert (start.argmax(-1) == np.arange(3)).all() and start[0, 1] > 0.05


def test_the_matrix_is_estimated_from_the_noisy_labels_of_separable_classes():
    label = np.repeat(np.arange(3), 300)
    noisy = np.array([RANDOM.choice(3, p=NOISE[x]) for x in label], np.int32)
    # A few examples at the border between classes make the head unsure, as in real data.
    image = 4 * np.eye(3)[label] + RANDOM.normal(size=(900, 3))
    split = {"image": image.astype(np.float32), "label": noisy}
    stage = ts.attach(ts.Identity(), ts.mlp(3, widths=(), loss="forward"))
    assert stage.optimiser is not None
    tx = stage.optimiser(ts.adam(1e-2))
    state = ts.init_state(stage, tx, jax.random.key(0), split)
    train = jax.jit(ts.make_train(stage, tx, 50, 30))
    head = train(state, split, jax.random.key(1))[0].params["head"]
    estimate = transition_matrix(head["params"][TRANSITION])
    np.testing.assert_allclose(estimate, NOISE, atol=0.12)


def test_the_memory_of_early_learning_is_the_average_of_earlier_predictions():
    head = ts.mlp(3, widths=(), loss="elr", examples=6, elr_momentum=0.75)
    stage = ts.attach(ts.Identity(), head)
    assert stage.optimiser is not None
    tx = ts.freeze(stage.optimiser(ts.adam(1e-2)), "encoder")
    image = RANDOM.normal(size=(6, 5)).astype(np.float32)
    split = {"image": image, "label": np.arange(6) % 3, "index": np.arange(6)}
    state = ts.init_state(stage, tx, jax.random.key(0), split)
    train = jax.jit(ts.make_train(stage, tx, 6, 1))
    expected = np.zeros((6, 3))
    for _ in range(3):
        logits = head.logits(state.params["head"], jnp.asarray(image))
        expected = 0.75 * expected + 0.25 * np.asarray(jax.nn.softmax(logits))
        state, metrics = train(state, split, jax.random.key(1))
        memory = state.params["head"]["params"][MEMORY]
        np.testing.assert_allclose(memory, expected, atol=1e-5)
    # The last loss: the memory's own term has the value 0.
    probability = np.asarray(jax.nn.softmax(logits), np.float64)
    agreement = np.log(1 - (expected * probability).sum(-1))
    losses = -np.log(probability[range(6), split["label"]]) + 3 * agreement
    assert float(metrics["loss"][0]) == pytest.approx(losses.mean(), rel=1e-4)


def test_early_learning_without_a_memory_is_the_cross_entropy_and_training_needs_an_index():
    loss = early_learning(6)
    np.testing.assert_allclose(losses_of(loss), losses_of(cross_entropy()), rtol=1e-6)
    with pytest.raises(ts.UserError, match=r"needs index int32 \[N\] in its data"):
        losses_of(loss, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mae"}, "unknown loss 'mae'"),
        ({"loss": "gce", "q": 0.0}, r"q is 0.0: give a number above 0, at most 1"),
        ({"loss": "gce", "q": 1.5}, r"q is 1.5: give a number above 0"),
        ({"loss": "elr"}, "give examples, the number"),
        ({"loss": "elr", "examples": 5, "elr_momentum": 1.0}, r"elr_momentum is 1.0: .* \[0, 1\)"),
        ({"loss": "elr", "examples": 5, "elr_weight": -1.0}, r"elr_weight is -1.0"),
        ({"loss": "gce", "label_smoothing": 0.1}, "label_smoothing goes with cross-entropy"),
        ({"loss": "gce", "transition": NOISE}, "transition goes with the loss forward"),
        ({"loss": "forward", "transition": [[1.0]]}, r"is \[1, 1\] for 3 classes: give \[3, 3\]"),
        (
            {"loss": "forward", "transition": np.diag([1, 1, 0.5])},
            r"row 2 of the transition matrix sums to 0.5",
        ),
        (
            {"loss": "forward", "transition": [[2, -1, 0], [0, 1, 0], [0, 0, 1]]},
            r"entries outside \[0, 1\]",
        ),
    ],
)
def test_arguments_of_losses_are_checked(options, message):
    with pytest.raises(ts.UserError, match=message):
        ts.mlp(3, **options)


PARAMS = {
    "encoder": {
        "params": {"dense_0": {"w": jnp.array([1.0, -0.0])}, "dense_1": {"w": jnp.ones(1)}}
    },
    "head": {"w": jnp.ones(1)},
}


def updated(tx):
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = tx.update(ones, tx.init(PARAMS), PARAMS)
    return optax.apply_updates(PARAMS, updates)


def test_finetune_trains_the_encoder_at_a_rate_of_its_own():
    for options, rate in (
        ({}, 0.1),
        ({"learning_rate": 1.0, "encoder_learning_rate": 0.25}, 0.25),
    ):
        stage = ts.attach(ts.MLP((2,)), ts.finetune(3, **options))
        assert stage.optimiser is not None
        after = updated(stage.optimiser(optax.sgd(1.0)))
        change = after["encoder"]["params"]["dense_1"]["w"] - 1
        np.testing.assert_allclose(change, -rate, rtol=1e-6)
        np.testing.assert_allclose(after["head"]["w"], 0.0)
    with pytest.raises(ts.UserError, match="relative to learning_rate: give both"):
        ts.finetune(3, encoder_learning_rate=0.1)


def test_a_pattern_selects_the_parameters_that_train_and_leaves_the_bits_of_the_others():
    tx = by_group(
        {"encoder": only_matching(optax.sgd(1.0), "*/dense_1/*", "encoder"), "head": optax.sgd(1.0)}
    )
    after = updated(tx)
    kept = after["encoder"]["params"]["dense_0"]["w"]
    assert np.signbit(np.asarray(kept)).tolist() == [False, True]  # -0.0 is still -0.0
    assert kept.tolist() == [1.0, 0.0]
    assert after["encoder"]["params"]["dense_1"]["w"].tolist() == [0.0]
    paths = "encoder/params/dense_0/w, encoder/params/dense_1/w"
    with pytest.raises(ts.UserError, match=f"--head.unfreeze 'dense_1' matches no .*{paths}"):
        only_matching(optax.sgd(1.0), "dense_1", "encoder").init(PARAMS["encoder"])
