"""Checks of stages, swept numbers and losses, on abstract values: nothing is compiled."""

from collections.abc import Collection, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from twostage_jax.config.schema import Config
from twostage_jax.config.sweep import DECLARATIONS, SWEEPABLE, grid, swept
from twostage_jax.errors import UserError, did_you_mean
from twostage_jax.runs.specs import batch_spec
from twostage_jax.stages.heads.losses import LOSS_NUMBERS
from twostage_jax.stages.modules import check_finish, forward
from twostage_jax.stages.stage import Batch, Stage, new_key
from twostage_jax.trees import PyTree


def check_swept(
    config: Config, pretrain_numbers: Collection[str], head_numbers: Collection[str]
) -> None:
    """Raise `UserError` for a swept name that neither the config nor a function declares."""
    functions = {
        "pretrain": (config.pretrain.objective, pretrain_numbers),
        "head": (config.head.protocol, head_numbers),
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


def check_loss_numbers(config: Config, asked: Mapping[str, Collection[str]]) -> None:
    """Raise `UserError` if a number of another loss than the chosen one is set or swept."""
    if "loss" not in asked["head.protocol"]:
        return
    chosen = config.head.loss or "cross-entropy"
    chosen_names = [name for name, _ in config.head.set or ()]
    chosen_names += [
        name.removeprefix("head.").replace("-", "_")
        for name in swept(config)
        if name.startswith("head.")
    ]
    for loss, names in LOSS_NUMBERS.items():
        for name in names:
            if loss != chosen and name in chosen_names:
                raise UserError(
                    f"{name} belongs to the loss {loss}, and --head.loss is {chosen}: leave it "
                    f"out, or give --head.loss {loss}"
                )


def distinct_numbers(config: Config, stage: str) -> list[dict[str, float]]:
    """Return the numbers of the function of a stage at all points of a sweep, each set once."""
    fields = {
        name.partition(".")[2].replace("-", "_"): values
        for name, values in swept(config).items()
        if name.startswith(f"{stage}.") and name not in DECLARATIONS
    }
    return grid(fields)


def check_stage(name: str, stage: Stage, batch: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Trace a stage; raise `UserError` if its parameters have no encoder."""

    def init_and_loss(key: jax.Array, batch: Batch) -> PyTree:
        init_key, loss_key = jax.random.split(key)
        params = stage.init(init_key, batch)
        if "encoder" not in params:
            raise UserError(f"{name} has no group called encoder, only {sorted(params)}")
        check_finish(stage, params, name)
        return stage.loss(params, loss_key, batch)

    check_loss(name, jax.eval_shape(init_and_loss, new_key(), batch))


def check_features(
    name: str, encoder: nn.Module, params: PyTree, image_shape: tuple[int, ...]
) -> None:
    """Trace an encoder; raise `UserError` unless its features are `[B, D]`."""
    image = batch_spec(image_shape)["image"]
    shape = jax.eval_shape(partial(forward, encoder), params, image).shape
    if len(shape) != 2:
        raise UserError(
            f"the encoder {name} returns {list(shape)} for {shape[0]} images: return features "
            "[B, D], for instance x.reshape(len(x), -1)"
        )


def check_loss(name: str, result: PyTree) -> None:
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
