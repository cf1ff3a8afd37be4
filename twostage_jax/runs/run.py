"""Both stages from top to bottom: data, stage 1, hand-over, stage 2, evaluation.

Every step stores its result in the folder of the run. A resumed run takes the same steps as a new
one: each step reuses verified results and does the rest.
"""

import contextlib
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from twostage_jax.config.fields import check_above_zero
from twostage_jax.config.layers import imported_names
from twostage_jax.config.rules import check
from twostage_jax.config.schema import Config
from twostage_jax.data.dataset import Lockbox
from twostage_jax.data.marks import csv_bytes
from twostage_jax.engine.device import find_device
from twostage_jax.errors import UserError, shown
from twostage_jax.runs.announce import announce
from twostage_jax.runs.clock import Clock, with_earlier
from twostage_jax.runs.complete import complete_result
from twostage_jax.runs.finish import Trained, finish_run
from twostage_jax.runs.handover import (
    FROZEN,
    encoder_digest,
    frozen_encoder,
    head_groups,
    pretrain_groups,
)
from twostage_jax.runs.manifest import make_manifest, open_folder
from twostage_jax.runs.outputs import draw_pretrained, draw_run
from twostage_jax.runs.plan import Plan
from twostage_jax.runs.prepare import Request, prepare, resolve_request
from twostage_jax.runs.programs import compile_run, place_stages
from twostage_jax.runs.result import Result
from twostage_jax.runs.resume import resumed_folder
from twostage_jax.runs.steps import RunContext, pretrain, train_head
from twostage_jax.runs.track import OnEpoch, call_both, load_writer, open_board
from twostage_jax.runs.train import SEAMS, Seams, StageResult
from twostage_jax.runs.watch import pretrain_record
from twostage_jax.show.result import show_result
from twostage_jax.show.start import show_stage_1
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import resumable
from twostage_jax.stages.stage import Params
from twostage_jax.store.atomic import write_bytes
from twostage_jax.store.checksums import write_files
from twostage_jax.store.decoding import encode
from twostage_jax.store.epochs import EpochRecord, epochs_bytes
from twostage_jax.store.layout import (
    BROKEN,
    CONFIG,
    DUPLICATES,
    MANIFEST,
    METRICS,
    RESULT,
    check_free,
    clean,
    create_folder,
)
from twostage_jax.store.lock import locked
from twostage_jax.store.records import (
    FrozenRecord,
    Manifest,
    PretrainRecord,
    describe_groups,
    json_bytes,
    manifest_bytes,
    read_manifest,
    repeatable_config,
    write_manifest,
)

COMPILING = "compiling (large networks take a minute or two)"


def run(
    config: Config,
    *,
    resume: bool = False,
    pretrain_only: bool = False,
    trust_code: bool = False,
    allow_changed: bool = False,
    checkpoint_every: float = 5.0,
    terminal: Terminal | None = None,
    clock: Clock | None = None,
    on_epoch: OnEpoch | None = None,
    tensorboard: bool = False,
    seams: Seams = SEAMS,
    device: str | None = None,
) -> Result:
    """Run both stages and the evaluation, as `twostage run` does.

    Args:
        config: what to run; values that are not given come from the preset.
        resume: resume the run in `config.out`.
        pretrain_only: stop after stage 1, as `twostage pretrain` does.
        trust_code: allow the import of code that the config of an earlier run names.
        allow_changed: resume with other versions or settings of JAX, or with more epochs.
        checkpoint_every: minutes after which the state is saved within an epoch.
        terminal: where to print; `Terminal(quiet=True)` prints nothing.
        clock: seconds of each phase; by default a new one.
        on_epoch: called after each epoch with its record, the dict that is a line of
            `metrics.jsonl`. If it returns True, the stage ends with that epoch. An exception in it
            ends the run after its state is saved.
        tensorboard: write scalars and pictures into the folder `tensorboard` of the run.
        seams: functions that a test may replace.
        device: `cpu`, `gpu` or `tpu`, without a fallback; by default jax chooses the device.

    Raises:
        UserError: a device that is not there; an error in the config or the data, before anything
            is written; a run in use or started with other settings; a full disk; a loss or
            parameters that are not finite.

    >>> import twostage_jax as ts
    >>> from twostage_jax.show.terminal import Terminal
    >>> config = ts.Config(pretrain={"epochs": 1}, head={"protocol": "ridge"})
    >>> result = ts.run(config, terminal=Terminal(quiet=True))
    >>> result.record["test"]["accuracy"] > 0.5
    True
    """
    check(config)
    if on_epoch is not None and not callable(on_epoch):
        raise UserError(f"on_epoch is {shown(on_epoch)}: give a function of one record")
    check_above_zero("--checkpoint-every", checkpoint_every)
    if tensorboard:
        load_writer()  # before anything is written, because the package may be missing
    terminal = terminal or Terminal()
    clock = clock or Clock()
    request = Request(resume, pretrain_only, trust_code, allow_changed, device, tensorboard)
    # The device comes first, so that no later error hides that it does not start.
    machine = find_device(device)
    command = _resume_command(config, request)
    with contextlib.ExitStack() as stack:
        if resume:
            # Before anything is read: another process may be writing it.
            _claim(stack, resumed_folder(config), command, terminal)
        config = resolve_request(config, request)
        if resume:
            complete = complete_result(config, trust_code, terminal)
            if complete is not None:
                return complete
        # Everything that can be wrong with a request shows here, before a folder is created.
        plan, lockbox = prepare(config, request, terminal, clock, seams.load)
        placed = place_stages(plan)
        folder = create_folder(plan.config.out, plan.dataset.name)
        if not resume:
            _claim(stack, folder, command, terminal)
            check_free(folder)
        manifest = open_folder(folder, make_manifest(plan, placed), terminal)
        if plan.dataset.broken:
            rows = csv_bytes(("path", "reason"), plan.dataset.broken)
            write_bytes(folder / BROKEN, rows)
        announce(plan, placed, folder, machine, terminal)
        with terminal.status(COMPILING), clock.phase("compile"):
            programs = compile_run(plan, placed)
        every = 60 * checkpoint_every
        board = stack.enter_context(open_board(folder if tensorboard else None))
        context = RunContext(
            plan=plan,
            programs=programs,
            folder=folder,
            terminal=terminal,
            clock=clock,
            every=every,
            seams=seams,
            stopped=manifest.stopped,
            on_epoch=call_both(board, on_epoch),
            board=board,
        )
        result = _run_stages(context, manifest, lockbox)
        if board:
            board.add_pictures()
        return result


def _resume_command(config: Config, request: Request) -> list[str]:
    """Return the command that resumes a run; the folder comes after it."""
    words = ["twostage", "pretrain" if request.pretrain_only else "run", "--resume"]
    if request.trust_code or imported_names(config):
        words.append("--trust-code")
    if request.device is not None:
        words += ["--device", request.device]
    if request.tensorboard:
        words.append("--tensorboard")
    return [*words, "--out"]


def _claim(
    stack: contextlib.ExitStack, folder: Path, command: list[str], terminal: Terminal
) -> None:
    """Lock a run's folder for this process, tidy it, and note how the run is resumed."""
    stack.enter_context(locked(folder, terminal.notice))
    clean(folder)
    stack.enter_context(resumable(shlex.join([*command, str(folder)])))


def _run_stages(context: RunContext, manifest: Manifest, lockbox: Lockbox) -> Result:
    """Train what is left to train, and finish the run."""
    plan = context.plan
    folder = context.folder
    pretrained = plan.pretrained
    records: dict[str, Sequence[EpochRecord]] = {"pretrain": []}
    finite = np.ones(len(plan.trials.encoders), bool)
    if pretrained is None:
        first = pretrain(context)
        pretrained = first.params
        records["pretrain"] = first.records
        finite = first.finite
        # A stage that has ended early is noted there.
        stopped = read_manifest(folder).stopped
        manifest = dataclasses.replace(_with_pretrain(manifest, plan, first), stopped=stopped)
        write_manifest(folder, manifest)
    if "head" not in plan.stages:
        # Stage 1 alone: there are no predictions to score.
        return _finish_stage_1(context, manifest, pretrained, records["pretrain"])
    encoder = frozen_encoder(pretrained, plan.trials)
    before = encoder_digest(manifest, encoder, plan.trials)
    second = train_head(context, pretrained, encoder, records["pretrain"])
    records["head"] = second.records
    after = describe_groups(head_groups(second.params, plan.trials))
    frozen = _frozen_record(plan, before, after[FROZEN].sha256)
    trained = Trained(
        params=second.params,
        pretrained=pretrained,
        finite=finite[plan.trials.encoder_numbers] & second.finite,
        pretrain=_pretrain_record(manifest),
        frozen=frozen,
        records=records,
    )
    # The count is on disk before the test split is read. A run that is resumed here measures the
    # same again, which is no further look at it.
    manifest = dataclasses.replace(
        manifest,
        test_reads=max(1, manifest.test_reads),
        stopped=read_manifest(folder).stopped,
    )
    write_manifest(folder, manifest)
    with context.terminal.status("evaluating"), context.clock.phase("evaluate"):
        finished = finish_run(plan, context.programs, trained, lockbox, manifest.test_reads)
    groups = {**manifest.groups, **after}
    manifest = dataclasses.replace(manifest, groups=groups, frozen=frozen)
    seconds = with_earlier(context.clock.seconds, [*records["pretrain"], *records["head"]])
    record = dataclasses.replace(finished.record, seconds=seconds)
    if DUPLICATES in finished.files:
        # Before the accuracy is printed; the page reads it, too.
        write_bytes(folder / DUPLICATES, finished.files[DUPLICATES])
    show_result(record, folder, plan.dataset.classes, context.terminal)
    with context.terminal.status("drawing"):
        drawn = draw_run(context, manifest, trained, finished, record)
    files = {
        **finished.files,
        **drawn,
        METRICS: epochs_bytes([*records["pretrain"], *records["head"]]),
        CONFIG: json_bytes(repeatable_config(manifest)),
        MANIFEST: manifest_bytes(manifest),
        RESULT: json_bytes(encode(record)),
    }
    write_files(folder, files)
    return Result(folder, encode(record), finished.params)


def _finish_stage_1(
    context: RunContext,
    manifest: Manifest,
    pretrained: Params,
    records: Sequence[EpochRecord],
) -> Result:
    """Draw the pictures of a run of stage 1 alone, and show where its encoder is."""
    plan = context.plan
    files = draw_pretrained(context, manifest, pretrained, records)
    for name, content in files.items():
        write_bytes(context.folder / name, content)
    show_stage_1(
        context.folder,
        manifest.groups[FROZEN].sha256,
        _pretrain_record(manifest),
        bool(plan.dataset.classes),
        context.terminal,
    )
    return Result(context.folder, {}, pretrain_groups(pretrained, plan.trials))


def _frozen_record(plan: Plan, before: str, after: str) -> FrozenRecord:
    """Return the digests of the encoder around stage 2; a frozen encoder must not have changed."""
    names = [] if plan.networks.tunes_encoder else [FROZEN]
    frozen = FrozenRecord(names, before, after, before == after)
    if names and not frozen.unchanged:
        # Not an error of the user: the optimiser must have moved a frozen group.
        raise RuntimeError(f"the frozen encoder changed in stage 2: {frozen}")
    return frozen


def _with_pretrain(manifest: Manifest, plan: Plan, first: StageResult) -> Manifest:
    """Return the manifest with the groups and the outcome of stage 1."""
    kept = None if first.kept is None else first.kept.tolist()
    return dataclasses.replace(
        manifest,
        groups=describe_groups(pretrain_groups(first.params, plan.trials)),
        pretrain=dataclasses.replace(
            pretrain_record(plan.config, first.records, kept, plan.feature_count),
            labels=plan.labels_read,
            augmentation=manifest.augmentation,
        ),
    )


def _pretrain_record(manifest: Manifest) -> PretrainRecord:
    assert manifest.pretrain is not None, "stage 2 follows stage 1"
    return manifest.pretrain
