"""How a run begins: what earlier runs say of its config, and its folder."""

import dataclasses
from importlib.metadata import version
from pathlib import Path

import jax

from twostage_jax import folder as folders
from twostage_jax.config import MEMBERS, Config, check, overlay, to_dict
from twostage_jax.data import Dataset
from twostage_jax.errors import UserError
from twostage_jax.members import make_roster
from twostage_jax.networks import Nets, batch_spec
from twostage_jax.runs import load_params, read_config
from twostage_jax.stage import Params

PACKAGES = ("twostage-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def settle(config: Config, resume: bool, pretrain_only: bool, trust_code: bool) -> Config:
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
    # Where members are placed does not decide what they become.
    placing = ("mesh", "members_per_chunk")
    changed = [name for name in old if old[name] != new[name] and name not in placing]
    rosters = make_roster(stored), make_roster(merged)
    if len({(one.alone, one.stacked("pretrain")) for one in rosters}) > 1:
        # A mesh makes members of what was an ordinary training, whose checkpoints look different.
        changed.append("mesh")
    if changed:
        raise UserError(
            f"{config.out} was started with another {', '.join(changed)}: resume it without these "
            "flags, or start a new run in a new --out"
        )
    return merged


def enter(config: Config, dataset: Dataset, resume: bool, chunks: dict[str, int]) -> Path:
    """The folder of this run with config and manifest in it: a new one, or the resumed one.

    `chunks` says how many members train at a time, by stage; a resumed run keeps to it.
    """
    manifest = {
        "schema": 1,
        "groups": {},
        "preprocessing": {
            "image": ["uint8", *dataset.image_shape],
            "formula": "(x / 255 - 0.5) / 0.5",
        },
        "classes": list(dataset.classes),
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "chunks": chunks,
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


def load_pretrained(config: Config, nets: Nets, dataset: Dataset) -> Params:
    """The groups of stage 1 of the run whose encoder this one uses.

    Raises:
        UserError: images of another shape, or a run that is damaged.
    """
    source = Path(str(config.encoder_run))
    manifest = folders.read_json(source, folders.MANIFEST)
    expected = manifest["preprocessing"]["image"][1:]
    if list(dataset.image_shape) != expected:
        raise UserError(
            f"the encoder of {source} takes images {expected} and {config.data} has "
            f"{list(dataset.image_shape)}: give data of that shape"
        )
    stage = nets.pretrain()
    counts = {}
    if make_roster(read_config(source, trust_code=True)).stacked("pretrain"):
        shapes = jax.eval_shape(stage.init, jax.random.key(0), batch_spec(dataset.image_shape))
        counts = dict.fromkeys(shapes, 1)
    return load_params(source, "pretrain", stage, dataset.image_shape, counts)
