"""One stage of a run: its programs, and its way to the end with progress, metrics, checkpoints."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from twostage_jax import folder as folders
from twostage_jax.checkpoint import Store, open_store
from twostage_jax.chunks import Members, fit_members, zero_sums
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


class Training(NamedTuple):
    """How a stage is trained, alone or with many members; `train_stage` does not need to know.

    Attributes:
        steps: number of steps of an epoch.
        zeros: what the sums of the metrics start from.
        fit: `(state, epochs, sums, wanted) -> moments`, as `engine.fit` and
            `chunks.fit_members` yield them.
    """

    steps: int
    zeros: Mapping[str, Any]
    fit: Callable[..., Iterator[Moment]]


def alone(programs: Programs, data: Mapping[str, jax.Array], key: Key) -> Training:
    """One training."""

    def fit_alone(state: TrainState, epochs: int, sums: Any, wanted: Any) -> Iterator[Moment]:
        return fit(programs.epoch, state, data, key, epochs, sums)

    return Training(programs.epoch.steps, programs.epoch.zeros, fit_alone)


def together(
    members: Members, data: Callable[[np.ndarray], Any], hyper: Mapping[str, Any], keys: Key
) -> Training:
    """Many members; `data` gives the split for a piece of them."""

    def fit_together(state: TrainState, epochs: int, sums: Any, wanted: Any) -> Iterator[Moment]:
        return fit_members(members, state, data, hyper, keys, epochs, sums, wanted)

    return Training(members.epoch.steps, zero_sums(members), fit_together)


def train_stage(
    training: Training,
    state: TrainState,
    *,
    name: str,
    epochs: int,
    folder: Path,
    terminal: Terminal,
) -> TrainState:
    """Train until `epochs` are complete.

    It goes on from the newest checkpoint in `folder / name`, if there is any.

    Every epoch adds a line to `metrics.jsonl` and a checkpoint, before the first one there is
    checkpoint 0. A signal is heard between two calls to the device, and saves the state first.

    Raises:
        UserError: a metric that is no longer finite, of all members; a checkpoint that does not fit
            or is damaged.
        Interrupted: after a signal.
    """
    show_groups(name, group_sizes(state), terminal)
    with open_store(folder / name) as store:
        saved = _take_up(store, _checkpoint(state, training.zeros))
        state = TrainState(
            saved["params"], saved["training"]["opt_state"], saved["training"]["step"]
        )
        step = int(np.min(state.step))
        folders.trim_metrics(folder, name, step // training.steps)
        if step >= epochs * training.steps:
            return state
        if np.any(state.step):
            terminal.line(f"{name}  goes on after step {int(np.max(state.step)):,}")
        with terminal.training(name, epochs) as progress, deferred() as interrupted:
            for moment in training.fit(state, epochs, saved["training"]["sums"], interrupted):
                progress.advance(moment.progress)
                if moment.metrics:
                    progress.epoch(_record(name, moment, folder))
                stop = interrupted() and moment.state is not None
                state = moment.state if moment.state is not None else state
                if moment.metrics or stop:
                    # All steps of all members: it only ever grows.
                    store.save(int(np.sum(state.step)), _checkpoint(state, moment.sums))
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
    """The line of a completed epoch, written to `metrics.jsonl` before the checkpoint.

    With members the figures are means over those that are finite, and `members` has them all.
    """
    metrics = moment.metrics or {}
    means, members = {}, {}
    for name, values in metrics.items():
        finite = np.ravel(values)[np.isfinite(np.ravel(values))]
        if not finite.size:
            raise UserError(
                f"stage {stage} diverged in epoch {moment.epoch}: its {name} is "
                f"{np.ravel(values)[0]}; try a smaller --{stage}.learning-rate"
            )
        means[name] = float(finite.mean()) if np.ndim(values) else float(values)
        if np.ndim(values):
            members[name] = [float(x) if math.isfinite(x) else None for x in values]
    record = {"stage": stage, "epoch": moment.epoch, **means}
    record |= {"members": members} if members else {}
    record["seconds"] = round(moment.seconds, 3)
    folders.append_metrics(folder, record)
    return record
