"""Figures of an encoder, which are those of the heads and statistics of their names."""

import jax
import jax.numpy as jnp
import numpy as np

import twostage_jax as ts
from tests.engine import tiny
from twostage_jax.engine import watch
from twostage_jax.scores.spectrum import effective_rank
from twostage_jax.stages.stage import as_image, new_key

SPLIT = tiny.make_split(70)
HELD_OUT = tiny.make_split(37)
DATA = {**SPLIT, **{f"validation_{name}": values for name, values in HELD_OUT.items()}}


def encode(params, image):
    return image.reshape(len(image), -1) @ params


PARAMS = jax.random.normal(new_key(), (16, 5))


def accuracy(head):
    """Accuracy of a solved head, computed without the code under test."""
    batch = {"image": encode(PARAMS, as_image(SPLIT["image"])), "label": SPLIT["label"]}
    batch |= {"weight": jnp.ones(len(SPLIT["label"]))}
    batch |= {"validation_image": encode(PARAMS, as_image(HELD_OUT["image"]))}
    batch |= {"validation_label": jnp.asarray(HELD_OUT["label"])}
    params = jax.jit(head.solve)(new_key(), batch)
    predicted = head.logits(params, batch["validation_image"]).argmax(-1)
    return float((np.asarray(predicted) == HELD_OUT["label"]).mean())


def test_figures_are_those_of_ridge_knn_and_the_effective_rank(monkeypatch):
    """Blocks that do not divide the images change nothing."""
    monkeypatch.setattr(watch, "_BLOCK", 32)
    figures = jax.jit(watch.make_watch(encode, 3))(PARAMS, DATA)
    assert figures.keys() == set(watch.FIGURES)
    np.testing.assert_allclose(figures["probe"], accuracy(ts.ridge(3)), rtol=1e-6)
    np.testing.assert_allclose(figures["knn"], accuracy(ts.knn(3, k=20)), rtol=1e-6)
    held_out = encode(PARAMS, as_image(HELD_OUT["image"]))
    np.testing.assert_allclose(figures["rank"], effective_rank(held_out), rtol=1e-4)


def test_without_validation_examples_only_labels_are_missing():
    figures = jax.jit(watch.make_watch(encode, 3))(PARAMS, {"image": SPLIT["image"]})
    assert figures.keys() == {"rank", "spread"}


def test_features_that_are_not_finite_have_no_accuracy():
    """Without a check, NaN would count as class 0, which is a third of the labels."""
    figures = jax.jit(watch.make_watch(encode, 3))(jnp.full_like(PARAMS, jnp.nan), DATA)
    assert np.isnan(list(figures.values())).all()
