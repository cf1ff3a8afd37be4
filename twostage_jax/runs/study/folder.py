"""Folder of a study: `study.json`, settings, and resumption."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from twostage_jax.config.fields import declarations, dotted
from twostage_jax.config.layers import from_dict, to_dict
from twostage_jax.config.studies import Study, own_options
from twostage_jax.data.spec import absolute
from twostage_jax.errors import UserError
from twostage_jax.files import read_json
from twostage_jax.store.atomic import write_bytes
from twostage_jax.store.layout import LOCK
from twostage_jax.store.records import json_bytes

Values: TypeAlias = dict[str, Any]  # JSON values, or a row of a table, by name
STUDY = "study.json"
SCHEMA = 1


def settings_of(study: Study, name: str) -> Values:
    """Settings that determine the numbers of a study, as JSON values."""
    config = to_dict(study.config)
    config["data"] = absolute(config["data"]) if config["data"] else None  # pyright: ignore
    options = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in own_options(study).items()
    }
    source = str(study.from_.absolute()) if study.from_ else None
    return {"study": name, "from": source, "config": config, "options": options}


def read_study(folder: Path) -> Values:
    """Read `study.json`.

    Raises:
        UserError: a folder without this file, or a file with other content.
    """
    path = folder / STUDY
    if not path.is_file():
        raise UserError(
            f"{folder} is not the folder of a study, it has no {STUDY}: give the folder that the "
            "study printed"
        )
    content = read_json(path, regular=True)
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise UserError(f"{path} is corrupted: it has no settings; start the study again")
    return content


def resumed_study(study: Study, name: str) -> Study:
    """Return `study`, completed with the settings in its folder.

    Raises:
        UserError: no such folder, another study, or a setting that differs.
    """
    assert study.out is not None, "`check_study` has rejected this"
    content = read_study(study.out)
    old = content["settings"]
    where = str(study.out / STUDY)
    if old.get("study") != name:
        raise UserError(
            f"{study.out} has the study {old.get('study')}: resume it with twostage study "
            f"{old.get('study')} --resume --out {study.out}"
        )
    options = old.get("options")
    if not isinstance(options, dict) or not options.keys() <= own_options(study).keys():
        raise UserError(f"{where} is corrupted: its options are not those of a study")
    config = from_dict(old.get("config"), where, study.trust_code)
    values = {key: getattr(config, key) for key in vars(config) if hasattr(study, key)}
    values |= options
    values["from_"] = Path(old["from"]) if old.get("from") else None
    fresh = settings_of(study, name)
    requested = {**fresh["config"], **fresh["options"], "from": fresh["from"]}
    recorded = {**old["config"], **options, "from": old.get("from")}
    for key, value in requested.items():
        # A switch that is not given is False.
        empty = value is None or value is False
        empty = empty or (isinstance(value, dict) and not any(value.values()))
        if not empty and value != recorded.get(key):
            raise UserError(
                f"{study.out} was started with another --{dotted(key)}: resume it without "
                f"--{dotted(key)}, or give a new --out"
            )
    values = {key: _normal(study, key, value) for key, value in values.items()}
    return dataclasses.replace(study, **{**values, "out": study.out})


def _normal(study: Study, key: str, value: object) -> object:
    declaration = declarations(type(study)).get(key)
    return declaration.normal(value) if declaration else value


def resume_command(study: Study, name: str, folder: Path) -> str:
    """Return the command that resumes a study."""
    words = ["twostage", "study", name, "--resume"]
    if study.trust_code:
        words.append("--trust-code")
    if study.device:
        words += ["--device", study.device]
    return shlex.join([*words, "--out", str(folder)])


def check_new(folder: Path) -> None:
    """Check that a new study can use a folder.

    Raises:
        UserError: if it contains a study or foreign files.
    """
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise UserError(f"cannot use {folder}: {error.strerror}; give another --out") from error
    if STUDY in names:
        raise UserError(
            f"{folder} already contains a study: give a new --out, or resume it with --resume"
        )
    foreign = [name for name in names if name != LOCK]
    if foreign:
        raise UserError(f"{folder} is not empty (it contains {foreign[0]}): give a new --out")


def write_study(folder: Path, content: Mapping[str, object]) -> None:
    """Write `study.json` atomically."""
    write_bytes(folder / STUDY, json_bytes(dict(content)))
