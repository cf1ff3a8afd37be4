"""A finished run, opened again: verified parameters and a predictor."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import linen as nn

from twostage_jax.config.schema import Config
from twostage_jax.engine.predictor import Predictor
from twostage_jax.errors import Corrupted, UserError
from twostage_jax.runs.build import make_networks
from twostage_jax.runs.handover import Sizes, chosen_groups, head_axes, load_heads
from twostage_jax.runs.prepare import read_config
from twostage_jax.runs.result import ResultRecord
from twostage_jax.runs.trials import make_trials, own_numbers
from twostage_jax.stages.stage import Params
from twostage_jax.store.checksums import check
from twostage_jax.store.layout import RESULT
from twostage_jax.store.records import Manifest, read_manifest, read_result


class Run(NamedTuple):
    """A finished run, read and verified.

    Attributes:
        folder: folder of the run.
        config: resolved config.
        manifest: content of `manifest.json`.
        record: content of `result.json`.
        encoder: module of the encoder.
        params: groups `encoder` and `head` of the chosen trials, `[M, ...]` if there are several.
        predictor: the classifier, or the ensemble that was chosen.
    """

    folder: Path
    config: Config
    manifest: Manifest
    record: ResultRecord
    encoder: nn.Module
    params: Params
    predictor: Predictor


def open_run(folder: Path, trust_code: bool = False) -> Run:
    """Open a finished run and verify its parameters.

    Args:
        folder: folder of the run.
        trust_code: True if its config may import the code that it names.

    Raises:
        UserError: if there is no finished run, or it needs code and `trust_code` is False.
        Corrupted: if a file differs from what was written.
    """
    config = read_config(folder, trust_code)
    if not (folder / RESULT).is_file():
        raise UserError(
            f"{folder} is not complete, it has no {RESULT}: finish it with twostage run --resume "
            f"--out {folder}"
        )
    check(folder)
    record = read_result(folder, ResultRecord)
    manifest = read_manifest(folder)
    trials = make_trials(config)
    shape = manifest.preprocessing.image_shape
    sizes = Sizes(record.data.labelled, record.data.validation)
    networks = make_networks(config, shape, len(manifest.classes), sizes.labelled, sizes.validation)
    params = load_heads(folder, manifest, networks, trials, sizes)
    rows = np.array(record.ensemble.rows)
    if rows[-1] >= len(trials.heads):
        raise Corrupted(f"{folder / RESULT} is corrupted: there is no trial {rows[-1]}")
    numbers = own_numbers(trials, networks)
    # The batches of the run itself, so that an evaluation repeats its figures to the bit.
    largest = max(record.data.validation, record.data.test)
    everybody = Predictor(networks.network, numbers, params, head_axes(trials), shape, largest)
    chosen = everybody.select(rows)
    groups = chosen_groups(chosen.params, trials, config.members)
    return Run(folder, config, manifest, record, networks.encoder, groups, chosen)
