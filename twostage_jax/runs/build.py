"""From a config to modules, stages and heads, checked before anything is compiled."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from twostage_jax.config.schema import Config
from twostage_jax.config.sweep import DECLARATIONS, SWEEPABLE, grid, swept
from twostage_jax.engine.predictor import Network
from twostage_jax.engine.solve import FEATURES, PREPARED, solution
from twostage_jax.errors import UserError, did_you_mean
from twostage_jax.runs.own_code import call_named, find_function, make_module, trace_errors
from twostage_jax.runs.specs import batch_spec, solve_spec
from twostage_jax.stages.families import ENCODERS, HEADS, OBJECTIVES
from twostage_jax.stages.heads.trained import attach
from twostage_jax.stages.modules import check_finish, forward
from twostage_jax.stages.nets.decoders import make_decoder
from twostage_jax.stages.nets.projector import Projector
from twostage_jax.stages.pretrain.reconstruction import make_decode
from twostage_jax.stages.signature import check_head, numbers
from twostage_jax.stages.stage import Batch, Head, Params, Stage, new_key
from twostage_jax.trees import PyTree, shapes_of

Numbers = Mapping[str, PyTree]
PREACTIVATED = ("mlp", "conv")  # encoders whose features are the values before a ReLU
BANK = "bank"  # group of the features that all trials of a prepared head share
# Random images that a head with `prepare` is checked with before there are features.
SAMPLE = 256
OPTIMISER = ("learning_rate", "weight_decay")  # numbers of the optimiser, not of a function


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

        return Stage(self.attached(head_numbers).init, loss)


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
    modules = _make_modules(config, image_shape) | {"classes": classes}
    encoder = modules["encoder"]
    decoder = modules["decoder"]
    options = {"classes": classes, "widths": config.head.widths, "torch_init": torch_init}
    given = {"method": config.head.method, "class_sizes": config.head.class_sizes}
    options |= {name: value for name, value in given.items() if value is not None}
    objective = find_function(config.pretrain.objective, OBJECTIVES)
    protocol = find_function(config.head.protocol, HEADS)

    def pretrain(values: Numbers) -> Stage:
        settings = dict(config.pretrain.set or ()) | dict(values)
        stage = call_named(config.pretrain.objective, objective, modules, settings)
        if not isinstance(stage, Stage):
            raise UserError(
                f"{config.pretrain.objective} returned {type(stage).__name__}: return "
                "ts.Stage(init, loss)"
            )
        return stage

    def head(values: Numbers) -> Head:
        settings = dict(config.head.set or ()) | dict(values)
        made = call_named(config.head.protocol, protocol, options, settings)
        return check_head(made, config.head.protocol)

    decode = None
    # Another objective may use its decoder in any way, so its output need not be an image.
    if config.pretrain.objective in ("autoencoder", "denoising"):
        decode = make_decode(encoder, decoder)
    networks = Networks(
        encoder,
        decoder,
        pretrain,
        head,
        numbers(objective),
        numbers(protocol),
        decode,
        image_shape,
        classes,
    )
    _check_swept(config, networks)
    # A value out of range, such as too many neighbours, only shows with Python numbers: in the
    # program of a sweep they are traced.
    name = f"stage 1 ({config.pretrain.encoder}, {config.pretrain.objective})"
    for values in _distinct_numbers(config, "pretrain"):
        with trace_errors(name, image_shape):
            _check_stage(name, networks.pretrain(values), image_shape)
    name = f"stage 2 ({config.head.protocol})"
    for values in _distinct_numbers(config, "head"):
        with trace_errors(name, image_shape):
            sample = sample_shapes(networks, min(images, SAMPLE), values)
            shapes = head_shapes(networks, labelled, validation, values, sample)
            _check_head(config.head.protocol, networks, values, shapes)
    return networks


def _make_modules(config: Config, image_shape: tuple[int, ...]) -> dict[str, nn.Module]:
    """Make the modules that an objective may ask for: encoder, decoder and projector."""
    stage = config.pretrain
    torch_init = config.init == "torch"
    offered = {"widths": stage.widths, "torch_init": torch_init}
    if stage.norm is not None:
        offered["norm"] = stage.norm
    if stage.encoder in ENCODERS:
        encoder = call_named(stage.encoder, ENCODERS[stage.encoder], offered, {})
    else:
        encoder = make_module(stage.encoder)
    # Modules are only descriptions: one that nobody asks for costs nothing.
    return {
        "encoder": encoder,
        "decoder": make_decoder(stage.encoder, stage.widths, image_shape, torch_init),
        "projector": Projector(norm=stage.norm or "batch", activate=stage.encoder in PREACTIVATED),
    }


def _check_swept(config: Config, networks: Networks) -> None:
    """Raise `UserError` for a swept name that neither the config nor a function declares."""
    functions = {
        "pretrain": (config.pretrain.objective, networks.pretrain_numbers),
        "head": (config.head.protocol, networks.head_numbers),
    }
    for name in swept(config):
        if name in DECLARATIONS:
            continue
        stage, _, field = name.partition(".")
        function, defaults = functions[stage]
        if field.replace("-", "_") not in defaults:
            names = [f"{stage}.{number.replace('_', '-')}" for number in defaults]
            raise UserError(
                f"cannot sweep {name}: {function} takes no such number; "
                f"{did_you_mean(name, [*SWEEPABLE, *names])}"
            )


def _distinct_numbers(config: Config, stage: str) -> list[dict[str, float]]:
    """Return the numbers of the function of a stage at all points of a sweep, each set once."""
    fields = {
        name.partition(".")[2].replace("-", "_"): values
        for name, values in swept(config).items()
        if name.startswith(f"{stage}.") and name not in DECLARATIONS
    }
    return grid(fields)


def _check_stage(name: str, stage: Stage, image_shape: tuple[int, ...]) -> None:
    """Trace a stage; raise `UserError` if its parameters have no encoder."""

    def init_and_loss(key: jax.Array, batch: Batch) -> PyTree:
        init_key, loss_key = jax.random.split(key)
        params = stage.init(init_key, batch)
        if "encoder" not in params:
            raise UserError(f"{name} has no group called encoder, only {sorted(params)}")
        check_finish(stage, params, name)
        return stage.loss(params, loss_key, batch)

    _check_loss(name, jax.eval_shape(init_and_loss, new_key(), batch_spec(image_shape)))


def _check_loss(name: str, result: PyTree) -> None:
    """Raise `UserError` unless a stage's loss returned `(loss, metrics)`, all of them scalars."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise UserError(f"the loss of {name} must return (loss, metrics), a scalar and a dict")
    loss, metrics = result
    for key, value in {**metrics, "loss": loss}.items():
        if jnp.shape(value) != ():
            raise UserError(
                f"{key} of {name} has shape {list(jnp.shape(value))}: return a scalar, the mean "
                "over the batch"
            )


def _check_head(
    protocol: str,
    networks: Networks,
    head_numbers: Numbers,
    params: Params,
) -> None:
    """Trace a head; raise `UserError` unless it returns one logit for each class."""
    head = networks.head(head_numbers)
    batch = batch_spec(networks.image_shape)
    if head.stage is not None:
        stage = networks.attached(head_numbers)
        result = jax.eval_shape(stage.loss, params, new_key(), batch)
        _check_loss(protocol, result)
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
