"""How a run begins: what earlier runs say of its config, and its folder."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from twostage_jax.config.fields import check_out
from twostage_jax.config.schema import MEMBERS, Config, check, from_dict, overlay, to_dict
from twostage_jax.data.dataset import TrainingData
from twostage_jax.data.spec import absolute
from twostage_jax.engine.compile import cores
from twostage_jax.errors import UserError
from twostage_jax.runs.build import Nets, batch_spec
from twostage_jax.runs.open import load_params, read_config, shape_of_images
from twostage_jax.runs.programs import Placed
from twostage_jax.runs.resume import (
    LYING,
    PLACING,
    TOLERANCE,
    check_changes,
    differences,
    listed,
    versions,
)
from twostage_jax.runs.trials import make_roster
from twostage_jax.show.terminal import Terminal
from twostage_jax.stages.stage import Params
from twostage_jax.store import layout as folders
from twostage_jax.store.checkpoint import Store
from twostage_jax.store.lock import locked


def settle(
    config: Config, resume: bool, pretrain_only: bool, trust_code: bool, allow_changed: bool
) -> Config:
    """`config` with what earlier runs say about it, before any data is read."""
    check(config)
    check_out(config.out or Path())
    config = dataclasses.replace(config, data=absolute(config.data))
    if resume:
        config = _resumed(_at_root(config, trust_code), trust_code, allow_changed)
    elif config.encoder_run:
        config = _on_encoder_of(config, trust_code)
    if config.out and not resume:
        if (config.out / folders.LOCK).is_file():
            with locked(config.out, lambda text: None):  # who is at it says more than what is in it
                pass
        folders.check_free(config.out)
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
    if (count := len(make_roster(base).encoders)) > 1:
        raise UserError(
            f"{source} has {count} encoders, and heads go on one: give a run with one, as --share "
            "encoder makes it"
        )
    # How many there were of it is not what a new head is asked to repeat.
    values = to_dict(base) | {**MEMBERS, "noise": base.noise}
    values |= dict.fromkeys(("sweep", "mesh", "members_per_chunk"))
    if config.data not in (None, base.data):
        values |= {"validation": None, "data_dir": None}
    values["encoder_run"] = _at_root(config, trust_code).encoder_run
    merged = overlay(dataclasses.replace(config, encoder_run=None), values)
    if merged.pretrain != base.pretrain:
        raise UserError(f"stage 1 is the one of {source}: leave the --pretrain flags out")
    return merged


def _at_root(config: Config, trust_code: bool) -> Config:
    """`config` on the run that has trained its encoder; what it names may have taken it over."""
    if not config.encoder_run:
        return config
    source = Path(config.encoder_run)
    root = read_config(source, trust_code).encoder_run or str(source.absolute())
    return dataclasses.replace(config, encoder_run=root)


def _resumed(config: Config, trust_code: bool, allow_changed: bool) -> Config:
    """The config of the run in `config.out`, which `config` must not contradict."""
    folder, changes = resumed_folder(config), {}
    manifest = None
    if (folder / folders.MANIFEST).is_file():
        manifest = folders.read_json(folder, folders.MANIFEST)
        changes = differences(manifest["versions"], versions())
    if manifest and not (folder / folders.CONFIG).is_file():
        stored = from_dict(manifest["config"], str(folder / folders.MANIFEST), trust_code)
    else:
        # With what is allowed, the file may be newer than the manifest, after a kill in between.
        stored = read_config(folder, trust_code, check=not allow_changed)
    merged = overlay(config, to_dict(stored))
    started = manifest["config"] if manifest else to_dict(stored)
    changed = differences(started, to_dict(merged))
    changes |= {name: each for name, each in changed.items() if name not in (*PLACING, *LYING)}
    rosters = make_roster(stored), make_roster(merged)
    if len({(one.alone, one.stacked("pretrain")) for one in rosters}) > 1:
        # A mesh makes members of what was an ordinary training, whose checkpoints look different.
        changes["mesh"] = (stored.mesh, merged.mesh)
    begun = [name for name in ("pretrain", "head") if Store(folder / name).steps]
    begun += ["test"] if manifest and manifest["test_reads"] else []
    with folders.meant(folder / folders.MANIFEST):
        check_changes(folder, changes, begun, allow_changed)
    predictions = config.save_predictions or bool(manifest and manifest["save_predictions"])
    return dataclasses.replace(merged, save_predictions=predictions)


def resumed_folder(config: Config) -> Path:
    """Where the run lies that is to be resumed."""
    if config.out is None:
        raise UserError("--resume needs the folder to go on with: add --out DIR")
    folders.check_run(config.out)
    return config.out


def describe(config: Config, dataset: TrainingData, placed: Mapping[str, Placed]) -> dict[str, Any]:
    """The manifest of a run that has not trained anything yet.

    It says how many members train at a time, by stage; a resumed run keeps to it.
    """
    manifest = {
        "schema": 1,
        "config": to_dict(config),
        "groups": {},
        "preprocessing": {
            "image": ["uint8", *dataset.image_shape],
            "formula": "(x / 255 - 0.5) / 0.5",
        },
        "classes": list(dataset.classes),
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "order": dataset.order,
            "parts": dataset.parts,
        },
        "chunks": {name: each.placement.chunk for name, each in placed.items()},
        "versions": versions(),
        "machine": machine(),
        "allowed": [],
        "save_predictions": config.save_predictions,
        "test_reads": 0,
    }
    if config.encoder_run:
        source = folders.read_json(Path(config.encoder_run), folders.MANIFEST)
        with folders.meant(Path(config.encoder_run) / folders.MANIFEST):
            known = ("objective", "epochs", "loss")
            manifest |= {
                "pretrain": {name: source["pretrain"][name] for name in known},
                "encoder": source["groups"]["encoder"]["sha256"],
            }
    return manifest


def enter(folder: Path, config: Config, manifest: dict[str, Any], terminal: Terminal) -> None:
    """Make a folder the one of this run, with config and manifest in it, or go on with it.

    Raises:
        UserError: a run on other data.
    """
    if (folder / folders.MANIFEST).is_file():
        manifest = _gone_on(folder, config, manifest, terminal)
    # The config first: a run is one from then on.
    for name, values in ((folders.CONFIG, manifest["config"]), (folders.MANIFEST, manifest)):
        folders.write_json(folder, name, values)


def _gone_on(
    folder: Path, config: Config, fresh: dict[str, Any], terminal: Terminal
) -> dict[str, Any]:
    """The manifest of a run that goes on, with what is new in it."""
    stored = folders.read_json(folder, folders.MANIFEST)
    _check_given(folder, config, stored, fresh)
    moved = differences(stored["machine"], fresh["machine"])
    with folders.meant(folder / folders.MANIFEST):
        placing = {name: stored["config"][name] for name in PLACING}
    moved |= differences(placing, {name: fresh["config"][name] for name in PLACING})
    if moved:
        terminal.notice(
            f"{folder} goes on where it did not begin ({listed(moved)}): the result agrees with "
            f"that of an uninterrupted run to about {TOLERANCE:g}, not bit for bit"
        )
    fresh = {**fresh, "config": fresh["config"] | placing}
    changed = differences(stored["versions"], fresh["versions"])
    changed |= differences(stored["config"], fresh["config"])
    allowed = [f"{name} {old} -> {new}" for name, (old, new) in (moved | changed).items()]
    kept = ("config", "versions", "machine", "save_predictions", "preprocessing", "classes")
    return {
        **stored,
        **{name: fresh[name] for name in kept},
        "allowed": [*stored["allowed"], *allowed],
    }


def _check_given(
    folder: Path, config: Config, stored: Mapping[str, Any], fresh: Mapping[str, Any]
) -> None:
    """Raise `UserError` where a run would go on with other data or another encoder."""
    was, now = stored["data"], fresh["data"]
    if was["fingerprint"] != now["fingerprint"]:
        raise UserError(
            f"{folder} was started on {was['name']} {was['fingerprint']} and {config.data} is now "
            f"{now['fingerprint']}: start a new run in a new --out"
        )
    if was["order"] != now["order"]:
        raise UserError(
            f"{config.data} has the examples that {folder} was started on in another order, so "
            "others would be trained on and tested: put them back in order, or start a new run in "
            "a new --out"
        )
    if stored.get("encoder") != fresh.get("encoder"):
        raise UserError(
            f"{config.encoder_run} has another encoder than when {folder} was started: start a new "
            "run in a new --out"
        )


def machine() -> dict[str, Any]:
    """What a run computes on, as far as its bits depend on it."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": cores(),
    }


def load_pretrained(config: Config, nets: Nets, dataset: TrainingData) -> Params:
    """The groups of stage 1 of the run whose encoder this one uses.

    Raises:
        UserError: images of another shape, or a run that is damaged.
    """
    source = Path(str(config.encoder_run))
    manifest = folders.read_json(source, folders.MANIFEST)
    expected = shape_of_images(source, manifest)
    if dataset.image_shape != expected:
        raise UserError(
            f"the encoder of {source} takes images {list(expected)} and {config.data} has "
            f"{list(dataset.image_shape)}: give data of that shape"
        )
    stage = nets.pretrain()
    counts = {}
    if make_roster(read_config(source, trust_code=True)).stacked("pretrain"):
        shapes = jax.eval_shape(stage.init, jax.random.key(0), batch_spec(dataset.image_shape))
        counts = dict.fromkeys(shapes, 1)
    return load_params(source, "pretrain", stage, dataset.image_shape, counts)
