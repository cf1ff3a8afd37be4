"""Two-stage training in JAX: pretrain an encoder without labels, freeze it, train a head on it.

Names are imported when they are first used, so that `import twostage_jax` costs nothing and the
command line answers before jax is there. Reading order: `stage`, `pretrain`, `engine`, `head`,
`pipeline`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twostage_jax.compilation import compiler_options, keep_compiled
    from twostage_jax.config import Config, HeadConfig, PretrainConfig
    from twostage_jax.data import Dataset
    from twostage_jax.encoding import encode
    from twostage_jax.engine import make_train
    from twostage_jax.ensembles import ensemble
    from twostage_jax.errors import UserError
    from twostage_jax.head import classifier, make_logits
    from twostage_jax.nets import MLP, Identity, mirror
    from twostage_jax.optimiser import adam
    from twostage_jax.pipeline import Result, run
    from twostage_jax.pretrain import autoencoder, make_decode, placeholder
    from twostage_jax.scoring import evaluate, reconstruction
    from twostage_jax.sources import load
    from twostage_jax.stage import (
        Stage,
        TrainState,
        as_batch,
        as_image,
        digest,
        freeze,
        init_state,
    )
    from twostage_jax.torch_names import from_torch_state_dict, torch_state_dict

_HOME = {
    "compilation": ("compiler_options", "keep_compiled"),
    "config": ("Config", "HeadConfig", "PretrainConfig"),
    "data": ("Dataset",),
    "engine": ("make_train",),
    "ensembles": ("ensemble",),
    "scoring": ("evaluate", "reconstruction"),
    "encoding": ("encode",),
    "errors": ("UserError",),
    "head": ("classifier", "make_logits"),
    "nets": ("MLP", "Identity", "mirror"),
    "optimiser": ("adam",),
    "pipeline": ("Result", "run"),
    "pretrain": ("autoencoder", "make_decode", "placeholder"),
    "sources": ("load",),
    "torch_names": ("from_torch_state_dict", "torch_state_dict"),
    "stage": ("Stage", "TrainState", "as_batch", "as_image", "digest", "freeze", "init_state"),
}
__all__ = sorted(name for names in _HOME.values() for name in names)  # pyright: ignore


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"twostage_jax.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
