"""The two-stage story from top to bottom: data, stage 1, hand-over, stage 2, evaluation.

Every step leaves its trace in the folder of the run, and an interrupted run goes on from there.
"""

import dataclasses
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from twostage_jax import folder as folders
from twostage_jax.config import Config, check, imported_names, overlay, resolve, to_dict
from twostage_jax.data import Dataset
from twostage_jax.encoding import encode_in_calls
from twostage_jax.errors import UserError
from twostage_jax.interrupt import Interrupted
from twostage_jax.programs import Compiled, compile_run, few_examples, settle_encoding
from twostage_jax.runs import (
    Nets,
    describe_groups,
    load_params,
    make_nets,
    open_run,
    read_config,
    score,
)
from twostage_jax.show import show_data, show_result
from twostage_jax.sources import load
from twostage_jax.stage import Params, digest, tree_leaves
from twostage_jax.terminal import Terminal
from twostage_jax.training import Programs, train_stage

STAGES = {"pretrain": 1, "head": 2}  # folded into the seed's key
PACKAGES = ("twostage-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
        folder: where it all is.
        record: what `result.json` holds; empty after stage 1 alone.
        params: parameter groups, `encoder` and `head`; after stage 1 alone, its groups.
    """

    folder: Path
    record: dict[str, Any]
    params: Params


class Job(NamedTuple):
    """What all steps of one run share."""

    config: Config
    dataset: Dataset
    nets: Nets
    data: dict[str, jax.Array]
    folder: Path
    terminal: Terminal
    programs: Compiled


def run(
    config: Config,
    *,
    resume: bool = False,
    pretrain_only: bool = False,
    trust_code: bool = False,
    terminal: Terminal | None = None,
) -> Result:
    """Both stages, evaluation and the run's folder: what `twostage run` does.

    Args:
        config: what to do; what is not given comes from the preset.
        resume: go on with the run in `config.out`.
        pretrain_only: stop after stage 1, as `twostage pretrain` does.
        trust_code: let the config of an earlier run import the encoder or objective it names.
        terminal: where to print; `Terminal(quiet=True)` prints nothing.

    Raises:
        UserError: a mistake in the config or the data, before anything is written; a loss that is
            no longer finite.
    """
    terminal = terminal or Terminal()
    config = _settle(config, resume, pretrain_only, trust_code)
    if resume:
        folder = config.out or Path()
        if (folder / folders.RESULT).is_file():
            done = open_run(folder, trust_code)
            show_result(done.record, folder, terminal)
            return Result(folder, done.record, done.params)
    with terminal.phase("data", "reading data"):
        dataset = load(config.data or "digits", config.validation, config.data_dir)
    config = resolve(config, dataset.image_shape, len(dataset.validation["label"]))
    with terminal.phase("compile", "checking shapes"):
        nets = make_nets(config, dataset.image_shape, len(dataset.classes))
        config, encode_when = settle_encoding(config, nets, dataset)
    pretrained = _load_pretrained(config, nets, dataset) if config.encoder_run else None
    folder = _enter(config, dataset, resume)
    data = jax.device_put(dataset.train)
    try:
        show_data(dataset, config, jax.devices()[0].device_kind, terminal)
        if not pretrain_only:
            terminal.line(f"in stage 2 the encoder runs {encode_when}")
        with terminal.phase("compile", "compiling"):
            programs = compile_run(config, dataset, nets, data, pretrained, pretrain_only)
        job = Job(config, dataset, nets, data, folder, terminal, programs)
        return _run(job, pretrained, pretrain_only)
    except Interrupted as interruption:
        interruption.folder = str(folder)
        interruption.imports_code = bool(imported_names(config))
        raise


def _run(job: Job, pretrained: Params | None, pretrain_only: bool) -> Result:
    folder, manifest = job.folder, folders.read_json(job.folder, folders.MANIFEST)
    if pretrained is None:
        settings = job.config.pretrain
        pretrained = _train(job, "pretrain", job.data)
        _check_finite("pretrain", pretrained)
        manifest["groups"] = describe_groups(pretrained)
        manifest["pretrain"] = {
            "objective": settings.objective,
            "epochs": settings.epochs,
            "loss": folders.last_loss(folder, "pretrain"),
        }
        folders.write_json(folder, folders.MANIFEST, manifest)
    before = digest(pretrained["encoder"])
    if pretrain_only:
        job.terminal.line(f"\nencoder  {before}\nrun      {folder}")
        return Result(folder, {}, pretrained)
    encoder = pretrained["encoder"]
    params = _train(job, "head", _encode(job, encoder), encoder=encoder)
    _check_finite("head", params)
    after = digest(params["encoder"])
    if after != before:
        raise RuntimeError(f"the frozen encoder changed in stage 2: {before} became {after}")
    frozen = {"groups": ["encoder"], "before": before, "after": after, "unchanged": True}
    manifest["groups"] |= describe_groups(params)
    folders.write_json(folder, folders.MANIFEST, manifest | {"frozen": frozen})
    record = _evaluate(job, {**pretrained, **params}, manifest["pretrain"], frozen)
    folders.write_json(folder, folders.RESULT, record)
    show_result(record, folder, job.terminal)
    return Result(folder, record, params)


def _settle(config: Config, resume: bool, pretrain_only: bool, trust_code: bool) -> Config:
    """`config` with what earlier runs say about it, before any data is read."""
    check(config)
    if config.encoder_run:
        config = _on_encoder_of(config, trust_code)
    if resume:
        config = _resumed(config, trust_code)
    if pretrain_only and config.encoder_run:
        raise UserError(
            f"this config takes its encoder from {config.encoder_run}, so there is no stage 1 to "
            "train: use twostage run"
        )
    return config


def _on_encoder_of(config: Config, trust_code: bool) -> Config:
    """`config` with all it does not say itself taken from the run whose encoder it uses."""
    source = Path(str(config.encoder_run))
    base = read_config(source, trust_code)
    values = to_dict(base)
    if config.data not in (None, base.data):
        values |= {"validation": None, "data_dir": None}
    # The run may have taken its encoder from another one itself.
    values["encoder_run"] = base.encoder_run or str(source.absolute())
    merged = overlay(dataclasses.replace(config, encoder_run=None), values)
    if merged.pretrain != base.pretrain:
        raise UserError(f"stage 1 is the one of {source}: leave the --pretrain flags out")
    return merged


def _resumed(config: Config, trust_code: bool) -> Config:
    """The config of the run in `config.out`, which `config` must not contradict."""
    if config.out is None:
        raise UserError("--resume needs the folder to go on with: add --out DIR")
    stored = read_config(config.out, trust_code)
    merged = overlay(config, to_dict(stored))
    old, new = to_dict(stored), to_dict(merged)
    changed = [name for name in old if old[name] != new[name]]
    if changed:
        raise UserError(
            f"{config.out} was started with another {', '.join(changed)}: resume it without these "
            "flags, or start a new run in a new --out"
        )
    return merged


def _enter(config: Config, dataset: Dataset, resume: bool) -> Path:
    """The folder of this run with config and manifest in it: a new one, or the resumed one."""
    manifest = {
        "schema": 1,
        "groups": {},
        "preprocessing": {
            "image": ["uint8", *dataset.image_shape],
            "formula": "(x / 255 - 0.5) / 0.5",
        },
        "classes": list(dataset.classes),
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "versions": {name: version(name) for name in PACKAGES},
    }
    if config.encoder_run:
        source = folders.read_json(Path(config.encoder_run), folders.MANIFEST)
        manifest |= {"pretrain": source["pretrain"]}
    if not resume:
        folder = folders.create(config.out, dataset.name)
        folders.write_json(folder, folders.CONFIG, to_dict(config))
        folders.write_json(folder, folders.MANIFEST, manifest)
        return folder
    folder = config.out or Path()
    if not (folder / folders.MANIFEST).is_file():
        folders.write_json(folder, folders.MANIFEST, manifest)
    stored = folders.read_json(folder, folders.MANIFEST)["data"]
    if stored != manifest["data"]:
        raise UserError(
            f"{folder} was started on {stored['name']} {stored['fingerprint']} and {config.data} "
            f"is now {dataset.fingerprint}: start a new run in a new --out"
        )
    return folder


def _load_pretrained(config: Config, nets: Nets, dataset: Dataset) -> Params:
    source = Path(str(config.encoder_run))
    manifest = folders.read_json(source, folders.MANIFEST)
    expected = manifest["preprocessing"]["image"][1:]
    if list(dataset.image_shape) != expected:
        raise UserError(
            f"the encoder of {source} takes images {expected} and {config.data} has "
            f"{list(dataset.image_shape)}: give data of that shape"
        )
    return load_params(source, "pretrain", nets.pretrain, dataset.image_shape)


def _train(job: Job, name: str, data: dict[str, jax.Array], **pretrained: Any) -> Params:
    """Parameters of a stage, initialised and trained with the keys that belong to its name."""
    programs: Programs = getattr(job.programs, name)
    key = jax.random.fold_in(jax.random.key(job.config.seed), STAGES[name])
    state = programs.init(jax.random.fold_in(key, 0), few_examples(job.dataset), pretrained)
    return train_stage(
        programs.epoch,
        state,
        data,
        jax.random.fold_in(key, 1),
        name=name,
        epochs=getattr(job.config, name).epochs,
        folder=job.folder,
        terminal=job.terminal,
    ).params


def _encode(job: Job, encoder: Params) -> dict[str, jax.Array]:
    """What stage 2 trains on: the images, or the features of the frozen encoder."""
    encoding = job.programs.encoding
    if encoding is None:
        return job.data
    features = job.data["image"]
    with job.terminal.phase("encode", "encoding"):
        for features in encode_in_calls(encoding, encoder, job.data["image"]):
            jax.block_until_ready(features)
    return {**job.data, "image": features}


def _check_finite(stage: str, params: Params) -> None:
    for path, leaf in tree_leaves(params).items():
        if not np.isfinite(jax.device_get(leaf)).all():
            raise UserError(
                f"stage {stage} ended with values in {path} that are not finite; try a smaller "
                f"--{stage}.learning-rate"
            )


def _evaluate(job: Job, params: Params, pretrain: Any, frozen: Any) -> dict[str, Any]:
    """What goes into `result.json`; the one place that reads the test part."""
    dataset, head = job.dataset, job.config.head
    with job.terminal.phase("evaluate", "evaluating"):
        validation = score(job.nets, params, dataset.validation)
        test = score(job.nets, params, dataset.test)
    counts = {
        part: len(getattr(dataset, part)["label"]) for part in ("train", "validation", "test")
    }
    return {
        "schema": 1,
        "data": {
            "name": dataset.name,
            **counts,
            "labelled": counts["train"],
            "classes": len(dataset.classes),
            "fingerprint": dataset.fingerprint,
        },
        "pretrain": pretrain,
        "head": {
            "protocol": head.protocol,
            "epochs": head.epochs,
            "loss": folders.last_loss(job.folder, "head"),
            "encode": head.encode,
        },
        "frozen": frozen,
        "validation": validation,
        "test": test,
        "members": 1,
        "seconds": job.terminal.seconds,
        "environment": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
        },
    }
