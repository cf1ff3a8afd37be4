"""The modules and stages that a config names, made and checked before anything is compiled."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.config.schema import Config, swept
from twostage_jax.config.sweep import FIELDS
from twostage_jax.errors import UserError, did_you_mean
from twostage_jax.stages.heads.trained import classifier, make_logits
from twostage_jax.stages.nets.mlp import MLP, Identity, mirror
from twostage_jax.stages.pretrain.placeholder import placeholder
from twostage_jax.stages.pretrain.reconstruction import autoencoder, make_decode
from twostage_jax.stages.stage import Params, Stage


class Nets(NamedTuple):
    """Modules and stages of a resolved config.

    Attributes:
        pretrain: `(**scalars) -> Stage`, stage 1; scalars may be traced, and what is not given is
            as the config has it.
        classify: the same for stage 2.
        classify_features: the same, with `encode`'s features in place of the images of a batch.
        encode: `(params of the encoder, image) -> features`.
        logits: `(params, image) -> logits`.
        decode: `(params, image) -> image`, or None where the objective has no such decoder.
    """

    pretrain: Callable[..., Stage]
    classify: Callable[..., Stage]
    classify_features: Callable[..., Stage]
    encode: Callable[[Params, jax.Array], jax.Array]
    logits: Callable[[Params, jax.Array], jax.Array]
    decode: Callable[[Params, jax.Array], jax.Array] | None


def make_nets(config: Config, image_shape: tuple[int, ...], classes: int) -> Nets:
    """Modules and stages for images `[H, W, C]` and `classes` classes.

    Raises:
        UserError: an encoder or objective that cannot be imported, or whose shapes do not fit;
            nothing is compiled for that.
    """
    torch_init = config.init == "torch"
    pretrain = config.pretrain
    if pretrain.encoder == "mlp":
        encoder = MLP(pretrain.widths, torch_init)
    else:
        encoder = _make(pretrain.encoder)
    size = int(np.prod(image_shape))
    decoder = MLP(mirror(pretrain.widths, size), torch_init)
    head = MLP((*config.head.widths, classes), torch_init)
    decode = None
    if pretrain.objective == "autoencoder":
        objective, decode = partial(autoencoder, encoder, decoder), make_decode(encoder, decoder)
    elif pretrain.objective == "placeholder":
        objective = partial(placeholder, encoder)
    else:
        objective = partial(_make, pretrain.objective, encoder, decoder)
    _check_keywords(config)
    smoothing = config.head.label_smoothing

    def classify(label_smoothing: Any = smoothing) -> Stage:
        return classifier(encoder, head, label_smoothing)

    def on_features(label_smoothing: Any = smoothing) -> Stage:
        return Stage(classify().init, classifier(Identity(), head, label_smoothing).loss)

    encode: Any = encoder.apply
    nets = Nets(objective, classify, on_features, encode, make_logits(encoder, head), decode)
    for name, one in (("stage 1", nets.pretrain()), ("stage 2", nets.classify())):
        _check_shapes(f"{name} ({pretrain.encoder}, {pretrain.objective})", one, image_shape)
    return nets


def _check_keywords(config: Config) -> None:
    """Raise `UserError` where a keyword is swept that the user's objective does not take."""
    names = [name for name in swept(config) if name not in FIELDS]
    if not names:
        return
    parameters = inspect.signature(_import(config.pretrain.objective)).parameters.values()
    numbers = [p.name for p in parameters if type(p.default) in (int, float)]
    for name in names:
        if name.partition(".")[2].replace("-", "_") not in numbers:
            known = [f"pretrain.{number.replace('_', '-')}" for number in numbers]
            raise UserError(
                f"cannot sweep {name}: {config.pretrain.objective} has no keyword of that name "
                f"with a number as its default; {did_you_mean(name, [*FIELDS, *known])}"
            )


def _make(name: str, *args: Any, **scalars: Any) -> Any:
    """Import `package.module:name` and call it."""
    function = _import(name)
    try:
        return function(*args, **scalars)
    except Exception as error:  # a user's code may raise anything
        given = "encoder and decoder" if args else "no arguments"
        raise UserError(f"cannot make {name!r}, called with {given}: {error}") from error


def _import(name: str) -> Any:
    """What `package.module:name` names; the one door for a user's own code."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"cannot import {name!r}: {error}; give package.module:name as Python finds it from "
            "here (PYTHONPATH=. for a file in this folder)"
        ) from error


def _check_shapes(name: str, stage: Stage, image_shape: tuple[int, ...]) -> None:
    def both(key: jax.Array, batch: Mapping[str, jax.Array]) -> Any:
        init_key, loss_key = jax.random.split(key)
        params = stage.init(init_key, batch)
        if "encoder" not in params:
            raise UserError(f"{name} has no group called encoder, only {sorted(params)}")
        return stage.loss(params, loss_key, batch)

    try:
        jax.eval_shape(both, jax.random.key(0), batch_spec(image_shape))
    except UserError:
        raise
    except Exception as error:  # whatever a user's module may raise, it names what does not fit
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{name} does not fit images {list(image_shape)}: {reason}") from error


def batch_spec(image_shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of two, for images `[H, W, C]`."""
    return {
        "image": jax.ShapeDtypeStruct((2, *image_shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((2,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((2,), jnp.float32),
    }


def encoder_shapes(nets: Nets, image_shape: tuple[int, ...]) -> Params:
    """Shapes and types of the encoder's parameters, for images `[H, W, C]`."""
    params = jax.eval_shape(nets.pretrain().init, jax.random.key(0), batch_spec(image_shape))
    return params["encoder"]
