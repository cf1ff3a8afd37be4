"""From a config to modules, stages and heads, checked before anything is compiled."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial

import jax
from flax import linen as nn

from twostage_jax.config.options import offered_options
from twostage_jax.config.schema import Config
from twostage_jax.config.sweep import swept
from twostage_jax.errors import UserError
from twostage_jax.runs.checks import (
    check_features,
    check_loss,
    check_loss_numbers,
    check_stage,
    check_swept,
    distinct_numbers,
)
from twostage_jax.runs.networks import (
    Networks,
    Numbers,
    head_shapes,
    sample_shapes,
)
from twostage_jax.runs.own_code import call_named, find_function, make_module, trace_errors
from twostage_jax.runs.views import make_augment
from twostage_jax.stages.families import ENCODERS, HEADS, OBJECTIVES
from twostage_jax.stages.modules import check_finish
from twostage_jax.stages.nets.decoders import make_decoder
from twostage_jax.stages.nets.projector import Projector
from twostage_jax.stages.pretrain.reconstruction import make_decode
from twostage_jax.stages.signature import check_head, numbers, parameter_names
from twostage_jax.stages.stage import Head, Params, Stage, new_key
from twostage_jax.trees import PyTree

PREACTIVATED = ("mlp", "conv")  # encoders whose features are the values before a ReLU
# Numbers of the optimiser, not of a function.
OPTIMISER = ("learning_rate", "weight_decay", "encoder_learning_rate")
HEAD_OPTIONS = ("method", "class_sizes", "loss")  # options that describe a head in the result
# Number of random images with which a head with `prepare` is checked before training.
SAMPLE = 256


def make_networks(
    config: Config,
    image_shape: tuple[int, ...],
    classes: int,
    labelled: int,
    validation: int,
    images: int,
) -> Networks:
    """Make the modules and stages of a config, and trace them on abstract values.

    Args:
        config: resolved config.
        image_shape: `(H, W, C)`.
        classes: number of classes K; 0 without labels.
        labelled: number of labelled examples of one trial; 0 without labels.
        validation: number of validation examples.
        images: number of training images, with and without a label.

    Raises:
        UserError: code that cannot be imported, numbers that a function does not take, or shapes
            that do not fit. Nothing is compiled for these checks.
    """
    torch_init = config.init == "torch"
    # Without labels there is no head, and any numbers give the same stage 1.
    classes = classes or 2
    labelled = labelled or classes
    modules = {
        **_make_modules(config, image_shape),
        "classes": classes,
        "examples": images,
        **offered_options(config, "pretrain.objective"),
    }
    augment = make_augment(config, image_shape)
    if augment is not None:
        modules["augment"] = augment
    encoder = modules["encoder"]
    decoder = modules["decoder"]
    options = {
        "classes": classes,
        "examples": labelled,
        "torch_init": torch_init,
        **offered_options(config, "head.protocol"),
    }
    objective = find_function(config.pretrain.objective, OBJECTIVES)
    protocol = find_function(config.head.protocol, HEADS)
    decode = None
    # Another objective may use its decoder in any way, so its output need not be an image.
    if config.pretrain.objective in ("autoencoder", "denoising", "masked"):
        decode = make_decode(encoder, decoder)
    networks = Networks(
        encoder,
        decoder,
        partial(_make_stage, config, objective, modules),
        partial(_make_head, config, protocol, options),
        numbers(objective),
        numbers(protocol),
        _asked(config, objective, protocol),
        _head_settings(config, protocol),
        decode,
        image_shape,
        classes,
    )
    check_swept(config, networks.pretrain_numbers, networks.head_numbers)
    check_loss_numbers(config, networks.asked)
    # A value out of range, such as too many neighbours, only shows with Python numbers: in the
    # program of a sweep they are traced.
    name = f"stage 1 ({config.pretrain.encoder}, {config.pretrain.objective})"
    for values in distinct_numbers(config, "pretrain"):
        with trace_errors(name, image_shape):
            check_stage(name, networks.pretrain(values), networks.batch_spec("pretrain"))
            check_features(config.pretrain.encoder, encoder, networks.encoder_shapes, image_shape)
    name = f"stage 2 ({config.head.protocol})"
    for values in distinct_numbers(config, "head"):
        with trace_errors(name, image_shape):
            sample = sample_shapes(networks, min(images, SAMPLE), values)
            shapes = head_shapes(networks, labelled, validation, values, sample)
            _check_head(config.head.protocol, networks, values, shapes)
    return networks


def _make_stage(
    config: Config, objective: Callable[..., Stage], modules: Mapping[str, object], values: Numbers
) -> Stage:
    """Make stage 1 with the numbers of one trial."""
    settings = dict(config.pretrain.set or ()) | _without_optimiser(values)
    stage = call_named(config.pretrain.objective, objective, modules, settings)
    if not isinstance(stage, Stage):
        raise UserError(
            f"{config.pretrain.objective} returned {type(stage).__name__}: return "
            "ts.Stage(init, loss)"
        )
    return stage


def _make_head(
    config: Config, protocol: Callable[..., Head], options: Mapping[str, object], values: Numbers
) -> Head:
    """Make the head with the numbers of one trial."""
    settings = dict(config.head.set or ()) | _without_optimiser(values)
    # For a second learning rate, relative to the first.
    rates = {"learning_rate": values.get("learning_rate", config.head.learning_rate)}
    if "encoder_learning_rate" in values:
        rates["encoder_learning_rate"] = values["encoder_learning_rate"]
    made = call_named(config.head.protocol, protocol, {**options, **rates}, settings)
    return check_head(made, config.head.protocol)


def _head_settings(config: Config, protocol: Callable[..., Head]) -> dict[str, object]:
    """Return the options that the head asks for, and its numbers that are not swept."""
    parameters = inspect.signature(protocol).parameters
    settings: dict[str, object] = {}
    for name in HEAD_OPTIONS:
        if name in parameters:
            value = getattr(config.head, name)
            settings[name] = parameters[name].default if value is None else value
    taken = numbers(protocol) | dict(config.head.set or ())
    swept_names = {name.partition(".")[2].replace("-", "_") for name in swept(config)}
    return settings | {name: x for name, x in taken.items() if name not in swept_names}


def _make_modules(config: Config, image_shape: tuple[int, ...]) -> dict[str, nn.Module]:
    """Make the modules that an objective may ask for: encoder, decoder and projector."""
    stage = config.pretrain
    torch_init = config.init == "torch"
    offered = {"torch_init": torch_init, **offered_options(config, "pretrain.encoder")}
    if stage.encoder in ENCODERS:
        encoder = call_named(stage.encoder, ENCODERS[stage.encoder], offered, {})
    else:
        encoder = make_module(stage.encoder)
    # An objective of the user may not finish the statistics of a projector.
    norm = stage.norm or ("group" if ":" in stage.objective else "batch")
    # Modules are only descriptions: one that nobody asks for costs nothing.
    return {
        "encoder": encoder,
        "decoder": make_decoder(
            stage.encoder, stage.widths or (), image_shape, torch_init, stage.patch or 0
        ),
        "projector": Projector(norm=norm, activate=stage.encoder in PREACTIVATED),
    }


def _asked(
    config: Config, objective: Callable[..., object], protocol: Callable[..., object]
) -> dict[str, tuple[str, ...]]:
    """Return the parameters of the chosen functions, by the field that names each."""
    encoder = ENCODERS.get(config.pretrain.encoder)
    return {
        "pretrain.encoder": parameter_names(encoder) if encoder else (),
        "pretrain.objective": parameter_names(objective),
        "head.protocol": parameter_names(protocol),
    }


def _without_optimiser(values: Numbers) -> dict[str, PyTree]:
    return {name: value for name, value in values.items() if name not in OPTIMISER}


def _check_head(
    protocol: str,
    networks: Networks,
    head_numbers: Numbers,
    params: Params,
) -> None:
    """Trace a head; raise `UserError` unless it returns one logit for each class."""
    head = networks.head(head_numbers)
    batch = networks.batch_spec("head")
    if head.stage is not None:
        stage = networks.attached(head_numbers)
        check_finish(stage, params, protocol)
        result = jax.eval_shape(stage.loss, params, new_key(), batch)
        check_loss(protocol, result)
    arguments = ((dict(head_numbers), params), batch["image"])
    logits = jax.eval_shape(networks.logits, *arguments)
    if logits.shape != (2, networks.classes):
        raise UserError(
            f"{protocol} returns logits {list(logits.shape)} for 2 examples of "
            f"{networks.classes} classes: return [B, {networks.classes}]"
        )
