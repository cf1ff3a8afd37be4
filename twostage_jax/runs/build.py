"""From a config to modules, stages and heads, checked before anything is compiled."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from twostage_jax.config.options import offered_options
from twostage_jax.config.schema import Config
from twostage_jax.config.sweep import swept
from twostage_jax.engine.predictor import Network
from twostage_jax.engine.solve import FEATURES, PREPARED, solution
from twostage_jax.errors import UserError
from twostage_jax.runs.checks import (
    check_features,
    check_loss,
    check_loss_numbers,
    check_stage,
    check_swept,
    distinct_numbers,
)
from twostage_jax.runs.own_code import call_named, find_function, make_module, trace_errors
from twostage_jax.runs.specs import batch_spec, solve_spec
from twostage_jax.runs.views import make_augment
from twostage_jax.stages.families import ENCODERS, HEADS, OBJECTIVES
from twostage_jax.stages.heads.trained import attach
from twostage_jax.stages.modules import check_finish, forward
from twostage_jax.stages.nets.decoders import make_decoder
from twostage_jax.stages.nets.projector import Projector
from twostage_jax.stages.pretrain.reconstruction import make_decode
from twostage_jax.stages.signature import check_head, numbers, parameter_names
from twostage_jax.stages.stage import Batch, Head, Params, Stage, new_key
from twostage_jax.trees import PyTree, shapes_of

Numbers = Mapping[str, PyTree]
FUNCTIONS = {"pretrain": "pretrain.objective", "head": "head.protocol"}
PREACTIVATED = ("mlp", "conv")  # encoders whose features are the values before a ReLU
# Numbers of the optimiser, not of a function.
OPTIMISER = ("learning_rate", "weight_decay", "encoder_learning_rate")
HEAD_OPTIONS = ("method", "class_sizes", "loss")  # options that describe a head in the result
BANK = "bank"  # group of the features that all trials of a prepared head share
# Random images that a head with `prepare` is checked with before there are features.
SAMPLE = 256


@dataclass(frozen=True, eq=False)
class Networks:
    """Modules, stages and heads of a resolved config.

    Attributes:
        encoder: module of the encoder.
        decoder: module of the decoder, for objectives that ask for one.
        pretrain: `numbers -> Stage`, stage 1; numbers may be traced, and those that are missing are
            as the config sets them.
        head: `numbers -> Head`, the same for stage 2.
        pretrain_numbers: numbers that the objective takes, with their defaults.
        head_numbers: the same for the head.
        asked: names of the parameters of each function, by the field that names it.
        head_settings: values of the head's options and of its numbers that are not swept.
        decode: `(params, image) -> image`, or None if the objective has no such decoder.
        image_shape: `(H, W, C)`.
        classes: number of classes.
    """

    encoder: nn.Module
    decoder: nn.Module
    pretrain: Callable[[Numbers], Stage]
    head: Callable[[Numbers], Head]
    pretrain_numbers: dict[str, int | float]
    head_numbers: dict[str, int | float]
    asked: dict[str, tuple[str, ...]]
    head_settings: dict[str, object]
    decode: Callable[[Params, jax.Array], jax.Array] | None
    image_shape: tuple[int, ...]
    classes: int

    # Shapes are traced once: each trace of a module takes about ten milliseconds.
    @cached_property
    def encoder_shapes(self) -> Params:
        """Shapes of the encoder's parameters."""
        init = self.pretrain({}).init
        return jax.eval_shape(init, new_key(), batch_spec(self.image_shape))["encoder"]

    @cached_property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape `(D,)` of the features of one image."""
        image = batch_spec(self.image_shape)["image"]
        return jax.eval_shape(self.features, self.encoder_shapes, image).shape[1:]

    @cached_property
    def reads_labels(self) -> bool:
        """True if the loss of stage 1 depends on labels; found by tracing it, not by its name."""
        stage = self.pretrain({})

        def loss(label: jax.Array, key: jax.Array, rest: Batch) -> jax.Array:
            batch = {**rest, "label": label}
            init_key, loss_key = jax.random.split(key)
            return stage.loss(stage.init(init_key, batch), loss_key, batch)[0]

        batch = batch_spec(self.image_shape)
        label = batch.pop("label")
        jaxpr = jax.make_jaxpr(loss)(label, jax.eval_shape(new_key), batch).jaxpr
        used = [variable for equation in jaxpr.eqns for variable in equation.invars]
        return any(variable is jaxpr.invars[0] for variable in used)

    def features(self, params: Params, image: jax.Array) -> jax.Array:
        """Return features `[B, D]` of images `[B, H, W, C]` from the encoder's parameters."""
        features = jnp.asarray(forward(self.encoder, params, image), jnp.float32)
        return features.reshape(len(image), -1)

    def logits(self, arguments: tuple[Numbers, Params], image: jax.Array) -> jax.Array:
        """Return logits `[B, K]` of images from `(numbers of the head, params)`."""
        head_numbers, params = arguments
        features = self.features(params["encoder"], image)
        head_params = params["head"]
        if BANK in params:
            head_params = {**head_params, **params[BANK]}
        return self.head(head_numbers).logits(head_params, features)

    @property
    def network(self) -> Network:
        """Functions of one trial, for a predictor."""
        return Network(self.logits, self.features, self.decode)

    @cached_property
    def solved(self) -> bool:
        """True if the head is computed in one call rather than trained."""
        return self.head({}).solve is not None

    @cached_property
    def tunes_encoder(self) -> bool:
        """True if stage 2 trains the encoder, too."""
        return self.head({}).tune is not None

    def needs_index(self, stage: str) -> bool:
        """Return True if the batches of a stage hold the positions of their examples."""
        return "examples" in self.asked[FUNCTIONS[stage]]

    def batch_spec(self, stage: str) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes of a batch of two images, as a stage sees it."""
        return batch_spec(self.image_shape, self.needs_index(stage))

    @cached_property
    def prepared(self) -> bool:
        """True if the head needs the features of all training images."""
        return self.head({}).prepare is not None

    def attached(self, head_numbers: Numbers) -> Stage:
        """Return stage 2 on images: the encoder with a trained head."""
        return attach(self.encoder, self.head(head_numbers), frozen=True)

    def on_features(self, head_numbers: Numbers) -> Stage:
        """Return stage 2 on features: `image` holds the features of the frozen encoder."""
        head_stage = self.head(head_numbers).stage
        assert head_stage is not None, "a solved head has no stage"

        def loss(params: Params, key: jax.Array, batch: Batch):
            return head_stage.loss(params["head"], key, batch)

        attached = self.attached(head_numbers)
        head_finish = head_stage.finish

        def finish(params: Params, features: jax.Array) -> Params:
            assert head_finish is not None
            return {**params, "head": head_finish(params["head"], features)}

        has_finish = None if head_finish is None else finish
        return Stage(attached.init, loss, has_finish, attached.optimiser)


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
        classes: number of classes K.
        labelled: number of labelled examples of one trial.
        validation: number of validation examples.
        images: number of training images, with and without a label.

    Raises:
        UserError: code that cannot be imported, numbers that a function does not take, or shapes
            that do not fit. Nothing is compiled for these checks.
    """
    torch_init = config.init == "torch"
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

    def pretrain(values: Numbers) -> Stage:
        settings = dict(config.pretrain.set or ()) | _without_optimiser(values)
        stage = call_named(config.pretrain.objective, objective, modules, settings)
        if not isinstance(stage, Stage):
            raise UserError(
                f"{config.pretrain.objective} returned {type(stage).__name__}: return "
                "ts.Stage(init, loss)"
            )
        return stage

    def head(values: Numbers) -> Head:
        settings = dict(config.head.set or ()) | _without_optimiser(values)
        # For a second learning rate, relative to the first.
        rates = {"learning_rate": values.get("learning_rate", config.head.learning_rate)}
        if "encoder_learning_rate" in values:
            rates["encoder_learning_rate"] = values["encoder_learning_rate"]
        made = call_named(config.head.protocol, protocol, {**options, **rates}, settings)
        return check_head(made, config.head.protocol)

    decode = None
    # Another objective may use its decoder in any way, so its output need not be an image.
    if config.pretrain.objective in ("autoencoder", "denoising", "masked"):
        decode = make_decode(encoder, decoder)
    networks = Networks(
        encoder,
        decoder,
        pretrain,
        head,
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


def _head_settings(config: Config, protocol: Callable[..., Head]) -> dict[str, object]:
    """Return the options that the head asks for, and its numbers that are not swept."""
    parameters = inspect.signature(protocol).parameters
    settings: dict[str, object] = {}
    for name in HEAD_OPTIONS:
        if name in parameters:
            given = getattr(config.head, name)
            settings[name] = parameters[name].default if given is None else given
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
    # Modules are only descriptions: one that nobody asks for costs nothing.
    return {
        "encoder": encoder,
        "decoder": make_decoder(
            stage.encoder, stage.widths, image_shape, torch_init, stage.patch or 0
        ),
        "projector": Projector(norm=stage.norm or "batch", activate=stage.encoder in PREACTIVATED),
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


def head_shapes(
    networks: Networks,
    labelled: int,
    validation: int,
    head_numbers: Numbers | None = None,
    prepared: Mapping[str, jax.ShapeDtypeStruct] | None = None,
) -> Params:
    """Return the shapes of the groups of stage 2 of one trial.

    Args:
        networks: modules and stages.
        labelled: number of labelled examples, which a solved head may depend on.
        validation: number of validation examples.
        head_numbers: numbers of the head; by default as the config sets them. Arrays are traced, as
            those of a sweep are; Python numbers are not.
        prepared: shapes of what a head with `prepare` gets, see `prepared_shapes`.
    """
    head_numbers = dict(head_numbers or {})
    head = networks.head(head_numbers)
    if head.solve is None:
        return jax.eval_shape(
            networks.attached(head_numbers).init,
            new_key(),
            batch_spec(networks.image_shape),
        )
    swept = {name: x for name, x in head_numbers.items() if isinstance(x, np.generic)}

    def solve(values: Numbers, key: jax.Array, batch: Batch) -> PyTree:
        return solution(networks.head({**head_numbers, **values}), key, batch)

    spec = solve_spec(labelled, validation, *networks.feature_shape) | dict(prepared or {})
    own, shared = jax.eval_shape(solve, swept, new_key(), spec)
    groups = {"encoder": networks.encoder_shapes, "head": own}
    return {**groups, BANK: shared} if shared else groups


def sample_shapes(
    networks: Networks, count: int, head_numbers: Numbers
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of what a head with `prepare` gets, from random features of some images.

    It is called to report errors of `prepare` before anything is trained.
    """
    prepare = networks.head(head_numbers).prepare
    if prepare is None:
        return {}
    shape = (count, *networks.feature_shape)
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return prepared_shapes(features, prepare(features))


def prepared_shapes(
    features: np.ndarray, prepared: Mapping[str, np.ndarray]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the features `[N, D]` of all images and of prepared arrays."""
    arrays = {FEATURES: features, **{PREPARED + name: x for name, x in prepared.items()}}
    return shapes_of(arrays)
