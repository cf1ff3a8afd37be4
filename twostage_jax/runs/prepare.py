"""From a request to a plan: what earlier runs say, data, networks, trials, and the folder."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from twostage_jax.config.choices import SUPERVISED
from twostage_jax.config.epochs import resolve_epochs
from twostage_jax.config.groups import TRAINED
from twostage_jax.config.layers import completed, from_dict, overlay, resolve, to_dict
from twostage_jax.config.options import check_options, without_unused
from twostage_jax.config.presets import STEPS
from twostage_jax.config.reading import READING_FIELDS
from twostage_jax.config.rules import check, check_solved
from twostage_jax.config.schema import Config
from twostage_jax.data.dataset import Dataset, Lockbox, TrainingData
from twostage_jax.data.duplicates import find_duplicates
from twostage_jax.data.spec import absolute
from twostage_jax.engine.passes import choose_encoding
from twostage_jax.errors import UserError
from twostage_jax.runs.build import make_networks
from twostage_jax.runs.clock import Clock
from twostage_jax.runs.examples import make_examples
from twostage_jax.runs.handover import load_pretrained
from twostage_jax.runs.networks import Networks
from twostage_jax.runs.outsiders import without_outsiders
from twostage_jax.runs.plan import Plan, stage_names
from twostage_jax.runs.reading import load_data, with_form_of
from twostage_jax.runs.resume import (
    notice_switches,
    package_versions,
    resumed_config,
)
from twostage_jax.runs.trials import Trials, make_trials
from twostage_jax.runs.views import resolve_augment
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.layout import LOCK, MANIFEST, check_free, check_name
from twostage_jax.store.lock import locked
from twostage_jax.store.records import (
    read_manifest,
)


class Request(NamedTuple):
    """Arguments of a run beside its config.

    Attributes:
        resume: True to resume the run in `config.out`.
        pretrain_only: True to stop after stage 1.
        trust_code: True if the config of an earlier run may import code.
        allow_changed: True to resume although versions or epochs differ.
        device: device that was asked for, or None.
        tensorboard: True to write TensorBoard's files.
    """

    resume: bool
    pretrain_only: bool
    trust_code: bool
    allow_changed: bool
    device: str | None = None
    tensorboard: bool = False


def read_config(folder: Path, trust_code: bool = False) -> Config:
    """Read the config of the run in `folder`, from its manifest.

    A run of an older version gets the defaults of its preset for the fields that are new.

    Raises:
        UserError: if there is no run, or it names code and `trust_code` is False.
        Corrupted: if the manifest differs from what was written.
    """
    manifest = read_manifest(folder)
    config = from_dict(manifest.config, str(folder / MANIFEST), trust_code)
    return completed(config, manifest.preprocessing.image_shape)


def resolve_request(config: Config, request: Request) -> Config:
    """Return `config` with everything that earlier runs determine; no data is read.

    Raises:
        UserError: a folder that is taken, or a config that contradicts an earlier run.
    """
    # The default folder is below the working directory.
    check_name(config.out or Path())
    if config.data is not None:
        config = dataclasses.replace(config, data=absolute(config.data))
    if request.resume:
        config = dataclasses.replace(config, encoder_run=_origin(config, request.trust_code))
        config = resumed_config(
            config, package_versions(), request.trust_code, request.allow_changed
        )
    elif config.encoder_run:
        config = _on_encoder_of(config, request.trust_code)
    if config.out and not request.resume:
        if (config.out / LOCK).is_file():
            # Reports the process that holds the lock rather than the folder's contents.
            with locked(config.out, lambda text: None):
                pass
        check_free(config.out)
    if request.pretrain_only and config.encoder_run:
        raise UserError(
            f"this config takes its encoder from {config.encoder_run}, so there is no stage 1 to "
            "train: use twostage run"
        )
    return config


def _origin(config: Config, trust_code: bool) -> str | None:
    """Return the run that originally trained the encoder of `config.encoder_run`."""
    if not config.encoder_run:
        return None
    source = Path(config.encoder_run)
    return read_config(source, trust_code).encoder_run or str(source.absolute())


def _on_encoder_of(config: Config, trust_code: bool) -> Config:
    """Return `config` with every value that is not given taken from the run with the encoder."""
    source = Path(str(config.encoder_run))
    base = read_config(source, trust_code)
    encoders = len(make_trials(base).encoders)
    if encoders > 1:
        raise UserError(
            f"{source} has {encoders} encoders, but heads are trained on one: give a run with one "
            "encoder, for instance with --share encoder"
        )
    # A new head does not inherit members, sweeps or placement.
    fresh = ("members", "share", "sweep", "mesh", "members_per_chunk")
    inherited = base
    if base.preset in STEPS and (config.data, config.labels) != (None, None):
        # The number of epochs followed from another number of labels.
        inherited = dataclasses.replace(base, head=dataclasses.replace(base.head, epochs=None))
    values = {name: x for name, x in to_dict(inherited).items() if name not in fresh}
    if config.data not in (None, base.data):
        values |= {"validation": None, "data_dir": None, "labels": None, "other_class": None}
        values |= dict.fromkeys(READING_FIELDS)
    values["encoder_run"] = _origin(config, trust_code)
    merged = overlay(dataclasses.replace(config, encoder_run=None), values)
    if merged.pretrain != base.pretrain:
        raise UserError(f"stage 1 comes from {source}: leave the --pretrain flags out")
    return merged


def prepare(
    config: Config,
    request: Request,
    terminal: Terminal,
    clock: Clock,
    load: Callable[..., Dataset],
) -> tuple[Plan, Lockbox]:
    """Read the data by `load`, and make networks and trials; the test split stays under lock.

    Raises:
        UserError: data, modules or settings that do not fit together.
    """
    with terminal.reading("reading data") as progress, clock.phase("data"):
        source = load_data(config, request.pretrain_only, load, progress)
        source = without_outsiders(source, config.other_class)
    duplicates = None
    if not request.pretrain_only:
        with terminal.status("searching for duplicates"), clock.phase("data"):
            duplicates = find_duplicates(source.splits, config.duplicates or "auto")
    dataset, lockbox = source.lock()
    requested = config
    config = resolve(with_form_of(config, dataset), dataset.image_shape, dataset.validation_size)
    # Again, because earlier runs and the data have added values: a sweep needs validation examples.
    check(config)
    trials = make_trials(config)
    if config.pretrain.objective in SUPERVISED and not dataset.classes:
        raise UserError(
            f"--pretrain.objective {config.pretrain.objective} trains on labels, and "
            f"{dataset.name} has none: give another objective, such as autoencoder"
        )
    examples = make_examples(config, dataset, trials)
    config = resolve_epochs(config, examples.counts)
    with terminal.status("choosing an augmentation"), clock.phase("data"):
        config, augmentation = resolve_augment(config, examples.images)
    with terminal.status("checking shapes"), clock.phase("compile"):
        networks = make_networks(
            config,
            dataset.image_shape,
            len(dataset.classes),
            examples.labelled,
            len(dataset.validation["label"]),
            len(examples.images),
        )
        if not request.resume:
            check_options(requested, networks.asked)
        config = _head_settings(requested, without_unused(config, networks.asked), networks)
        trials = trials._replace(tuned=networks.tunes_encoder)
        copies = len(trials.encoders)
        encoded = examples.images if networks.prepared else examples.used
        shape = (copies, len(encoded), *networks.feature_shape)
        config, encoding = _resolve_encoding(config, networks, shape)
    pretrained = None
    if config.encoder_run:
        pretrained = _pretrained(config, networks, dataset, trials, terminal)
    chunks = read_manifest(config.out).chunks if request.resume and config.out else {}
    plan = Plan(
        config=config,
        networks=networks,
        dataset=dataset,
        tested=lockbox.count,
        trials=trials,
        examples=examples,
        pretrained=pretrained,
        stages=tuple(stage_names(pretrained, request.pretrain_only)),
        chunks=chunks,
        encoding=encoding,
        augmentation=augmentation,
        duplicates=duplicates,
    )
    return plan, lockbox


def _head_settings(requested: Config, config: Config, networks: Networks) -> Config:
    """Return `config` without settings of a training if the head is solved in one call.

    Raises:
        UserError: if the user gave such a setting.
    """
    if not networks.solved:
        return config
    check_solved(requested)
    head = dataclasses.replace(config.head, **dict.fromkeys(TRAINED))
    return dataclasses.replace(config, head=head)


def _resolve_encoding(
    config: Config, networks: Networks, shape: tuple[int, ...]
) -> tuple[Config, str]:
    """Return `config` with `head.encode` decided, and the decision in words.

    It is decided before the config is written, so that a run that is resumed or repeated with less
    memory computes the same bits.
    """
    if networks.solved:
        return config, "applied once before stage 2, because the head is solved in one call"
    if networks.tunes_encoder:
        if config.head.encode == "once":
            raise UserError(
                f"--head.encode once keeps the features of a frozen encoder, but "
                f"{config.head.protocol} trains the encoder: leave --head.encode out"
            )
        head = dataclasses.replace(config.head, encode="loop")
        words = "applied in every step of stage 2, which also trains it"
        return dataclasses.replace(config, head=head), words
    size = 4
    for length in shape:
        size *= length
    once, words = choose_encoding(config.head.encode, size)
    head = dataclasses.replace(config.head, encode="once" if once else "loop")
    return dataclasses.replace(config, head=head), words


def _pretrained(
    config: Config,
    networks: Networks,
    dataset: TrainingData,
    trials: Trials,
    terminal: Terminal,
):
    """Load stage 1 of the run whose encoder this one uses.

    Raises:
        UserError: images of another shape, or a run that is corrupted.
    """
    source = Path(str(config.encoder_run))
    manifest = read_manifest(source)
    expected = manifest.preprocessing.image_shape
    if dataset.image_shape != expected:
        raise UserError(
            f"{config.data} has images {_size(dataset.image_shape)}, but the encoder of {source} "
            f"was trained on {_size(expected)}: give images of that shape"
        )
    notice_switches(source, manifest, terminal)
    if manifest.data.fingerprint != dataset.fingerprint:
        terminal.notice(
            f"the encoder was trained on {manifest.data.name}: stage 1 has seen all test images "
            "that are also there, without their labels"
        )
    return load_pretrained(source, manifest, networks, trials)


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
