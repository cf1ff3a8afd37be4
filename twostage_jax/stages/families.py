"""Objectives, encoders, heads and augmentations that a config can name."""

from collections.abc import Callable

from flax import linen as nn

from twostage_jax.stages.heads.neighbours import knn
from twostage_jax.stages.heads.propagation import propagate
from twostage_jax.stages.heads.prototypes import prototype
from twostage_jax.stages.heads.reliable import knn_reliable
from twostage_jax.stages.heads.solved import linear, ridge
from twostage_jax.stages.heads.trained import finetune, mlp
from twostage_jax.stages.nets.conv import Conv
from twostage_jax.stages.nets.mlp import MLP
from twostage_jax.stages.nets.resnet import ResNet
from twostage_jax.stages.nets.vit import ViT
from twostage_jax.stages.pretrain.contrastive import simclr, simclr_iic
from twostage_jax.stages.pretrain.jepa import lejepa
from twostage_jax.stages.pretrain.masked import masked
from twostage_jax.stages.pretrain.placeholder import placeholder
from twostage_jax.stages.pretrain.reconstruction import autoencoder, denoising
from twostage_jax.stages.pretrain.supervised import supervised
from twostage_jax.stages.pretrain.vae import vae
from twostage_jax.stages.pretrain.variance import vicreg
from twostage_jax.stages.stage import Head, Stage
from twostage_jax.stages.views.settings import HANDWRITING, OBJECTS, PHOTOGRAPHS, Views

# `config` lists the same names, because parsing a command line must not import jax.
OBJECTIVES: dict[str, Callable[..., Stage]] = {
    "autoencoder": autoencoder,
    "placeholder": placeholder,
    "denoising": denoising,
    "masked": masked,
    "vae": vae,
    "simclr": simclr,
    "simclr-iic": simclr_iic,
    "vicreg": vicreg,
    "lejepa": lejepa,
    "supervised": supervised,
}
# Each gets those of `widths`, `norm`, `patch` and `torch_init` that its signature names.
ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "conv": Conv,
    "resnet": ResNet,
    "vit": ViT,
}
HEADS: dict[str, Callable[..., Head]] = {
    "mlp": mlp,
    "finetune": finetune,
    "linear": linear,
    "ridge": ridge,
    "knn": knn,
    "knn-reliable": knn_reliable,
    "prototype": prototype,
    "propagate": propagate,
}
AUGMENTATIONS: dict[str, Views] = {
    "none": Views(),
    "handwriting": HANDWRITING,
    "objects": OBJECTS,
    "photographs": PHOTOGRAPHS,
}
