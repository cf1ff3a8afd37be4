"""One stage of a run: its programs, and its way to the end with progress, metrics, checkpoints."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from twostage_jax.engine.compile import options_for_once
from twostage_jax.engine.epoch import Epoch, make_epoch
from twostage_jax.engine.health import any_of, find_broken, words
from twostage_jax.engine.loop import Moment, fit, lower_epoch
from twostage_jax.engine.members import Members, fit_members, zero_sums
from twostage_jax.engine.state import TrainState, group_sizes, make_init
from twostage_jax.errors import UserError
from twostage_jax.show.tables import show_groups
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import deferred
from twostage_jax.stages.stage import Key, Params, Stage
from twostage_jax.store import layout as folders
from twostage_jax.store.checkpoint import Store, open_store


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
        key: of the stage, as uint32; `[M, ...]` with members.
        names: of the members; None for one training alone.
        fit: `(state, epochs, sums, wanted) -> moments`, as `engine.fit` and
            `chunks.fit_members` yield them.
    """

    steps: int
    zeros: Mapping[str, Any]
    key: Any
    names: Sequence[str] | None
    fit: Callable[..., Iterator[Moment]]

    @property
    def count(self) -> int | None:
        """Number of members."""
        return None if self.names is None else len(self.names)


def alone(programs: Programs, data: Mapping[str, jax.Array], key: Key) -> Training:
    """One training."""

    def fit_alone(state: TrainState, epochs: int, sums: Any, wanted: Any) -> Iterator[Moment]:
        return fit(programs.epoch, state, data, key, epochs, sums)

    data_of_key = jax.random.key_data(jax.random.clone(key))
    return Training(programs.epoch.steps, programs.epoch.zeros, data_of_key, None, fit_alone)


def together(
    members: Members,
    data: Callable[[np.ndarray], Any],
    hyper: Mapping[str, Any],
    keys: Key,
    names: Sequence[str],
) -> Training:
    """Many members; `data` gives the split for a piece of them."""

    def fit_together(state: TrainState, epochs: int, sums: Any, wanted: Any) -> Iterator[Moment]:
        return fit_members(members, state, data, hyper, keys, epochs, sums, wanted)

    data_of_keys = jax.random.key_data(keys)
    return Training(members.epoch.steps, zero_sums(members), data_of_keys, names, fit_together)


class Trained(NamedTuple):
    """What a stage ends with.

    Attributes:
        params: parameter groups, `[M, ...]` with members.
        records: a record for each epoch, as `metrics.jsonl` has them.
        finite: bool `[M]`, which of the members have not diverged; `[1]` alone.
    """

    params: Params
    records: list[dict[str, Any]]
    finite: np.ndarray


class Course(NamedTuple):
    """How far a stage is trained, and where that is kept and shown.

    Attributes:
        name: of the stage.
        epochs: how many shall be complete in the end.
        identity: of the run; a checkpoint of another one is refused.
        before: records of earlier stages.
        every: seconds after which the state is saved in the middle of an epoch.
        folder: of the run.
        terminal: where to print.
    """

    name: str
    epochs: int
    identity: Mapping[str, Any]
    before: Sequence[Mapping[str, Any]]
    every: float
    folder: Path
    terminal: Terminal

    @property
    def facts(self) -> dict[str, Any]:
        """What every checkpoint says it belongs to."""
        return {**self.identity, "stage": self.name}


def train_stage(training: Training, state: TrainState, course: Course) -> Trained:
    """Train to the end, from `state` or the newest whole checkpoint of the stage.

    Every epoch adds a line to `metrics.jsonl` and a checkpoint, before the first one there is
    checkpoint 0. A checkpoint has the records of all its epochs, and what `metrics.jsonl` says is
    made from them. A signal is heard between two calls to the device, and saves the state first.

    Raises:
        UserError: a loss, parameter or moment that is no longer finite, of all members; a
            checkpoint that does not fit.
        Interrupted: after a signal.
    """
    name, terminal = course.name, course.terminal
    show_groups(name, group_sizes(state), terminal)
    with deferred() as interrupted, open_store(course.folder / name) as store:
        start = _checkpoint(state, training.zeros, training.key)
        saved, records = _take_up(store, start, course)
        folders.write_metrics(course.folder, [*course.before, *records])
        kept = saved["training"]
        state = TrainState(saved["params"], kept["opt_state"], kept["step"])
        found = find_broken(jax.device_get(state), None, training.count)
        broken, clock = any_of(found, training.count), _Clock(course.every)
        if int(np.min(state.step)) >= course.epochs * training.steps:
            return Trained(state.params, records, ~broken)
        if np.any(state.step):
            terminal.line(f"{name}  goes on after step {int(np.max(state.step)):,}")
        with terminal.training(name, course.epochs) as progress:
            wanted = lambda: interrupted() or clock.due  # noqa: E731
            for moment in training.fit(state, course.epochs, kept["sums"], wanted):
                progress.advance(moment.progress)
                if moment.state is None or not (moment.metrics or wanted()):
                    continue
                stop, state = interrupted(), moment.state
                # Once from the device, for the check and for the disk.
                moment = moment._replace(state=jax.device_get(state))
                broken = _check(training, moment, broken, store, course)
                if moment.metrics:
                    records.append(_record(name, moment))
                    folders.append_metrics(course.folder, records[-1])
                    progress.epoch(records[-1])
                # All steps of all members: it only ever grows.
                trees = _checkpoint(moment.state, moment.sums, training.key)
                store.save(
                    int(np.sum(moment.state.step)), trees, {**course.facts, "records": records}
                )
                clock.start()
                if stop:
                    break  # leaving `deferred` raises
    return Trained(state.params, records, ~broken)


class _Clock:
    """Says when the state is to be saved again; a clock of the wall could jump."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.start()

    def start(self) -> None:
        """Begin to count again."""
        self._end = time.monotonic() + self._seconds

    @property
    def due(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._end


def _take_up(
    store: Store, start: dict[str, Any], course: Course
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The newest checkpoint that is whole, or `start`, saved as number 0; and its records."""
    some, facts = bool(store.steps), course.facts
    members = np.shape(start["training"]["step"])
    known = lambda facts: _are_records(facts.get("records"), members)  # noqa: E731
    loaded = store.load_newest(start, course.terminal.notice, known)
    if loaded is None:
        if some:
            course.terminal.notice(f"stage {course.name} starts again: no checkpoint is whole")
        store.save(0, start, {**facts, "records": []})
        return start, []
    other = [name for name in facts if loaded.facts.get(name) != facts[name]]
    if not np.array_equal(loaded.trees["training"]["key"], start["training"]["key"]):
        other.append("key")
    if other:
        raise UserError(
            f"the checkpoint {store.path(loaded.step)} is of another {' and '.join(other)}: start "
            "a new run in a new --out"
        )
    return loaded.trees, list(loaded.facts["records"])


def _are_records(records: Any, members: tuple[int, ...]) -> bool:
    """Whether records of the first epochs are such as `_record` makes; `members` is `()` or `(M,)`.

    Seals find accidents; a stranger can seal anything.
    """

    def figure(x: Any) -> bool:
        finite = type(x) is float and math.isfinite(x)
        return x is None or finite or (type(x) is int and abs(x) < 2**63)

    def figures(each: Any) -> bool:
        return isinstance(each, list) and (len(each),) == members and all(map(figure, each))

    def is_record(record: Any, epoch: int) -> bool:
        if not isinstance(record, dict) or not {"stage", "loss", "seconds"} <= record.keys():
            return False
        own = record.get("members", {})
        rest = [record[name] for name in record if name not in ("stage", "members")]
        return (
            record.get("epoch") == epoch
            and isinstance(record["stage"], str)
            and all(map(figure, rest))
            and isinstance(own, dict)
            and all(map(figures, own.values()))
        )

    return isinstance(records, list) and all(map(is_record, records, range(1, len(records) + 1)))


def _checkpoint(state: TrainState, sums: Mapping[str, Any], key: Any) -> dict[str, Any]:
    training = {"opt_state": state.opt_state, "step": state.step, "sums": sums, "key": key}
    return {"params": state.params, "training": training}


def _check(
    training: Training, moment: Moment, before: np.ndarray, store: Store, course: Course
) -> np.ndarray:
    """Which members have diverged, bool `[M]`; says which have just done so.

    Raises:
        UserError: if none is left.
    """
    stage = course.name
    found = find_broken(moment.state, moment.metrics, training.count)
    broken = before | any_of(found, training.count)
    epoch = moment.epoch + (0 if moment.metrics else 1)
    if broken.all():
        store.wait()
        whole = store.steps
        last = f"; {store.path(whole[-1])} is the last that was finite" if whole else ""
        raise UserError(
            f"stage {stage} diverged in epoch {epoch}: {words(found)}{last}; try a smaller "
            f"--{stage}.learning-rate"
        )
    for member in np.flatnonzero(broken & ~before):
        own = {what: each[[member]] for what, each in found.items() if each[member]}
        name = (training.names or [""])[int(member)]
        course.terminal.notice(f"{name} diverged in epoch {epoch} of stage {stage}: {words(own)}")
    return broken


def _record(stage: str, moment: Moment) -> dict[str, Any]:
    """The record of a completed epoch.

    With members the figures are means over those that are finite, and `members` has them all.
    """
    means, members = {}, {}
    for name, values in (moment.metrics or {}).items():
        finite = np.ravel(values)[np.isfinite(np.ravel(values))]
        means[name] = float(finite.mean()) if finite.size else None
        if np.ndim(values):
            members[name] = [float(x) if math.isfinite(x) else None for x in values]
    record = {"stage": stage, "epoch": moment.epoch, **means}
    record |= {"members": members} if members else {}
    return record | {"seconds": round(moment.seconds, 3)}
