"""One stage of a run: its programs, and its way to the end with progress, metrics, checkpoints."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from twostage_jax import folder as folders
from twostage_jax.checkpoint import Store, open_store
from twostage_jax.compilation import options_for_once
from twostage_jax.engine import Epoch, Moment, fit, lower_epoch, make_epoch
from twostage_jax.errors import UserError
from twostage_jax.interrupt import deferred
from twostage_jax.show import show_groups
from twostage_jax.stage import Key, Params, Stage, TrainState, group_sizes, make_init
from twostage_jax.terminal import Terminal


class Programs(NamedTuple):
    """What a stage runs on the device.

    Attributes:
        init: `(key, batch, pretrained groups) -> state`.
        epoch: of the engine.
    """

    init: Any
    epoch: Epoch


def lower_stage(
    stage: Stage,
    tx: optax.GradientTransformation,
    batch: Mapping[str, Any],
    pretrained: Params,
    data: Mapping[str, Any],
    batch_size: int,
) -> Programs:
    """The programs of a stage, lowered for `compile_all`.

    Args:
        stage: what will be trained.
        tx: the optimiser.
        batch: a few examples, for `stage.init`.
        pretrained: groups that are taken over, or their shapes.
        data: what it is trained on, or its shapes: the features, where the encoder has run already.
        batch_size: examples in a step.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    start = jax.jit(make_init(stage, tx), compiler_options=options_for_once())
    state = jax.eval_shape(start, key, dict(batch), pretrained)
    epoch = lower_epoch(make_epoch(stage, tx, batch_size, state, data), state, data)
    return Programs(start.lower(key, dict(batch), pretrained), epoch)


def train_stage(
    epoch: Epoch,
    state: TrainState,
    data: Mapping[str, jax.Array],
    key: Key,
    *,
    name: str,
    epochs: int,
    folder: Path,
    terminal: Terminal,
) -> TrainState:
    """Train with a compiled `epoch` until `epochs` are complete.

    It goes on from the newest checkpoint in `folder / name`, if there is any.

    Every epoch adds a line to `metrics.jsonl` and a checkpoint, before the first one there is
    checkpoint 0. A signal is heard between two calls to the device, and saves the state first.

    Raises:
        UserError: a metric that is no longer finite; a checkpoint that does not fit or is damaged.
        Interrupted: after a signal.
    """
    show_groups(name, group_sizes(state), terminal)
    with open_store(folder / name) as store:
        saved = _take_up(store, _checkpoint(state, epoch.zeros))
        training = saved["training"]
        state = TrainState(saved["params"], training["opt_state"], training["step"])
        step = int(state.step)
        folders.trim_metrics(folder, name, step // epoch.steps)
        if step >= epochs * epoch.steps:
            return state
        if step:
            terminal.line(f"{name}  goes on after step {step:,}")
        with terminal.training(name, epochs) as progress, deferred() as interrupted:
            for moment in fit(epoch, state, data, key, epochs, training["sums"]):
                state, step = moment.state, int(moment.state.step)
                progress.advance(step / epoch.steps)
                if moment.metrics:
                    progress.epoch(_record(name, moment, folder))
                stop = interrupted()
                if moment.metrics or stop:
                    store.save(step, _checkpoint(state, moment.sums))
                if stop:
                    break  # leaving `deferred` raises
    return state


def _take_up(store: Store, start: dict[str, Any]) -> dict[str, Any]:
    """The newest checkpoint, or `start`, saved as number 0: what no epochs hand over."""
    if store.latest is not None:
        return store.load(start)
    with deferred():
        store.save(0, start)
    return start


def _checkpoint(state: TrainState, sums: Mapping[str, Any]) -> dict[str, Any]:
    training = {"opt_state": state.opt_state, "step": state.step, "sums": sums}
    return {"params": state.params, "training": training}


def _record(stage: str, moment: Moment, folder: Path) -> dict[str, Any]:
    """The line of a completed epoch, written to `metrics.jsonl` before the checkpoint."""
    metrics = moment.metrics or {}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise UserError(
                f"stage {stage} diverged in epoch {moment.epoch}: its {name} is {value}; try a "
                f"smaller --{stage}.learning-rate"
            )
    record = {"stage": stage, "epoch": moment.epoch, **metrics}
    record["seconds"] = round(moment.seconds, 3)
    folders.append_metrics(folder, record)
    return record
