"""Two-stage training in JAX: pretrain an encoder without labels, freeze it, train a head on it.

Names are imported when they are first used, so `import twostage_jax` costs nothing and the command
line answers before jax is loaded. Reading order: `stages/stage`, `stages/pretrain`, `engine/epoch`,
`engine/train`, `stages/heads`, `runs/run`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twostage_jax.config.groups import HeadConfig, PretrainConfig
    from twostage_jax.config.schema import Config
    from twostage_jax.data.dataset import Dataset
    from twostage_jax.data.labels import with_labels
    from twostage_jax.data.sources import load
    from twostage_jax.engine.compile import compiler_options, keep_compiled
    from twostage_jax.engine.passes import encode, evaluate, reconstruction
    from twostage_jax.engine.state import TrainState, init_state
    from twostage_jax.engine.train import make_train
    from twostage_jax.engine.vmap import ensemble
    from twostage_jax.errors import UserError
    from twostage_jax.runs.deploy.export import export
    from twostage_jax.runs.model import Model, load_model
    from twostage_jax.runs.open import open_run
    from twostage_jax.runs.opened import Run
    from twostage_jax.runs.result import Result
    from twostage_jax.runs.run import run
    from twostage_jax.runs.study.agreement import find_suspects
    from twostage_jax.runs.study.api import StudyResult, study_labels
    from twostage_jax.runs.study.noise_api import study_noise
    from twostage_jax.runs.study.selection import choose_next
    from twostage_jax.stages.freezing import freeze
    from twostage_jax.stages.heads.neighbours import knn
    from twostage_jax.stages.heads.propagation import propagate
    from twostage_jax.stages.heads.prototypes import prototype
    from twostage_jax.stages.heads.reliable import knn_reliable
    from twostage_jax.stages.heads.solved import linear, ridge
    from twostage_jax.stages.heads.trained import attach, classifier, finetune, make_logits, mlp
    from twostage_jax.stages.modules import forward, init_on_features, make_finish, module_init
    from twostage_jax.stages.nets.conv import Conv
    from twostage_jax.stages.nets.mlp import MLP, Identity, mirror
    from twostage_jax.stages.nets.projector import Projector
    from twostage_jax.stages.nets.resnet import ResNet
    from twostage_jax.stages.nets.vit import ViT
    from twostage_jax.stages.optimiser import adam
    from twostage_jax.stages.pretrain.contrastive import simclr, simclr_iic
    from twostage_jax.stages.pretrain.jepa import lejepa
    from twostage_jax.stages.pretrain.masked import masked
    from twostage_jax.stages.pretrain.placeholder import placeholder
    from twostage_jax.stages.pretrain.reconstruction import autoencoder, denoising, make_decode
    from twostage_jax.stages.pretrain.supervised import supervised
    from twostage_jax.stages.pretrain.vae import vae
    from twostage_jax.stages.pretrain.variance import vicreg
    from twostage_jax.stages.stage import Head, Stage, as_batch, as_image
    from twostage_jax.stages.torch_names import from_torch_state_dict, torch_state_dict
    from twostage_jax.stages.views.augment import augmentation
    from twostage_jax.stages.views.settings import Views
    from twostage_jax.trees import digest

__version__ = "0.4.0"

_HOME = {
    "config.groups": ("HeadConfig", "PretrainConfig"),
    "config.schema": ("Config",),
    "data.dataset": ("Dataset",),
    "data.labels": ("with_labels",),
    "data.sources": ("load",),
    "engine.compile": ("compiler_options", "keep_compiled"),
    "engine.passes": ("encode", "evaluate", "reconstruction"),
    "engine.state": ("TrainState", "init_state"),
    "engine.train": ("make_train",),
    "engine.vmap": ("ensemble",),
    "errors": ("UserError",),
    "runs.deploy.export": ("export",),
    "runs.model": ("Model", "load_model"),
    "runs.open": ("open_run",),
    "runs.opened": ("Run",),
    "runs.result": ("Result",),
    "runs.run": ("run",),
    "runs.study.api": ("StudyResult", "study_labels"),
    "runs.study.agreement": ("find_suspects",),
    "runs.study.noise_api": ("study_noise",),
    "runs.study.selection": ("choose_next",),
    "stages.freezing": ("freeze",),
    "stages.heads.neighbours": ("knn",),
    "stages.heads.propagation": ("propagate",),
    "stages.heads.prototypes": ("prototype",),
    "stages.heads.reliable": ("knn_reliable",),
    "stages.heads.solved": ("linear", "ridge"),
    "stages.heads.trained": ("attach", "classifier", "finetune", "make_logits", "mlp"),
    "stages.modules": ("forward", "init_on_features", "make_finish", "module_init"),
    "stages.nets.conv": ("Conv",),
    "stages.nets.mlp": ("MLP", "Identity", "mirror"),
    "stages.nets.projector": ("Projector",),
    "stages.nets.resnet": ("ResNet",),
    "stages.nets.vit": ("ViT",),
    "stages.optimiser": ("adam",),
    "stages.pretrain.contrastive": ("simclr", "simclr_iic"),
    "stages.pretrain.jepa": ("lejepa",),
    "stages.pretrain.masked": ("masked",),
    "stages.pretrain.placeholder": ("placeholder",),
    "stages.pretrain.reconstruction": ("autoencoder", "denoising", "make_decode"),
    "stages.pretrain.supervised": ("supervised",),
    "stages.pretrain.vae": ("vae",),
    "stages.pretrain.variance": ("vicreg",),
    "stages.stage": ("Head", "Stage", "as_batch", "as_image"),
    "stages.torch_names": ("from_torch_state_dict", "torch_state_dict"),
    "stages.views.augment": ("augmentation",),
    "stages.views.settings": ("Views",),
    "trees": ("digest",),
}
__all__ = sorted(name for names in _HOME.values() for name in names)  # pyright: ignore


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"twostage_jax.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
