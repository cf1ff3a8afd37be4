"""What a run was started as, what it would go on as, and which differences can be allowed."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.store import layout as folders

PACKAGES = ("twostage-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Where members are placed does not decide what they become.
PLACING = ("mesh", "members_per_chunk")
# Nor where the data lie what they are, which their fingerprint and order say.
LYING = ("data", "data_dir")
EPOCHS = ("pretrain.epochs", "head.epochs")
TOLERANCE = 1e-5


def versions() -> dict[str, str]:
    """Versions of the packages that decide which bits come out."""
    return {name: version(name) for name in PACKAGES}


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config as `to_dict` gives it with `pretrain.epochs` and the like in one level."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": x for inner, x in value.items()}
        else:
            found[name] = value
    return {name: list(x) if isinstance(x, tuple) else x for name, x in found.items()}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """`{name: (old, new)}` of what two configs or lists of versions do not have in common."""
    one, other = flat(old), flat(new)
    return {
        name: (one.get(name), other.get(name))
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    }


def listed(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """`seed 0 -> 1, head.epochs 5 -> 10`."""
    return ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changes.items())


def identity(config: Mapping[str, Any], fingerprint: str) -> dict[str, str]:
    """What every checkpoint of a run says it belongs to.

    Neither the number of epochs nor any place is part of it: what was trained before is the same
    whatever they are.
    """
    kept = {n: x for n, x in flat(config).items() if n not in (*PLACING, *LYING, *EPOCHS)}
    return {"config": folders.checksum(kept), "data": fingerprint}


def check_unchanged(folder: Path, values: Mapping[str, Any]) -> None:
    """Raise `Corrupted` where the `config.json` of a run is not what it was started with."""
    if not (folder / folders.MANIFEST).is_file():
        return
    started = folders.read_json(folder, folders.MANIFEST)["config"]
    if changed := differences(started, values):
        raise Corrupted(
            f"{folder / folders.CONFIG} has changed since the run was started: {listed(changed)}; "
            "put it back, or give a copy elsewhere to --config"
        )


def check_changes(
    folder: Any,
    changes: Mapping[str, tuple[Any, Any]],
    begun: Sequence[str],
    allow: bool,
) -> None:
    """Refuse to go on with a run that would become another one.

    More epochs of a stage can be allowed as long as the next one has not begun and the test part
    has not been read, and other versions.

    Args:
        folder: of the run.
        changes: of config and versions.
        begun: stages that have checkpoints, and `test` where the test part has been read.
        allow: whether the user wants what can be allowed.

    Raises:
        UserError: with the list of what has changed.
    """
    if not changes:
        return
    found = {name: _fixed(name, *each, begun) for name, each in changes.items()}
    fixed = {name: why for name, why in found.items() if why is not None}
    if fixed:
        reasons = " and ".join(filter(None, dict.fromkeys(fixed.values())))
        raise UserError(
            f"{folder} was started with other settings: {listed(changes)}; resume it without "
            f"{', '.join(fixed)}{f', because {reasons}' if reasons else ''}, or start a new run in "
            "a new --out"
        )
    if not allow:
        raise UserError(
            f"{folder} was started with other settings: {listed(changes)}; --allow-changed goes on "
            "all the same, and the result may then not be that of an uninterrupted run"
        )


def _fixed(name: str, old: Any, new: Any, begun: Sequence[str]) -> str | None:
    """Why a difference cannot be allowed, empty where that needs no reason; None if it can."""
    if name in PACKAGES:
        return None
    if name not in EPOCHS:
        return ""
    if new < old:
        return "epochs that were trained stay"
    if name == "pretrain.epochs":
        return "stage 2 has begun" if "head" in begun else None
    return "the test part has been read" if "test" in begun else None
