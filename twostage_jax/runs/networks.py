"""Modules, stages and heads of a run, and the shapes of their parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from twostage_jax.engine.predictor import Network
from twostage_jax.engine.solve import FEATURES, PREPARED, solution
from twostage_jax.runs.specs import batch_spec, solve_spec
from twostage_jax.stages.heads.trained import attach
from twostage_jax.stages.modules import forward
from twostage_jax.stages.stage import Batch, Head, Params, Stage, new_key
from twostage_jax.trees import PyTree, shapes_of

Numbers = Mapping[str, PyTree]
FUNCTIONS = {"pretrain": "pretrain.objective", "head": "head.protocol"}
BANK = "bank"  # group of the features that all trials of a prepared head share


@dataclass(frozen=True, eq=False)
class Networks:
    """Modules, stages and heads of a resolved config.

    Attributes:
        encoder: module of the encoder.
        decoder: module of the decoder, for objectives that ask for one.
        pretrain: `numbers -> Stage`, stage 1. Numbers can be traced. Missing numbers have the
            values of the config.
        head: `numbers -> Head`, the same for stage 2.
        pretrain_numbers: numbers that the objective takes, with their defaults.
        head_numbers: the same for the head.
        asked: names of the parameters of each function, by the field that names it.
        head_settings: values of the head's options and of its numbers that are not swept.
        decode: `(params, image) -> image`, or None if the objective has no decoder.
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
        """True if stage 2 also trains the encoder."""
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
        head_numbers: numbers of the head, by default those of the config. Arrays are traced, as in
            a sweep; Python numbers are not.
        prepared: shapes of the additional input of a head with `prepare`, see `prepared_shapes`.
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
    params, shared = jax.eval_shape(solve, swept, new_key(), spec)
    groups = {"encoder": networks.encoder_shapes, "head": params}
    return {**groups, BANK: shared} if shared else groups


def sample_shapes(
    networks: Networks, count: int, head_numbers: Numbers
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the input of a head with `prepare`, computed from random features.

    A run calls this before it trains, to report errors of `prepare` early.
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
