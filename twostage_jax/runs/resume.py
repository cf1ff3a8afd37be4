"""Resume a stopped run: its config, and the changes that are allowed or refused."""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from twostage_jax import __version__
from twostage_jax.config.layers import from_dict, overlay, to_dict
from twostage_jax.config.schema import Config
from twostage_jax.engine.switches import numeric_switches
from twostage_jax.errors import UserError
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.checkpoint import Store
from twostage_jax.store.layout import MANIFEST, check_run
from twostage_jax.store.records import Manifest, checksum, read_manifest

PACKAGES = ("twostage-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# The placement of members does not change their result.
PLACEMENT_FIELDS = ("mesh", "members_per_chunk")
# The location of the data does not matter; its fingerprint identifies it.
LOCATION_FIELDS = ("data", "data_dir", "unlabeled", "image_dir", "cache_dir")
EPOCH_FIELDS = ("pretrain.epochs", "head.epochs")
TOLERANCE = 1e-5

Changes = dict[str, tuple[object, object]]


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that the bits of a result depend on."""
    # Of this code, also where another version is installed.
    return {name: __version__ if name == PACKAGES[0] else version(name) for name in PACKAGES}


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    """Return a config's JSON values on one level, with names such as `pretrain.epochs`."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and name in ("pretrain", "head"):
            flat |= {f"{name}.{inner}": x for inner, x in value.items()}
        else:
            flat[name] = value
    return flat


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> Changes:
    """Return `{name: (old, new)}` for every value in which two configs or tables differ."""
    before = _flat(old)
    after = _flat(new)
    names = {**before, **after}
    changes = {name: (before.get(name), after.get(name)) for name in names}
    return {name: (x, y) for name, (x, y) in changes.items() if x != y}


def describe_changes(changes: Changes) -> str:
    """Return `seed 0 -> 1, head.epochs 5 -> 10`."""
    # A setting that is not there is an empty text.
    return ", ".join(
        f"{name} {'none' if old == '' else old} -> {'none' if new == '' else new}"
        for name, (old, new) in changes.items()
    )


def run_identity(config: Config, fingerprint: str) -> dict[str, str]:
    """Return the checksums that every checkpoint of a run contains.

    The number of epochs and every location are left out: earlier epochs do not depend on them.
    """
    ignored = (*PLACEMENT_FIELDS, *LOCATION_FIELDS, *EPOCH_FIELDS)
    values = {name: x for name, x in _flat(to_dict(config)).items() if name not in ignored}
    return {"config": checksum(values), "data": fingerprint}


def resumed_folder(config: Config) -> Path:
    """Return the folder of the run to resume.

    Raises:
        UserError: if none is given, or it is not a run.
    """
    if config.out is None:
        raise UserError("--resume needs the folder of the run: add --out DIR")
    check_run(config.out)
    return config.out


def resumed_config(
    config: Config, versions: Mapping[str, str], trust_code: bool, allow_changed: bool
) -> Config:
    """Return the config of the run in `config.out`, which `config` must not contradict.

    Raises:
        UserError: if the run would become another one.
    """
    folder = resumed_folder(config)
    manifest = read_manifest(folder)
    stored = from_dict(manifest.config, str(folder / MANIFEST), trust_code)
    merged = overlay(config, to_dict(stored))
    changes = differences(manifest.versions, versions) | changed_switches(manifest)
    ignored = (*PLACEMENT_FIELDS, *LOCATION_FIELDS)
    changed = differences(manifest.config, to_dict(merged))
    changes |= {name: change for name, change in changed.items() if name not in ignored}
    begun = [stage for stage in ("pretrain", "head") if Store(folder / stage).steps]
    if manifest.test_reads:
        begun.append("test")
    # The learning rate of every step depends on the length of a cosine.
    fixed = [name for name in begun if name != "test" and _length_is_fixed(stored, name)]
    check_changes(folder, changes, begun, allow_changed, fixed)
    save_predictions = config.save_predictions or manifest.save_predictions
    return dataclasses.replace(merged, save_predictions=save_predictions)


def changed_switches(manifest: Manifest) -> Changes:
    """Return the settings of jax, now in effect, that differ from those of a run."""
    now = numeric_switches()
    # A run of an older version of this package has recorded fewer of them, or none.
    before = {name: value for name, value in manifest.switches.items() if name in now}
    return differences(before, {name: now[name] for name in before})


def notice_switches(folder: Path, manifest: Manifest, terminal: Terminal) -> None:
    """Print a notice if settings of jax differ from those of a run."""
    changes = changed_switches(manifest)
    if changes:
        terminal.notice(
            f"settings of jax have changed since {folder} was made ({describe_changes(changes)}): "
            "figures may differ from those of the run"
        )


def _length_is_fixed(config: Config, stage: str) -> bool:
    settings = getattr(config, stage)
    return settings.schedule == "cosine" and settings.schedule_epochs is None


def check_changes(
    folder: Path,
    changes: Changes,
    begun: Sequence[str],
    allow: bool,
    scheduled: Sequence[str] = (),
) -> None:
    """Refuse changes that would make another run of this one.

    Other versions and settings of jax can be allowed, and more epochs of a stage as long as the
    next stage has not begun and the test split has not been read.

    Args:
        folder: folder of the run.
        changes: differences in config, versions and settings of jax.
        begun: stages that have checkpoints, and `test` if the test split has been read.
        allow: True if the user accepts the changes that can be allowed.
        scheduled: stages with checkpoints whose learning rate depends on their number of epochs.

    Raises:
        UserError: lists the changes.
    """
    if not changes:
        return
    refusals = {name: _refusal(name, *change, begun, scheduled) for name, change in changes.items()}
    fixed = [name for name, reason in refusals.items() if reason is not None]
    started = f"{folder} was started with other settings: {describe_changes(changes)}"
    if fixed:
        reasons = list(dict.fromkeys(filter(None, refusals.values())))
        because = f", because {' and '.join(reasons)}" if reasons else ""
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in fixed)
        raise UserError(
            f"{started}; resume without {flags}{because}, or start a new run in a new --out"
        )
    if not allow:
        raise UserError(
            f"{started}; --allow-changed resumes anyway, but the result may differ from that of an "
            "uninterrupted run"
        )


def _refusal(
    name: str, old: object, new: object, begun: Sequence[str], scheduled: Sequence[str]
) -> str | None:
    """Return the reason why a change cannot be allowed, possibly empty; None if it can."""
    # Settings of jax and packages; only fields of the config can be given as flags.
    if name in PACKAGES or name.isupper():
        return None
    if name not in EPOCH_FIELDS or not isinstance(old, int) or not isinstance(new, int):
        return ""
    if new < old:
        return "trained epochs cannot be removed"
    if name.partition(".")[0] in scheduled:
        return "the cosine schedule of the learning rate ends with the last epoch"
    if name == "pretrain.epochs":
        return "stage 2 has begun" if "head" in begun else None
    return "the test split has been read" if "test" in begun else None


def updated_manifest(folder: Path, fresh: Manifest, terminal: Terminal) -> Manifest:
    """Return the manifest of a resumed run, with everything that is new in it.

    Raises:
        UserError: if the data or the encoder of another run have changed.
    """
    stored = read_manifest(folder)
    _check_inputs(folder, stored, fresh)
    placement = {name: stored.config.get(name) for name in PLACEMENT_FIELDS}
    moved = differences(vars(stored.machine), vars(fresh.machine))
    moved |= differences(placement, {name: fresh.config.get(name) for name in PLACEMENT_FIELDS})
    if moved:
        terminal.notice(
            f"{folder} resumes in another place ({describe_changes(moved)}): the result agrees "
            f"with that of an uninterrupted run to about {TOLERANCE:g}, not bit for bit"
        )
    config = {**fresh.config, **placement}
    changed = differences(stored.versions, fresh.versions)
    changed |= changed_switches(stored)
    changed |= differences(stored.config, config)
    allowed = [f"{name} {old} -> {new}" for name, (old, new) in (moved | changed).items()]
    # A stage that has been given more epochs goes past the epoch with which it was ended.
    stopped = {
        stage: epochs
        for stage, epochs in stored.stopped.items()
        if f"{stage}.epochs" not in changed
    }
    return dataclasses.replace(
        stored,
        config=config,
        versions=fresh.versions,
        machine=fresh.machine,
        switches=fresh.switches,
        save_predictions=fresh.save_predictions,
        preprocessing=fresh.preprocessing,
        classes=fresh.classes,
        # A run of stage 1 alone had no chunks of stage 2.
        chunks={**fresh.chunks, **stored.chunks},
        allowed=[*stored.allowed, *allowed],
        stopped=stopped,
    )


def _check_inputs(folder: Path, stored: Manifest, fresh: Manifest) -> None:
    """Raise `UserError` if a run would resume with other data or another encoder."""
    before = stored.data
    now = fresh.data
    source = fresh.config.get("data")
    if before.fingerprint != now.fingerprint:
        raise UserError(
            f"{folder} was started on {before.name} {before.fingerprint}, but {source} is now "
            f"{now.fingerprint}: start a new run in a new --out"
        )
    if before.order != now.order:
        raise UserError(
            f"{source} has the examples of {folder} in another order, so other examples would be "
            "trained on and tested: restore the order, or start a new run in a new --out"
        )
    if stored.encoder != fresh.encoder:
        raise UserError(
            f"{fresh.config.get('encoder_run')} has another encoder than when {folder} was "
            "started: start a new run in a new --out"
        )
