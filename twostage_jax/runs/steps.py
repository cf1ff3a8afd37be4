"""The steps of a run: stage 1, features, stage 2."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostage_jax.engine.members import (
    StagePrograms,
    TrialData,
    finished_params,
    start_states,
)
from twostage_jax.engine.passes import apply_pass
from twostage_jax.engine.solve import SolvePrograms
from twostage_jax.runs.clock import Clock
from twostage_jax.runs.examples import (
    head_data,
    pretrain_data,
    solve_data,
    validation_data,
    with_index,
)
from twostage_jax.runs.handover import FROZEN, stacked_shapes
from twostage_jax.runs.plan import Plan, few_examples
from twostage_jax.runs.prepared import compile_solve, encoded_images, prepare_head
from twostage_jax.runs.preview import Preview, make_preview
from twostage_jax.runs.programs import RunPrograms
from twostage_jax.runs.resume import run_identity
from twostage_jax.runs.solve import solve_stage
from twostage_jax.runs.track import OnEpoch, TensorBoard
from twostage_jax.runs.train import Seams, StagePlan, StageResult, train_stage
from twostage_jax.runs.trials import INITIAL, TRAINING
from twostage_jax.runs.watch import watch_data
from twostage_jax.show.terminal import Terminal
from twostage_jax.stages.stage import Params
from twostage_jax.store.atomic import write_bytes
from twostage_jax.store.epochs import EpochRecord
from twostage_jax.store.layout import CONFIG
from twostage_jax.store.records import json_bytes, read_manifest, repeatable_config, write_manifest
from twostage_jax.trees import PyTree


class RunContext(NamedTuple):
    """Everything that the steps of one run share.

    Attributes:
        plan: the run.
        programs: compiled.
        folder: folder of the run.
        terminal: where to print.
        clock: seconds of each phase.
        every: seconds after which the state is saved within an epoch.
        seams: functions that a test may replace.
        stopped: epochs of the stages that an earlier process has ended.
        on_epoch: receives the record of each epoch; True ends the stage with that epoch.
    """

    plan: Plan
    programs: RunPrograms
    folder: Path
    terminal: Terminal
    clock: Clock
    every: float
    seams: Seams
    stopped: Mapping[str, int] = {}
    on_epoch: OnEpoch | None = None
    board: TensorBoard | None = None


def pretrain(context: RunContext) -> StageResult:
    """Train stage 1."""
    programs = context.programs.pretrain
    assert programs is not None
    plan = context.plan
    data = with_index(pretrain_data(plan.examples), plan.networks.needs_index("pretrain"))
    validation = validation_data(plan.examples, None, plan.trials)
    watch = watch_data(plan.examples, plan.trials) if programs.watch else None
    with context.clock.phase("pretrain"):
        return _train(context, "pretrain", programs, data, validation, {}, [], watch)


def train_head(
    context: RunContext,
    pretrained: Params,
    encoder: PyTree,
    before: Sequence[EpochRecord],
) -> StageResult:
    """Train or solve stage 2 on the frozen encoder."""
    plan = context.plan
    programs = context.programs.head
    dataset = plan.dataset
    encoded = _features(context, pretrained, encoded_images(plan))
    features = encoded
    if plan.networks.prepared:
        assert encoded is not None, "a solved head needs features"
        features = encoded[:, plan.examples.used]
    data = head_data(plan.examples, features, plan.trials)
    frozen = {FROZEN: encoder}
    on_validation = _features(context, pretrained, dataset.validation["image"])
    if isinstance(programs, StagePrograms):
        validation = validation_data(plan.examples, on_validation, plan.trials)
        data = with_index(data, plan.networks.needs_index("head"))
        preview = make_preview(plan, context.folder, on_validation, before, context.board)
        with context.clock.phase("head"):
            return _train(
                context, "head", programs, data, validation, frozen, before, preview=preview
            )
    assert on_validation is not None
    label = dataset.validation["label"]
    data = solve_data(plan.examples, data, on_validation, label, plan.trials)
    expected = None
    if plan.networks.prepared:
        assert encoded is not None and context.programs.placement is not None
        with context.terminal.status("preparing the head"), context.clock.phase("head"):
            prepared = prepare_head(plan, encoded)
        data = data | prepared.data
        with context.terminal.status("compiling"), context.clock.phase("compile"):
            programs = compile_solve(plan, data, context.programs.placement)
        frozen |= prepared.frozen
        expected = prepared.shapes
    assert isinstance(programs, SolvePrograms)
    keys = plan.trials.keys("head", INITIAL)
    with context.clock.phase("head"), context.terminal.status("solving"):
        return solve_stage(
            programs,
            data,
            plan.head_numbers,
            keys,
            frozen,
            stacked_shapes(expected or plan.head_shapes, plan.trials),
            _stage_plan(context, "head", before),
        )


def _features(context: RunContext, pretrained: Params, images: np.ndarray) -> np.ndarray | None:
    """Return features `[E, N, D]` of images from each encoder; None if they are not cached."""
    if context.programs.encode is None:
        return None
    with context.terminal.status("encoding"), context.clock.phase("encode"):
        return apply_pass(context.programs.encode, pretrained[FROZEN], images)


def _train(
    context: RunContext,
    stage: str,
    programs: StagePrograms,
    data: TrialData,
    validation: TrialData | None,
    pretrained: Params,
    before: Sequence[EpochRecord],
    watch: TrialData | None = None,
    preview: Preview | None = None,
) -> StageResult:
    """Initialise and train a stage, with the keys that belong to its name."""
    plan = context.plan
    numbers = plan.numbers(stage)
    batch = few_examples(plan.dataset)
    # Always computed, even if a checkpoint replaces it: the checkpoint is checked against it.
    start = start_states(programs, numbers, plan.trials.keys(stage, INITIAL), batch, pretrained)
    # An encoder without an epoch of training is also evaluated with statistics of the images.
    start = start._replace(params=finished_params(programs, numbers, start.params, data))
    keys = plan.trials.keys(stage, TRAINING)
    stage_plan = _stage_plan(context, stage, before)._replace(
        validation=validation,
        watch=watch,
        features=plan.feature_count,
        keep_best=stage == "pretrain" and plan.config.pretrain.select == "probe",
        preview=preview,
    )
    return train_stage(programs, data, numbers, keys, start, stage_plan)


def _stage_plan(context: RunContext, stage: str, before: Sequence[EpochRecord]) -> StagePlan:
    plan = context.plan
    epochs = getattr(plan.config, stage).epochs or 0  # a solved head has none
    return StagePlan(
        name=stage,
        epochs=context.stopped.get(stage, epochs),
        identity=run_identity(plan.config, plan.dataset.fingerprint),
        before=before,
        every=context.every,
        folder=context.folder,
        terminal=context.terminal,
        names=plan.trials.names(stage),
        seams=context.seams,
        on_epoch=context.on_epoch,
        stop=partial(_note_stop, context.folder, stage),
    )


def _note_stop(folder: Path, stage: str, epochs: int) -> None:
    """Record in the manifest and in `config.json` that a stage has ended after some epochs."""
    manifest = read_manifest(folder)
    manifest = dataclasses.replace(manifest, stopped={**manifest.stopped, stage: epochs})
    write_manifest(folder, manifest)
    write_bytes(folder / CONFIG, json_bytes(repeatable_config(manifest)))
