"""Open a run: verify its parameters and make its predictors; load data for it."""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostage_jax.config.groups import HeadConfig
from twostage_jax.config.schema import Config
from twostage_jax.engine.passes import BATCH
from twostage_jax.engine.predictor import Predictor
from twostage_jax.errors import Corrupted, UserError, shown
from twostage_jax.runs.build import make_networks
from twostage_jax.runs.gaussians import load_gaussians
from twostage_jax.runs.handover import (
    FROZEN,
    Sizes,
    chosen_groups,
    chosen_pretrained,
    head_axes,
    load_heads,
    load_pretrained,
    select_pretrained,
    source_digest,
)
from twostage_jax.runs.networks import Networks
from twostage_jax.runs.opened import Run
from twostage_jax.runs.prepare import read_config
from twostage_jax.runs.result import ResultRecord
from twostage_jax.runs.trials import Trials, make_trials, own_numbers
from twostage_jax.stages.stage import Params
from twostage_jax.store.checksums import check
from twostage_jax.store.layout import RESULT
from twostage_jax.store.records import Manifest, read_manifest, read_result

DECODER = "decoder"


def open_run(folder: Path | str, trust_code: bool = False) -> Run:
    """Open a run and verify its parameters.

    A run that has finished stage 1 alone (`twostage pretrain`, or a run that was stopped in stage
    2) can be opened too: it has features and reconstructions, but no head.

    Args:
        folder: folder of the run; `~` is the home folder.
        trust_code: True to allow the import of code that its config names.

    Raises:
        UserError: if there is no run, stage 1 has not finished, or the run needs code and
            `trust_code` is False.
        Corrupted: if a file differs from what was written.

    >>> import twostage_jax as ts
    >>> from twostage_jax.show.terminal import Terminal
    >>> config = ts.Config(out="runs/b", pretrain={"epochs": 0}, head={"protocol": "ridge"})
    >>> result = ts.run(config, terminal=Terminal(quiet=True))
    >>> run = ts.open_run("runs/b")
    >>> run.classes[:3], sorted(run.params)
    (('0', '1', '2'), ['decoder', 'encoder', 'head'])
    """
    if not isinstance(folder, str | os.PathLike):
        raise UserError(f"the run is {shown(folder)}: give the path of its folder")
    folder = Path(folder).expanduser()
    config = read_config(folder, trust_code)
    manifest = read_manifest(folder)
    if (folder / RESULT).is_file():
        return _open_finished(folder, config, manifest)
    if manifest.pretrain is None or config.encoder_run:
        raise UserError(
            f"{folder} is not complete, it has no {RESULT}: finish it with twostage run --resume "
            f"--out {folder}"
        )
    return _open_pretrained(folder, config, manifest)


def _open_finished(folder: Path, config: Config, manifest: Manifest) -> Run:
    check(folder)
    record = read_result(folder, ResultRecord)
    trials = make_trials(config)
    shape = manifest.preprocessing.image_shape
    sizes = Sizes(record.data.labelled, record.data.validation)
    images = record.data.labelled + record.data.unlabelled
    classes = len(manifest.classes)
    networks = make_networks(config, shape, classes, sizes.labelled, sizes.validation, images)
    trials = trials._replace(tuned=networks.tunes_encoder)
    params = load_heads(folder, manifest, networks, trials, sizes)
    rows = np.array(record.ensemble.rows)
    if rows[-1] >= len(trials.heads):
        raise Corrupted(f"{folder / RESULT} is corrupted: there is no trial {rows[-1]}")
    numbers = own_numbers(trials, networks)
    # The batches of the run itself, so that an evaluation repeats its figures to the bit.
    largest = max(record.data.validation, record.data.test)
    everybody = Predictor(
        networks.network, numbers, params, head_axes(trials, params), shape, largest
    )
    chosen = everybody.select(rows)
    groups = chosen_groups(chosen.params, trials, config.members)
    stage_1 = _load_stage_1(folder, config, manifest, networks, trials)
    if isinstance(stage_1, str):
        pretrained = _Pretrained({}, None, stage_1)
    else:
        pretrained = _select(stage_1, networks, trials, rows, largest, config.members)
    head = networks.head({name: values[0].item() for name, values in chosen.numbers.items()})
    return Run(
        folder=folder,
        config=config,
        manifest=manifest,
        params={**pretrained.groups, **groups},
        encoder=networks.encoder,
        decoder=networks.decoder if DECODER in pretrained.groups else None,
        head=head if head.module is None else head.module,
        finished=record,
        classifier=chosen,
        pretrained=pretrained.predictor,
        no_decoder=pretrained.no_decoder,
        several=len(trials.encoders) > 1 and config.members > 1,
        gaussians=load_gaussians(folder, record.rejection),
    )


def _open_pretrained(folder: Path, config: Config, manifest: Manifest) -> Run:
    """Open a run without stage 2."""
    trials = make_trials(config)
    shape = manifest.preprocessing.image_shape
    # A head may need its number of examples, which is unknown here, so none of the run's is made.
    sweep = tuple(pair for pair in config.sweep or () if not pair[0].startswith("head."))
    headless = dataclasses.replace(config, head=HeadConfig("mlp", widths=()), sweep=sweep)
    networks = make_networks(headless, shape, len(manifest.classes), 1, 0, 1)
    groups = load_pretrained(folder, manifest, networks, trials)
    firsts = np.unique(trials.encoder_numbers, return_index=True)[1]
    pretrained = _select(groups, networks, trials, firsts, BATCH, len(trials.encoders))
    return Run(
        folder=folder,
        config=config,
        manifest=manifest,
        params=pretrained.groups,
        encoder=networks.encoder,
        decoder=networks.decoder if DECODER in groups else None,
        head=None,
        finished=None,
        classifier=None,
        pretrained=pretrained.predictor,
        no_decoder=pretrained.no_decoder,
        several=len(trials.encoders) > 1,
    )


class _Pretrained(NamedTuple):
    """Stage 1 of the chosen trials: its parameter groups and its predictor.

    Attributes:
        groups: all groups of stage 1; empty if they cannot be read.
        predictor: encoders, with their decoders if there are any; None without groups.
        no_decoder: reason why images cannot be reconstructed; empty if they can.
    """

    groups: Params
    predictor: Predictor | None
    no_decoder: str


def _load_stage_1(
    folder: Path, config: Config, manifest: Manifest, networks: Networks, trials: Trials
) -> Params | str:
    """Load the groups `[E, ...]` of stage 1; return the reason if they are lost."""
    if not config.encoder_run:
        return load_pretrained(folder, manifest, networks, trials)
    source = Path(config.encoder_run)
    try:
        origin = read_manifest(source)
        if source_digest(origin) != manifest.encoder:
            raise UserError(f"the encoder of {source} is not the encoder of this run")
        return load_pretrained(source, origin, networks, trials)
    # Predictions need nothing of that run.
    except (UserError, OSError, KeyError) as error:
        return f"its decoder is in the run {source} that trained its encoder, and {error}"


def _select(
    groups: Params,
    networks: Networks,
    trials: Trials,
    rows: np.ndarray,
    largest: int,
    members: int,
) -> _Pretrained:
    """Return stage 1 of some trials from the groups `[E, ...]`; one member has no axis."""
    chosen = select_pretrained(groups, trials, rows)
    axis = 0 if len(trials.encoders) > 1 else None
    reason = ""
    if networks.decode is None:
        reason = "its objective has no decoder that returns images"
    names = (FROZEN, DECODER) if networks.decode is not None else (FROZEN,)
    axes: dict[str, int | None] = dict.fromkeys(names, axis)
    shape = networks.image_shape
    predictor = Predictor(networks.network, {}, chosen, axes, shape, largest)
    visible = chosen_pretrained(groups, trials, rows, members)
    return _Pretrained(visible, predictor, reason)
