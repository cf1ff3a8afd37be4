"""Objectives, heads and augmentations that a config can name."""

from collections.abc import Callable

from twostage_jax.stages.heads.neighbours import knn
from twostage_jax.stages.heads.solved import linear, ridge
from twostage_jax.stages.heads.trained import mlp
from twostage_jax.stages.pretrain.placeholder import placeholder
from twostage_jax.stages.pretrain.reconstruction import autoencoder, denoising
from twostage_jax.stages.stage import Head, Stage
from twostage_jax.stages.views.settings import HANDWRITING, OBJECTS, PHOTOGRAPHS, Views

# `config` lists the same names, because parsing a command line must not import jax.
OBJECTIVES: dict[str, Callable[..., Stage]] = {
    "autoencoder": autoencoder,
    "placeholder": placeholder,
    "denoising": denoising,
}
HEADS: dict[str, Callable[..., Head]] = {
    "mlp": mlp,
    "linear": linear,
    "ridge": ridge,
    "knn": knn,
}
AUGMENTATIONS: dict[str, Views] = {
    "none": Views(),
    "handwriting": HANDWRITING,
    "objects": OBJECTS,
    "photographs": PHOTOGRAPHS,
}
