"""One stage of a run to its end, with progress, metrics, checkpoints and signals."""

import json
from collections.abc import Callable, Iterator, Sequence
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
from twostage_jax.runs.checkpoints import (
    BEST,
    checkpoint_trees,
    keep_better,
    load_or_start,
    start_best,
)
from twostage_jax.runs.clock import Alarm
from twostage_jax.runs.track import OnEpoch, make_record
from twostage_jax.runs.watch import describe_collapse, find_collapsed
from twostage_jax.show.start import show_groups
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import deferred
from twostage_jax.stages.freezing import frozen_groups
from twostage_jax.stages.stage import Key, Params
from twostage_jax.store.checkpoint import Store, open_store
from twostage_jax.store.epochs import (
    VALIDATION_PREFIX,
    CheckpointFacts,
    EpochRecord,
    append_epoch,
    write_epochs,
)
from twostage_jax.trees import PyTree

# Seconds between checkpoints at the ends of epochs: a checkpoint takes longer than a short epoch.
BETWEEN_EPOCHS = 2.0


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
        validation: validation examples of all members, if there are any.
        on_epoch: receives the record of each epoch; True ends the stage with that epoch.
        stop: notes in the manifest that the stage ends with this number of epochs.
        watch: examples for the figures of an encoder, if it is watched.
        features: number of features D of that encoder.
        keep_best: keep the parameters of the best epoch by the probe.
        preview: receives the parameters and the records of the stage after each epoch.
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
    validation: TrialData | None = None
    on_epoch: OnEpoch | None = None
    stop: Callable[[int], None] | None = None
    watch: TrialData | None = None
    features: int = 0
    keep_best: bool = False
    preview: Callable[[Params, Sequence[EpochRecord]], None] | None = None

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
        kept: epoch of each member's parameters, int32 `[M]`; None for the last one.
    """

    params: Params
    records: list[EpochRecord]
    finite: np.ndarray
    kept: np.ndarray | None = None


def train_stage(
    programs: StagePrograms,
    data: TrialData,
    numbers: Numbers,
    keys: Key,
    start: TrainState,
    plan: StagePlan,
) -> StageResult:
    """Train to the end, from `start` or from the newest checkpoint that is intact.

    Each epoch adds a line to `metrics.jsonl`. Checkpoint 0 precedes the first epoch, and the last
    one follows the last epoch; between them, an epoch ends with a checkpoint if the previous one is
    older than two seconds. A checkpoint contains the records of all its epochs, and `metrics.jsonl`
    is rebuilt from them. A signal takes effect between two calls to the device, after the state is
    saved.

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
        Exception: any exception of `plan.on_epoch`, after the state is saved.
    """
    show_groups(plan.name, group_sizes(start), plan.terminal)
    # A clone, because jax's check for reused keys counts reading one as a use.
    key_data = np.asarray(jax.random.key_data(jax.random.clone(keys)))
    with plan.seams.interruptible() as interrupted, open_store(plan.folder / plan.name) as store:
        frozen = frozen_groups(start.opt_state)
        best = start_best(start.params, len(plan.names)) if plan.keep_best else None
        trees = checkpoint_trees(start, programs.zeros, key_data, best)
        loaded = load_or_start(store, trees, plan.facts([]), frozen, plan.terminal.notice)
        training = loaded.trees["training"]
        state = TrainState(loaded.trees["params"], training["opt_state"], training["step"])
        best = loaded.trees.get(BEST)
        session = _Session(plan, store, key_data, list(loaded.facts.records), state, best)
        # A killed process may have added lines without their checkpoint.
        write_epochs(plan.folder, [*plan.before, *session.records])
        if int(state.step.min()) >= plan.epochs * programs.epoch.steps:
            return session.result(state)
        if state.step.any():
            plan.terminal.line(f"{plan.name}  resumes after step {int(state.step.max()):,}")

        def wanted() -> bool:
            return interrupted() or session.within.due

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
                plan.validation,
                plan.watch,
            ):
                bar.advance(progress.fraction)
                # Asked once: a signal after the state was saved waits for the next call.
                stop = interrupted()
                if progress.state is None:
                    continue
                state = progress.state
                record = session.add(progress)
                stop = session.handle(progress, record, stop) or stop
                if record is not None:
                    bar.epoch(record)
                if stop:
                    break  # after a signal, leaving `interruptible` raises `Interrupted`
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
        best: PyTree | None,
    ) -> None:
        self.records = records
        # Arrays of a checkpoint may be read-only.
        self._best = jax.tree.map(np.array, best)
        self.within = Alarm(plan.every)
        self._between = Alarm(min(plan.every, BETWEEN_EPOCHS))
        self._plan = plan
        self._store = store
        self._key_data = key_data
        self._diverged = any_diverged(find_diverged(state, None), len(plan.names))
        # A metric that was not finite leaves no trace in the state.
        for record in records:
            for name, values in record.members.items():
                # The validation loss may overflow although the training loss is finite.
                if not name.startswith(VALIDATION_PREFIX):
                    self._diverged |= np.array([value is None for value in values])

    def result(self, state: TrainState) -> StageResult:
        """Return the result of the stage in this state, or with the parameters that it kept."""
        params = state.params
        kept = None
        if self._best is not None:
            params = self._best["params"]
            kept = self._best["epoch"]
        return StageResult(params, self.records, ~self._diverged, kept)

    def add(self, progress: Progress) -> EpochRecord | None:
        """Check a position; returns the record of an epoch that is complete."""
        self._check_finite(progress)
        if progress.metrics is None:
            return None
        record = make_record(self._plan.name, progress)
        if self._best is not None:
            assert progress.state is not None
            keep_better(self._best, progress.state.params, progress.validation, progress.epoch)
        self._notice_collapse(record)
        self.records.append(record)
        append_epoch(self._plan.folder, record)
        return record

    def _notice_collapse(self, record: EpochRecord) -> None:
        """Print that features have collapsed, once in a stage."""
        features = self._plan.features
        text = describe_collapse(record, features, self._plan.names)
        if text and not any(find_collapsed(before, features) for before in self.records):
            self._plan.terminal.notice(text)

    def handle(self, progress: Progress, record: EpochRecord | None, interrupted: bool) -> bool:
        """Save a position if it is time to, and pass on the record of a completed epoch.

        Returns True if `on_epoch` ends the stage.
        """
        plan = self._plan
        ended = False
        if record is not None and plan.on_epoch is not None:
            try:
                answer = plan.on_epoch(json.loads(record.line))
                # A comparison of NumPy's numbers is no bool of Python.
                ended = isinstance(answer, bool | np.bool_) and bool(answer)
            except BaseException:
                self._save(progress)
                raise
        if record is not None and plan.preview is not None:
            # Before the checkpoint, so that a killed run does not lose the predictions.
            assert progress.state is not None
            plan.preview(progress.state.params, self.records)
        if ended and plan.stop is not None:
            # Before the checkpoint: a process that is killed in between trains this epoch again,
            # and ends the stage with it.
            plan.stop(progress.epoch)
        within = record is None
        last = ended or progress.epoch == plan.epochs
        if within or last or interrupted or self._between.due:
            self._save(progress)
        return ended

    def _save(self, progress: Progress) -> None:
        assert progress.state is not None
        trees = checkpoint_trees(progress.state, progress.sums, self._key_data, self._best)
        # Steps of all members add up to a number that only grows.
        step = int(progress.state.step.sum())
        self._store.save(step, trees, self._plan.facts(self.records))
        self.within.restart()
        self._between.restart()

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
