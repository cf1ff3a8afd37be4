"""The two-stage story from top to bottom: data, stage 1, hand-over, stage 2, evaluation.

Every step leaves its trace in the folder of the run. A resumed run goes the way of a new one: each
step takes what it finds done and whole, and goes on from there.
"""

import contextlib
import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from twostage_jax.config.fields import check_above_zero
from twostage_jax.config.schema import Config, check, imported_names, resolve, to_dict
from twostage_jax.data.dataset import Lockbox
from twostage_jax.data.sources import load
from twostage_jax.engine.compile import use_cores
from twostage_jax.engine.members import Members, start_members
from twostage_jax.engine.passes import encode_in_calls
from twostage_jax.engine.placement import Placement, put, put_everywhere, take, tree_map
from twostage_jax.errors import Corrupted, UserError
from twostage_jax.runs.build import make_nets
from twostage_jax.runs.finish import SAVED, SWEEP_PLOT, Outcome, evaluate_run
from twostage_jax.runs.open import describe_groups, open_run
from twostage_jax.runs.prepare import describe, enter, load_pretrained, resumed_folder, settle
from twostage_jax.runs.programs import (
    Job,
    Setting,
    compile_run,
    few_examples,
    labels_of,
    place_stages,
    settle_encoding,
)
from twostage_jax.runs.resume import identity
from twostage_jax.runs.train import Course, Trained, alone, together, train_stage
from twostage_jax.runs.trials import INITIAL, TRAINING, has_noise, make_roster, stage_key
from twostage_jax.show.tables import show_data, show_plan, show_result
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import resumable
from twostage_jax.stages.stage import Params
from twostage_jax.store import checksums as sums
from twostage_jax.store import layout as folders
from twostage_jax.store.checkpoint import Store
from twostage_jax.store.lock import locked
from twostage_jax.trees import digest


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
        folder: where it all is.
        record: what `result.json` holds; empty after stage 1 alone.
        params: parameter groups, `encoder` and `head`; after stage 1 alone, its groups. Of the
            ensemble that was chosen, `[M, ...]` where members have their own.
    """

    folder: Path
    record: dict[str, Any]
    params: Params


def run(
    config: Config,
    *,
    resume: bool = False,
    pretrain_only: bool = False,
    trust_code: bool = False,
    allow_changed: bool = False,
    checkpoint_every: float = 5.0,
    terminal: Terminal | None = None,
) -> Result:
    """Both stages, evaluation and the run's folder: what `twostage run` does.

    Args:
        config: what to do; what is not given comes from the preset.
        resume: go on with the run in `config.out`.
        pretrain_only: stop after stage 1, as `twostage pretrain` does.
        trust_code: let the config of an earlier run import the encoder or objective it names.
        allow_changed: go on although versions differ or there are more epochs than before.
        checkpoint_every: minutes after which the state is saved in the middle of an epoch too.
        terminal: where to print; `Terminal(quiet=True)` prints nothing.

    Raises:
        UserError: a mistake in the config or the data, before anything is written; a run in use or
            started differently; a full disk; a loss or parameters that are no longer finite.
    """
    terminal = terminal or Terminal()
    check_above_zero("--checkpoint-every", checkpoint_every)
    onward = _onward(config, pretrain_only, trust_code)
    with contextlib.ExitStack() as stack:
        if resume:
            _claim(stack, resumed_folder(config), onward, terminal)
        config = settle(config, resume, pretrain_only, trust_code, allow_changed)
        if resume and (done := _complete(config, trust_code, terminal)):
            return done
        setting, lockbox, pretrained, encode_when = _prepare(config, resume, terminal)
        config = setting.config
        names = [*([] if pretrained else ["pretrain"]), *([] if pretrain_only else ["head"])]
        placed = place_stages(setting, names)
        folder = folders.create(config.out, setting.dataset.name)
        if not resume:
            _claim(stack, folder, onward, terminal)
            folders.check_free(folder)
        enter(folder, config, describe(config, setting.dataset, placed), terminal)
        terminal.line(f"run in {folder}")
        show_data(setting.dataset, lockbox.count, config, terminal)
        show_plan(placed, None if pretrain_only else encode_when, terminal)
        with terminal.phase("compile", "compiling"):
            programs = compile_run(setting, names, placed)
        job = Job(setting, labels_of(setting), folder, terminal, programs, 60 * checkpoint_every)
        return _run(job, lockbox, pretrained, pretrain_only)


def _onward(config: Config, pretrain_only: bool, trust_code: bool) -> list[str]:
    """The command that resumes a run; the folder is to be added."""
    words = ["twostage", "pretrain" if pretrain_only else "run", "--resume"]
    words += ["--trust-code"] if trust_code or imported_names(config) else []
    return [*words, "--out"]


def _claim(stack: contextlib.ExitStack, folder: Path, onward: list[str], to: Terminal) -> None:
    """Lock a run's folder for this process, tidy it, and know how the run is resumed."""
    stack.enter_context(locked(folder, to.notice))
    folders.clean(folder)
    stack.enter_context(resumable(shlex.join([*onward, str(folder)])))


def _complete(config: Config, trust_code: bool, terminal: Terminal) -> Result | None:
    """The result of a run that has nothing left to do, shown again.

    None where it has, and where something in the folder is damaged: then what is whole is where the
    run goes on.
    """
    folder = resumed_folder(config)
    if not (folder / folders.RESULT).is_file():
        return None
    manifest = folders.read_json(folder, folders.MANIFEST)
    if config.save_predictions and not manifest["save_predictions"]:
        raise UserError(
            f"{folder} is complete: write its predictions with twostage evaluate {folder} "
            "--save-predictions"
        )
    try:
        done = open_run(folder, trust_code)
        for name in ("head",) if config.encoder_run else ("pretrain", "head"):
            Store(folder / name).check()
        _check_rest(folder, config, terminal)
    except Corrupted as error:
        terminal.notice(f"{error}: the run goes on from what is whole, to the same result")
        return None
    with folders.meant(folder / folders.RESULT):
        show_result(done.record, folder, terminal)
    return Result(folder, done.record, done.trained.params)


def _check_rest(folder: Path, config: Config, terminal: Terminal) -> None:
    """Hold pictures and predictions against their checksums.

    Raises:
        Corrupted: where one is damaged that the run writes itself. What only `twostage evaluate`
            can write again is removed.
    """
    own = (SWEEP_PLOT, *(SAVED if config.save_predictions else ()))
    others = []
    for name, why in sums.broken_outputs(folder):
        if name in own:
            raise Corrupted(why)
        others.append(name)
        terminal.notice(f"{why}; it is removed, and twostage evaluate --save-predictions makes it")
    for name in others:
        folders.remove_output(folder, name)
    if others:
        sums.finish(folder, {})


def _prepare(config: Config, resume: bool, terminal: Terminal) -> tuple[Setting, Lockbox, Any, str]:
    """What training may see, the test part under lock, the groups of an earlier run.

    And when the encoder runs, in words.
    """
    with terminal.phase("data", "reading data"):
        source = load(config.data or "digits", config.validation, config.data_dir)
        dataset, lockbox = source.lock()
    config = resolve(config, dataset.image_shape, len(dataset.validation["label"]))
    check(config)  # what earlier runs and the data have filled in, too
    roster = make_roster(config)
    if not roster.alone:
        use_cores(len(roster.rows))
    with terminal.phase("compile", "checking shapes"):
        nets = make_nets(config, dataset.image_shape, len(dataset.classes))
        config, encode_when = settle_encoding(config, nets, dataset, roster)
    pretrained = load_pretrained(config, nets, dataset) if config.encoder_run else None
    chunks = folders.chunks(config.out) if resume and config.out else {}
    setting = Setting(config, nets, dataset, roster, has_noise(config), chunks)
    return setting, lockbox, pretrained, encode_when


def _run(job: Job, lockbox: Lockbox, given: Params | None, pretrain_only: bool) -> Result:
    folder, manifest = job.folder, folders.read_json(job.folder, folders.MANIFEST)
    roster, records = job.setting.roster, {"pretrain": []}
    pretrained: Any = given
    finite = np.ones(len(roster.encoders), bool)
    if given is None:
        settings = job.setting.config.pretrain
        first = _train(job, "pretrain", _images(job), {}, [])
        pretrained, records["pretrain"], finite = first
        if roster.stacked("pretrain") and len(roster.encoders) == 1:
            pretrained = tree_map(lambda x: x[0], 0, jax.device_get(pretrained))
        manifest["groups"] = describe_groups(pretrained)
        manifest["pretrain"] = {
            "objective": settings.objective,
            "epochs": settings.epochs,
            "loss": folders.last_loss(first.records),
        }
        folders.write_json(folder, folders.MANIFEST, manifest)
    if pretrain_only:
        job.terminal.line(f"\nencoder  {digest(pretrained['encoder'])}\nrun      {folder}")
        return Result(folder, {}, pretrained)
    encoder = pretrained["encoder"]
    if len(roster.encoders) > 1:
        encoder = tree_map(lambda x: x[roster.encoder_of], 0, jax.device_get(encoder))
    before, features = digest(encoder), _features(job, pretrained["encoder"])
    second = _train(job, "head", features, {"encoder": encoder}, records["pretrain"])
    params, records["head"] = second.params, second.records
    after = digest(params["encoder"])
    if after != before:
        raise RuntimeError(f"the frozen encoder changed in stage 2: {before} became {after}")
    frozen = {"groups": ["encoder"], "before": before, "after": after, "unchanged": True}
    manifest["groups"] |= describe_groups(params)
    groups = {**pretrained, **params} if roster.alone else params
    finite = finite[roster.encoder_of] & second.finite
    outcome = Outcome(groups, finite, manifest["pretrain"], frozen, records)
    record, chosen, files = evaluate_run(job, outcome, lockbox)
    manifest |= {"frozen": frozen, "test_reads": record["test_reads"]}
    files[folders.METRICS] = folders.as_metrics([*records["pretrain"], *records["head"]])
    for name, values in (
        (folders.CONFIG, manifest["config"]),
        (folders.MANIFEST, manifest),
        (folders.RESULT, record),
    ):
        files[name] = folders.packed(name, values)
    sums.finish(folder, files)
    show_result(record, folder, job.terminal)
    return Result(folder, record, chosen)


def _train(
    job: Job,
    name: str,
    data: Callable[[Any], Any],
    pretrained: Params,
    before: list[dict[str, Any]],
) -> Trained:
    """A stage, initialised and trained with the keys that belong to its name."""
    programs, few = getattr(job.programs, name), few_examples(job.setting.dataset)
    config, roster = job.setting.config, job.setting.roster
    if isinstance(programs, Members):
        hyper, keys = roster.hyper(name), roster.keys(name, TRAINING)
        first = roster.keys(name, INITIAL)
        state = start_members(programs, hyper, first, few, jax.device_get(pretrained))
        training = together(programs, data, hyper, keys, roster.names(name))
    else:
        state = programs.init(stage_key(config.seed, name, INITIAL), few, pretrained)
        training = alone(programs, data(None), stage_key(config.seed, name, TRAINING))
    course = Course(
        name=name,
        epochs=getattr(config, name).epochs,
        identity=identity(to_dict(config), job.setting.dataset.fingerprint),
        before=before,
        every=job.every,
        folder=job.folder,
        terminal=job.terminal,
    )
    return train_stage(training, state, course)


def _images(job: Job) -> Callable[[Any], Any]:
    """What stage 1 trains on: for a piece of members, the split on the devices."""
    programs, train = job.programs.pretrain, job.setting.dataset.train
    members = isinstance(programs, Members)
    data = put_everywhere(programs.placement, train) if members else jax.device_put(train)
    return lambda piece: data


def _features(job: Job, encoder: Params) -> Callable[[Any], Any]:
    """What stage 2 trains on: the images or the features of the frozen encoder, and the labels.

    `encoder` is `[E, ...]` where there are several, each of which runs once whatever rows use it.
    """
    programs, image = job.programs.head, job.setting.dataset.train["image"]
    if not isinstance(programs, Members):
        features = _encode(job, encoder, jax.device_put(image))
        data = {"image": features, "label": jax.device_put(np.ravel(job.label))}
        return lambda piece: data
    placement, axes, roster = programs.placement, programs.axes, job.setting.roster
    # What rows have of their own, and where in it each of them finds it.
    own: dict[str, Any] = {"label": (job.label, np.arange(len(roster.rows)))}
    common: dict[str, Any] = {"label": job.label, "image": image}
    if axes.data["image"] == 0:
        own["image"] = (_features_of_encoders(job, placement, encoder), roster.encoder_of)
    elif job.programs.encoding:
        # One encoder: a program of one device makes what all of them get.
        common["image"] = _encode(job, encoder, jax.device_put(image))
    own = {name: own[name] for name in own if axes.data[name] == 0}
    shared = {name: put_everywhere(placement, common[name]) for name in common if name not in own}
    made: dict[bytes, Any] = {}

    def data_of(piece: np.ndarray) -> Any:
        if piece.tobytes() not in made:
            taken = {name: take(placement, rows[piece], 0, x) for name, (x, rows) in own.items()}
            made[piece.tobytes()] = {**shared, **put(placement, 0, taken)}
        return made[piece.tobytes()]

    return data_of


def _features_of_encoders(job: Job, placement: Placement, encoders: Params) -> np.ndarray:
    """Features `[E, N, ...]` of all training images by each encoder, on the host."""
    image = put_everywhere(placement, job.setting.dataset.train["image"])
    encoders, parts = jax.device_get(encoders), []
    count = len(job.setting.roster.encoders)
    for piece in placement._replace(members=count).pieces:
        features = _encode(job, put(placement, 0, take(placement, piece, 0, encoders)), image)
        parts.append(jax.device_get(features)[: len(piece)])
    return np.concatenate(parts)


def _encode(job: Job, encoder: Params, image: jax.Array) -> jax.Array:
    """Features of all images, or the images where the encoder runs in every step."""
    encoding, features = job.programs.encoding, image
    if encoding is None:
        return image
    with job.terminal.phase("encode", "encoding"):
        for features in encode_in_calls(encoding, encoder, image):
            jax.block_until_ready(features)
    return features
