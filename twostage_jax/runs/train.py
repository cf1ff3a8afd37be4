"""One stage of a run to its end, with progress, metrics, checkpoints and signals."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.data.dataset import Dataset
from twostage_jax.data.sources import load
from twostage_jax.engine.health import any_diverged, describe_diverged, find_diverged
from twostage_jax.engine.loop import Progress, fit, fit_trials
from twostage_jax.engine.members import Numbers, StagePrograms, TrialData
from twostage_jax.engine.state import TrainState, group_sizes
from twostage_jax.errors import UserError
from twostage_jax.runs.clock import Alarm
from twostage_jax.show.start import show_groups
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import deferred
from twostage_jax.stages.freezing import frozen_groups
from twostage_jax.stages.stage import Key, Params
from twostage_jax.store.checkpoint import Loaded, Store, open_store
from twostage_jax.store.records import CheckpointFacts, EpochRecord, append_epoch, write_epochs
from twostage_jax.trees import PyTree


class Seams(NamedTuple):
    """Functions that a test may replace.

    Attributes:
        fit: loop that trains a chunk of members.
        interruptible: context in which a signal is held back; returns a function that tells if one
            has come.
        load: reads the data set that a SPEC names.
    """

    fit: Callable[..., Iterator[Progress]] = fit
    interruptible: Callable[[], AbstractContextManager[Callable[[], bool]]] = deferred
    load: Callable[..., Dataset] = load


SEAMS = Seams()


class StagePlan(NamedTuple):
    """Length of a stage, and the place where its progress is kept and shown.

    Attributes:
        name: `pretrain` or `head`.
        epochs: number of epochs that are complete at the end.
        identity: checksums of the run's config and data; other checkpoints are refused.
        before: records of earlier stages.
        every: seconds after which the state is saved within an epoch.
        folder: folder of the run.
        terminal: where to print.
        names: names of the members.
        seams: functions that a test may replace.
    """

    name: str
    epochs: int
    identity: dict[str, str]
    before: Sequence[EpochRecord]
    every: float
    folder: Path
    terminal: Terminal
    names: Sequence[str]
    seams: Seams = SEAMS

    def facts(self, records: Sequence[EpochRecord]) -> CheckpointFacts:
        """Return the facts that are saved with a checkpoint."""
        return CheckpointFacts(
            **self.identity,
            stage=self.name,
            member_count=len(self.names),
            records=tuple(records),
        )


class StageResult(NamedTuple):
    """Result of a stage.

    Attributes:
        params: parameter groups of all members, on the host.
        records: a record for each epoch.
        finite: bool `[M]`, True for members that have not diverged.
    """

    params: Params
    records: list[EpochRecord]
    finite: np.ndarray


def train_stage(
    programs: StagePrograms,
    data: TrialData,
    numbers: Numbers,
    keys: Key,
    start: TrainState,
    plan: StagePlan,
) -> StageResult:
    """Train to the end, from `start` or from the newest checkpoint that is intact.

    Each epoch adds a line to `metrics.jsonl` and a checkpoint; checkpoint 0 precedes the first. A
    checkpoint contains the records of all its epochs, and `metrics.jsonl` is rebuilt from them. A
    signal takes effect between two calls to the device, after the state is saved.

    Args:
        programs: compiled.
        data: examples of all members.
        numbers: swept numbers, `[M]` each.
        keys: keys of the stage, `[M]`.
        start: initial states of all members.
        plan: length of the stage, folder, terminal.

    Raises:
        UserError: a metric, parameter or moment of all members is no longer finite, or a checkpoint
            belongs to another run.
        Interrupted: after a signal.
    """
    show_groups(plan.name, group_sizes(start), plan.terminal)
    # A clone, because jax's check for reused keys counts reading one as a use.
    key_data = np.asarray(jax.random.key_data(jax.random.clone(keys)))
    with plan.seams.interruptible() as interrupted, open_store(plan.folder / plan.name) as store:
        frozen = frozen_groups(start.opt_state)
        loaded = _resume(store, _trees(start, programs.zeros, key_data), plan, frozen)
        training = loaded.trees["training"]
        state = TrainState(loaded.trees["params"], training["opt_state"], training["step"])
        session = _Session(plan, store, key_data, list(loaded.facts.records), state)
        # A killed process may have added a line without its checkpoint.
        write_epochs(plan.folder, [*plan.before, *session.records])
        if int(state.step.min()) >= plan.epochs * programs.epoch.steps:
            return session.result(state)
        if state.step.any():
            plan.terminal.line(f"{plan.name}  resumes after step {int(state.step.max()):,}")

        def wanted() -> bool:
            return interrupted() or session.alarm.due

        with plan.terminal.progress(plan.name, plan.epochs) as bar:
            for progress in fit_trials(
                programs,
                state,
                data,
                numbers,
                keys,
                plan.epochs,
                training["sums"],
                wanted,
                plan.seams.fit,
            ):
                bar.advance(progress.fraction)
                # Asked once: a signal after the state was saved waits for the next call.
                stop = interrupted()
                if progress.state is None:
                    continue
                state = progress.state
                record = session.save(progress)
                if record is not None:
                    bar.epoch(record)
                if stop:
                    break  # leaving `interruptible` raises `Interrupted`
        return session.result(state)


class _Session:
    """Records, checkpoints and diverged members of a stage that trains."""

    def __init__(
        self,
        plan: StagePlan,
        store: Store,
        key_data: np.ndarray,
        records: list[EpochRecord],
        state: TrainState,
    ) -> None:
        self.records = records
        self.alarm = Alarm(plan.every)
        self._plan = plan
        self._store = store
        self._key_data = key_data
        self._diverged = any_diverged(find_diverged(state, None), len(plan.names))
        # A metric that was not finite leaves no trace in the state.
        for record in records:
            for values in record.members.values():
                self._diverged |= np.array([value is None for value in values])

    def result(self, state: TrainState) -> StageResult:
        """Return the result of the stage in this state."""
        return StageResult(state.params, self.records, ~self._diverged)

    def save(self, progress: Progress) -> EpochRecord | None:
        """Check and save a position; returns the record of an epoch that is complete."""
        assert progress.state is not None
        self._check_finite(progress)
        record = None
        if progress.metrics is not None:
            record = _record(self._plan.name, progress)
            self.records.append(record)
            append_epoch(self._plan.folder, record)
        trees = _trees(progress.state, progress.sums, self._key_data)
        # Steps of all members add up to a number that only grows.
        step = int(progress.state.step.sum())
        self._store.save(step, trees, self._plan.facts(self.records))
        self.alarm.restart()
        return record

    def _check_finite(self, progress: Progress) -> None:
        """Print the members that have just diverged.

        Raises:
            UserError: if all members have diverged.
        """
        assert progress.state is not None
        stage = self._plan.name
        masks = find_diverged(progress.state, progress.metrics)
        before = self._diverged
        self._diverged = before | any_diverged(masks, len(before))
        epoch = progress.epoch + (0 if progress.metrics else 1)
        if self._diverged.all():
            self._store.wait()
            steps = self._store.steps
            last = f"; {self._store.path(steps[-1])} is the last finite checkpoint" if steps else ""
            raise UserError(
                f"stage {stage} diverged in epoch {epoch}: {describe_diverged(masks)}{last}; try a "
                f"smaller --{stage}.learning-rate"
            )
        for member in np.flatnonzero(self._diverged & ~before):
            reasons = {name: mask[[member]] for name, mask in masks.items() if mask[member]}
            self._plan.terminal.notice(
                f"{self._plan.names[int(member)]} diverged in epoch {epoch} of stage {stage}: "
                f"{describe_diverged(reasons)}"
            )


def _resume(
    store: Store, start: dict[str, PyTree], plan: StagePlan, frozen: Sequence[str]
) -> Loaded:
    """Return the newest intact checkpoint; without one, `start`, saved as checkpoint 0.

    Raises:
        UserError: if the checkpoint belongs to another run.
    """
    existing = bool(store.steps)
    loaded = store.load_newest(start, plan.terminal.notice)
    facts = plan.facts([])
    if loaded is None:
        if existing:
            plan.terminal.notice(f"stage {plan.name} restarts: no checkpoint is intact")
        store.save(0, start, facts)
        return Loaded(0, start, facts)
    check_identity(store.path(loaded.step), loaded.facts, facts)
    if not np.array_equal(loaded.trees["training"]["key"], start["training"]["key"]):
        raise UserError(_other_run(store.path(loaded.step), "another key"))
    params = loaded.trees["params"]
    if not all(is_equal(params[name], start["params"][name]) for name in frozen):
        # Stage 1 was trained again where its bits differ, after its checkpoint was lost.
        plan.terminal.notice(f"stage {plan.name} restarts: its encoder has changed since")
        for step in store.steps:
            store.retire(step)
        store.save(0, start, facts)
        return Loaded(0, start, facts)
    return loaded


def is_equal(tree: PyTree, other: PyTree) -> bool:
    """Return True if two trees of arrays are equal."""
    return all(map(np.array_equal, jax.tree.leaves(tree), jax.tree.leaves(other)))


def check_identity(path: Path, stored: CheckpointFacts, expected: CheckpointFacts) -> None:
    """Raise `UserError` if a checkpoint belongs to a run with another config or other data."""
    names = ("config", "data", "stage", "member_count")
    other = [
        name.replace("_", " ") for name in names if getattr(stored, name) != getattr(expected, name)
    ]
    if other:
        raise UserError(_other_run(path, f"another {' and '.join(other)}"))


def _other_run(path: Path, difference: str) -> str:
    return f"the checkpoint {path} has {difference}: start a new run in a new --out"


def _trees(
    state: TrainState, sums: Mapping[str, np.ndarray], key_data: np.ndarray
) -> dict[str, PyTree]:
    """Return the trees of a checkpoint."""
    training = {
        "opt_state": state.opt_state,
        "step": state.step,
        "sums": dict(sums),
        "key": key_data,
    }
    return {"params": state.params, "training": training}


def _record(stage: str, progress: Progress) -> EpochRecord:
    """Return the record of a completed epoch; figures are means over the finite members."""
    means = {}
    members = {}
    for name, values in (progress.metrics or {}).items():
        finite = values[np.isfinite(values)]
        means[name] = float(finite.mean()) if finite.size else None
        # The figures of a single member are the means.
        if len(values) > 1:
            members[name] = [float(x) if math.isfinite(x) else None for x in values]
    loss = means.pop("loss")
    seconds = round(progress.seconds, 3)
    return EpochRecord(stage, progress.epoch, loss, seconds, means, members)
