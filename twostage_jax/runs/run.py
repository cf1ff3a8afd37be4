"""The two-stage story from top to bottom: data, stage 1, hand-over, stage 2, evaluation.

Every step leaves its trace in the folder of the run. A resumed run takes the same way as a new one:
each step uses what is done and intact, and continues from there.
"""

import contextlib
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.config.layers import imported_names
from twostage_jax.config.rules import check
from twostage_jax.config.schema import Config
from twostage_jax.config.values import check_above_zero
from twostage_jax.data.dataset import Lockbox
from twostage_jax.engine.members import StagePrograms, start_states
from twostage_jax.engine.passes import apply_pass
from twostage_jax.engine.solve import SolvePrograms
from twostage_jax.errors import Corrupted, UserError
from twostage_jax.runs.build import head_shapes
from twostage_jax.runs.clock import Clock
from twostage_jax.runs.examples import head_data, pretrain_data, solve_data
from twostage_jax.runs.finish import PREDICTIONS, SWEEP_PLOT, Trained, finish_run
from twostage_jax.runs.handover import (
    FROZEN,
    encoder_digest,
    frozen_encoder,
    head_groups,
    pretrain_groups,
    stacked_shapes,
)
from twostage_jax.runs.open import open_run
from twostage_jax.runs.prepare import Request, make_manifest, open_folder, prepare, resolve_request
from twostage_jax.runs.programs import (
    Placed,
    Plan,
    RunPrograms,
    compile_run,
    few_examples,
    place_stages,
)
from twostage_jax.runs.resume import resumed_folder, run_identity
from twostage_jax.runs.train import SEAMS, Seams, StagePlan, StageResult, solve_stage, train_stage
from twostage_jax.runs.trials import INITIAL, TRAINING
from twostage_jax.show.tables import PlanRow, show_data, show_plan, show_result, show_settings
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import resumable
from twostage_jax.stages.stage import Params
from twostage_jax.store.checkpoint import Store
from twostage_jax.store.checksums import corrupted_outputs, write_files
from twostage_jax.store.decoding import encode
from twostage_jax.store.epochs import EpochRecord, epochs_bytes, last_loss
from twostage_jax.store.layout import (
    CONFIG,
    MANIFEST,
    METRICS,
    RESULT,
    check_free,
    clean,
    create_folder,
    remove_output,
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
    write_manifest,
)
from twostage_jax.trees import PyTree


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """Result of a run.

    Attributes:
        folder: folder of the run.
        record: content of `result.json`; empty after stage 1 alone.
        params: groups `encoder` and `head`, of the members `[M, ...]` if there are several; after
            stage 1 alone, its groups.
    """

    folder: Path
    record: dict[str, PyTree]
    params: Params

    def __repr__(self) -> str:
        """Show the folder and the scores on test."""
        scores = {name: self.record["test"][name] for name in ("accuracy", "nll")}
        return f"Result({str(self.folder)!r}, test={scores})" if self.record else str(self.folder)


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
    """

    plan: Plan
    programs: RunPrograms
    folder: Path
    terminal: Terminal
    clock: Clock
    every: float
    seams: Seams


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
    seams: Seams = SEAMS,
) -> Result:
    """Run both stages and the evaluation, as `twostage run` does.

    Args:
        config: what to run; values that are not given come from the preset.
        resume: take up the run in `config.out`.
        pretrain_only: stop after stage 1, as `twostage pretrain` does.
        trust_code: let the config of an earlier run import the code that it names.
        allow_changed: resume although versions differ or there are more epochs than before.
        checkpoint_every: minutes after which the state is saved within an epoch.
        terminal: where to print; `Terminal(quiet=True)` prints nothing.
        clock: seconds of each phase; by default a new one.
        seams: functions that a test may replace.

    Raises:
        UserError: an error in the config or the data, before anything is written; a run in use or
            started with other settings; a full disk; a loss or parameters that are not finite.

    >>> import tempfile, twostage_jax as ts
    >>> from twostage_jax.show.terminal import Terminal
    >>> config = ts.Config(
    ...     out=tempfile.mkdtemp(), pretrain={"epochs": 1}, head={"protocol": "ridge"}
    ... )
    >>> result = ts.run(config, terminal=Terminal(quiet=True))
    >>> result.record["test"]["accuracy"] > 0.5
    True
    """
    check(config)
    check_above_zero("--checkpoint-every", checkpoint_every)
    terminal = terminal or Terminal()
    clock = clock or Clock()
    request = Request(resume, pretrain_only, trust_code, allow_changed)
    command = _resume_command(config, request)
    with contextlib.ExitStack() as stack:
        if resume:
            _claim(stack, resumed_folder(config), command, terminal)
        config = resolve_request(config, request)
        if resume:
            complete = _complete_result(config, trust_code, terminal)
            if complete is not None:
                return complete
        plan, lockbox = prepare(config, request, terminal, clock)
        placed = place_stages(plan)
        folder = create_folder(plan.config.out, plan.dataset.name)
        if not resume:
            _claim(stack, folder, command, terminal)
            check_free(folder)
        manifest = open_folder(folder, make_manifest(plan, placed), terminal)
        _show_plan(plan, placed, folder, terminal)
        with terminal.status("compiling"), clock.phase("compile"):
            programs = compile_run(plan, placed)
        every = 60 * checkpoint_every
        context = RunContext(plan, programs, folder, terminal, clock, every, seams)
        return _run_stages(context, manifest, lockbox)


def _resume_command(config: Config, request: Request) -> list[str]:
    """Return the command that resumes a run; the folder comes after it."""
    words = ["twostage", "pretrain" if request.pretrain_only else "run", "--resume"]
    if request.trust_code or imported_names(config):
        words.append("--trust-code")
    return [*words, "--out"]


def _claim(
    stack: contextlib.ExitStack, folder: Path, command: list[str], terminal: Terminal
) -> None:
    """Lock a run's folder for this process, tidy it, and note how the run is resumed."""
    stack.enter_context(locked(folder, terminal.notice))
    clean(folder)
    stack.enter_context(resumable(shlex.join([*command, str(folder)])))


def _complete_result(config: Config, trust_code: bool, terminal: Terminal) -> Result | None:
    """Show and return the result of a run that has nothing left to do.

    Returns None if it has, or if something in the folder is corrupted: then the run continues from
    everything that is intact.
    """
    folder = resumed_folder(config)
    if not (folder / RESULT).is_file():
        return None
    if config.save_predictions and not read_manifest(folder).save_predictions:
        raise UserError(
            f"{folder} is complete: write its predictions with twostage evaluate {folder} "
            "--save-predictions"
        )
    try:
        finished = open_run(folder, trust_code)
        for stage in ("head",) if config.encoder_run else ("pretrain", "head"):
            Store(folder / stage).check()
        _check_outputs(folder, config, terminal)
    except Corrupted as error:
        terminal.notice(f"{error}: the run continues from what is intact, to the same result")
        return None
    show_result(finished.record, folder, terminal)
    return Result(folder, encode(finished.record), finished.params)


def _check_outputs(folder: Path, config: Config, terminal: Terminal) -> None:
    """Verify plots and predictions; outputs that only `twostage evaluate` writes are removed.

    Raises:
        Corrupted: if an output that the run writes itself is corrupted.
    """
    own = (SWEEP_PLOT, *(PREDICTIONS.values() if config.save_predictions else ()))
    removed = []
    for name, problem in corrupted_outputs(folder):
        if name in own:
            raise Corrupted(problem)
        removed.append(name)
        terminal.notice(
            f"{problem}; it is removed, and twostage evaluate --save-predictions writes it again"
        )
    for name in removed:
        remove_output(folder, name)
    if removed:
        write_files(folder, {})


def _show_plan(plan: Plan, placed: dict[str, Placed], folder: Path, terminal: Terminal) -> None:
    """Print the folder, the data, the settings, and the placement of members."""
    dataset = plan.dataset
    sizes = {
        "train": len(dataset.train["label"]),
        "validation": len(dataset.validation["label"]),
        "test": plan.tested,
    }
    if plan.examples.labelled != len(plan.examples.images):
        sizes["labelled"] = plan.examples.labelled
        sizes["unlabelled"] = len(plan.examples.images) - plan.examples.labelled
    devices = jax.devices()
    count = f"{len(devices)} x " if len(devices) > 1 else ""
    terminal.line(f"run in {folder}")
    show_data(dataset.name, sizes, dataset.image_shape, len(dataset.classes), terminal)
    settings = plan.config
    device = f"{count}{devices[0].device_kind}"
    show_settings(settings.preset, settings.seed, device, terminal)
    rows = [
        PlanRow(
            stage,
            each.placement.members,
            len(each.placement.pieces),
            each.placement.mesh.size,
            each.need.member,
            each.need.common,
        )
        for stage, each in placed.items()
    ]
    show_plan(rows, plan.encoding if "head" in plan.stages else None, terminal)


def _run_stages(context: RunContext, manifest: Manifest, lockbox: Lockbox) -> Result:
    """Train what is left to train, and finish the run."""
    plan = context.plan
    folder = context.folder
    pretrained = plan.pretrained
    records: dict[str, Sequence[EpochRecord]] = {"pretrain": []}
    finite = np.ones(len(plan.trials.encoders), bool)
    if pretrained is None:
        first = _pretrain(context)
        pretrained = first.params
        records["pretrain"] = first.records
        finite = first.finite
        manifest = _with_pretrain(manifest, plan, first)
        write_manifest(folder, manifest)
    if "head" not in plan.stages:
        groups = pretrain_groups(pretrained, plan.trials)
        context.terminal.line(f"\nencoder  {manifest.groups[FROZEN].sha256}\nrun      {folder}")
        return Result(folder, {}, groups)
    encoder = frozen_encoder(pretrained, plan.trials)
    before = encoder_digest(manifest, encoder, plan.trials)
    second = _train_head(context, pretrained, encoder, records["pretrain"])
    records["head"] = second.records
    after = describe_groups(head_groups(second.params, plan.trials))
    frozen = FrozenRecord([FROZEN], before, after[FROZEN].sha256, before == after[FROZEN].sha256)
    if not frozen.unchanged:
        raise RuntimeError(f"the frozen encoder changed in stage 2: {frozen}")
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
    reads = max(1, manifest.test_reads)
    manifest = dataclasses.replace(
        manifest, groups={**manifest.groups, **after}, frozen=frozen, test_reads=reads
    )
    write_manifest(folder, dataclasses.replace(read_manifest(folder), test_reads=reads))
    with context.terminal.status("evaluating"), context.clock.phase("evaluate"):
        finished = finish_run(plan, context.programs, trained, lockbox, reads)
    record = dataclasses.replace(finished.record, seconds=context.clock.seconds)
    files = {
        **finished.files,
        METRICS: epochs_bytes([*records["pretrain"], *records["head"]]),
        CONFIG: json_bytes(manifest.config),
        MANIFEST: manifest_bytes(manifest),
        RESULT: json_bytes(encode(record)),
    }
    write_files(folder, files)
    show_result(record, folder, context.terminal)
    return Result(folder, encode(record), finished.params)


def _with_pretrain(manifest: Manifest, plan: Plan, first: StageResult) -> Manifest:
    """Return the manifest with the groups and the outcome of stage 1."""
    settings = plan.config.pretrain
    loss = last_loss(first.records)
    return dataclasses.replace(
        manifest,
        groups=describe_groups(pretrain_groups(first.params, plan.trials)),
        pretrain=PretrainRecord(settings.objective, settings.epochs, loss),
    )


def _pretrain_record(manifest: Manifest) -> PretrainRecord:
    assert manifest.pretrain is not None, "stage 2 follows stage 1"
    return manifest.pretrain


def _pretrain(context: RunContext) -> StageResult:
    """Train stage 1."""
    programs = context.programs.pretrain
    assert programs is not None
    data = pretrain_data(context.plan.examples)
    with context.clock.phase("pretrain"):
        return _train(context, "pretrain", programs, data, {}, [])


def _train_head(
    context: RunContext,
    pretrained: Params,
    encoder: PyTree,
    before: Sequence[EpochRecord],
) -> StageResult:
    """Train or solve stage 2 on the frozen encoder."""
    plan = context.plan
    programs = context.programs.head
    dataset = plan.dataset
    numbers = plan.trials.encoder_numbers
    images = dataset.train["image"][plan.examples.used]
    features = _features(context, pretrained, images)
    data = head_data(plan.examples, features, numbers)
    frozen = {FROZEN: encoder}
    if isinstance(programs, StagePrograms):
        with context.clock.phase("head"):
            return _train(context, "head", programs, data, frozen, before)
    assert isinstance(programs, SolvePrograms)
    label = dataset.validation["label"]
    validation = _features(context, pretrained, dataset.validation["image"])
    assert validation is not None
    data = solve_data(data, validation, label, numbers)
    expected = head_shapes(plan.networks, dataset.image_shape, plan.examples.labelled, len(label))
    keys = plan.trials.keys("head", INITIAL)
    with context.clock.phase("head"), context.terminal.status("solving"):
        return solve_stage(
            programs,
            data,
            plan.head_numbers,
            keys,
            frozen,
            stacked_shapes(expected, plan.trials),
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
    data,
    pretrained: Params,
    before: Sequence[EpochRecord],
) -> StageResult:
    """Initialise and train a stage, with the keys that belong to its name."""
    plan = context.plan
    numbers = plan.numbers(stage)
    batch = few_examples(plan.dataset)
    start = start_states(programs, numbers, plan.trials.keys(stage, INITIAL), batch, pretrained)
    keys = plan.trials.keys(stage, TRAINING)
    return train_stage(programs, data, numbers, keys, start, _stage_plan(context, stage, before))


def _stage_plan(context: RunContext, stage: str, before: Sequence[EpochRecord]) -> StagePlan:
    plan = context.plan
    return StagePlan(
        name=stage,
        epochs=getattr(plan.config, stage).epochs or 0,  # a solved head has none
        identity=run_identity(plan.config, plan.dataset.fingerprint),
        before=before,
        every=context.every,
        folder=context.folder,
        terminal=context.terminal,
        names=plan.trials.names(stage),
        seams=context.seams,
    )
