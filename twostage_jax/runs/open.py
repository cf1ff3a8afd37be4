"""A run opened again: from its folder back to modules and verified parameters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from twostage_jax.config.fields import check_whole
from twostage_jax.config.schema import Config, from_dict, unresolved
from twostage_jax.data.dataset import Dataset
from twostage_jax.data.sources import load, load_images
from twostage_jax.engine.predictor import Trained
from twostage_jax.errors import Corrupted, UserError
from twostage_jax.runs.build import Nets, batch_spec, make_nets
from twostage_jax.runs.resume import check_unchanged
from twostage_jax.runs.trials import make_roster
from twostage_jax.stages.stage import Params, Stage
from twostage_jax.store import checksums as sums
from twostage_jax.store import layout as folders
from twostage_jax.store.checkpoint import Store, describe
from twostage_jax.trees import digest


class Run(NamedTuple):
    """A run's folder, read and checked.

    Attributes:
        folder: where it lies.
        config: resolved.
        manifest: the hand-over.
        record: what `result.json` holds.
        nets: modules and stages.
        trained: the classifier, or the ensemble that was chosen, verified.
    """

    folder: Path
    config: Config
    manifest: dict[str, Any]
    record: dict[str, Any]
    trained: Trained


def read_config(folder: Path, trust_code: bool = False, check: bool = True) -> Config:
    """The config of the run in `folder`.

    Args:
        folder: of the run.
        trust_code: let it import the encoder or objective it names.
        check: whether it has to be the one that the manifest says the run was started with.

    Raises:
        UserError: no run there, or code to import without `trust_code`.
        Corrupted: a file that is not what was written.
    """
    path, values = folder / folders.CONFIG, folders.read_json(folder, folders.CONFIG)
    if check:
        check_unchanged(folder, values)
    config = from_dict(values, str(path), trust_code)
    if lacking := unresolved(config):
        raise Corrupted(f"{path} is damaged: it lacks {', '.join(lacking)}")
    return config


def load_params(
    folder: Path,
    name: str,
    stage: Stage,
    image_shape: tuple[int, ...],
    counts: Mapping[str, int] | None = None,
) -> Params:
    """The parameters that stage `name` of the run in `folder` ended with.

    They are held against their checkpoint's own table and against the manifest. `counts` says of
    how many members a group holds the parameters, where it has a member axis; of a stage 1 there
    must be one, and its axis is dropped.

    Raises:
        UserError: leaves that are missing, unexpected, misshaped, wrongly typed or damaged.
    """
    if not (folder / name).is_dir():
        raise Corrupted(f"{folder} has no stage {name}: give a run that has finished it")
    expected = jax.eval_shape(stage.init, jax.random.key(0), batch_spec(image_shape))
    for group, count in (counts or {}).items():
        expected[group] = jax.tree.map(
            lambda x, count=count: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), expected[group]
        )
    params = Store(folder / name).load({"params": expected}).trees["params"]
    if name == "pretrain" and counts:
        params = jax.tree.map(lambda x: x[0], params)
    groups = folders.read_json(folder, folders.MANIFEST)["groups"]
    for group, tree in params.items():
        with folders.meant(folder / folders.MANIFEST):
            known = groups.get(group, {}).get("sha256")
        if known != digest(tree):
            raise Corrupted(
                f"{folder / name}: group {group} is not the one that manifest.json describes; the "
                "run is damaged or unfinished"
            )
    return params


def describe_groups(params: Params) -> dict[str, Any]:
    """The `groups` of a manifest: per group its digest, and shape, dtype, sha256 of each leaf."""
    return {
        name: {"sha256": digest(tree), "leaves": describe(tree)} for name, tree in params.items()
    }


def open_run(folder: Path, trust_code: bool = False) -> Run:
    """A complete run, its parameters verified.

    Raises:
        UserError: no complete run there, or one that is damaged.
    """
    config = read_config(folder, trust_code)
    if not (folder / folders.RESULT).is_file():
        raise UserError(
            f"{folder} is not complete, it has no {folders.RESULT}: finish it with twostage run "
            f"--resume --out {folder}"
        )
    sums.check(folder)
    record = folders.read_json(folder, folders.RESULT)
    manifest = folders.read_json(folder, folders.MANIFEST)
    image_shape = shape_of_images(folder, manifest)
    nets = make_nets(config, image_shape, len(manifest["classes"]))
    return Run(
        folder, config, manifest, record, _trained(folder, config, nets, record, image_shape)
    )


def shape_of_images(folder: Path, manifest: Mapping[str, Any]) -> tuple[int, int, int]:
    """`(H, W, C)` of the images that a run was trained on, as its manifest has it."""
    with folders.meant(folder / folders.MANIFEST):
        height, width, channels = manifest["preprocessing"]["image"][1:]
        for size in (height, width, channels):
            check_whole("the size of an image", size, 1)
        return height, width, channels


def _trained(folder: Path, config: Config, nets: Nets, record: Any, image_shape: Any) -> Trained:
    roster = make_roster(config)
    counts = {} if roster.alone else {"head": len(roster.rows)}
    own = len(roster.encoders) > 1
    if own:
        counts["encoder"] = len(roster.rows)
    params = load_params(folder, "head", nets.classify(), image_shape, counts)
    if roster.alone:
        return Trained(nets, params)
    with folders.meant(folder / folders.RESULT):
        rows = record["ensemble"]["rows"]
        if not rows or any(type(row) is not int for row in rows) or rows != sorted(set(rows)):
            raise ValueError("the rows of the ensemble are not some of the members in order")
        if not 0 <= rows[0] <= rows[-1] < len(roster.rows):
            raise ValueError(f"rows {rows[0]} to {rows[-1]} of {len(roster.rows)}")
    return choose_members(nets, params, np.array(rows), own)


def choose_members(nets: Nets, params: Params, rows: np.ndarray, own_encoders: bool) -> Trained:
    """The ensemble of some rows of what stage 2 has trained."""
    groups = {name: jax.device_get(params[name]) for name in ("encoder", "head")}
    for name in ("encoder", "head") if own_encoders else ("head",):
        groups[name] = jax.tree.map(lambda x: x[rows], groups[name])
    return Trained(nets, groups, len(rows), own_encoders)


def run_dataset(run: Run, spec: str | None = None, data_dir: Path | None = None) -> Dataset:
    """The run's own data, or `spec`, made sure to be what the run's network can take.

    Raises:
        UserError: own data that has changed, or other data of another shape or number of classes.
    """
    config = run.config
    if spec is None:
        dataset = load(config.data, config.validation, data_dir or config.data_dir)
        if not is_own(run, dataset):
            raise UserError(
                f"{config.data} has changed since {run.folder} was made: its fingerprint is "
                f"{dataset.fingerprint}; name it with --data to evaluate on it all the same"
            )
        return dataset
    dataset = load(spec, None, data_dir)
    if dataset.fingerprint == run.manifest["data"]["fingerprint"]:
        # The run's own, wherever it lies; validation is the one that it had.
        dataset = load(spec, config.validation, data_dir)
        is_own(run, dataset)
    _check_images(run, spec, dataset.image_shape)
    found, expected = len(dataset.classes), len(run.manifest["classes"])
    if found > expected:
        raise UserError(
            f"{spec} has images of {found} classes and {run.folder} takes {expected}: give data of "
            "that kind"
        )
    return dataset


def is_own(run: Run, dataset: Dataset) -> bool:
    """Whether these are the data of the run.

    Raises:
        UserError: its examples, but others of them are validation or test.
    """
    own = run.manifest["data"]
    if dataset.fingerprint != own["fingerprint"]:
        return False
    if dataset.parts != own["parts"]:
        raise UserError(
            f"{dataset.name} has the examples of {run.folder} in another order, so others would be "
            "tested: give them in the order in which it had them"
        )
    return True


def other_images(run: Run, spec: str, data_dir: Path | None = None) -> np.ndarray:
    """Images of a source that the run's network can take, whatever their classes.

    Raises:
        UserError: images of another shape.
    """
    images = load_images(spec, data_dir)
    _check_images(run, spec, images.shape[1:])
    return images


def _check_images(run: Run, spec: str, shape: Sequence[int]) -> None:
    expected = run.manifest["preprocessing"]["image"][1:]
    if list(shape) != expected:
        raise UserError(
            f"{spec} has images {list(shape)} and {run.folder} takes images {expected}: give data "
            "of that kind"
        )
