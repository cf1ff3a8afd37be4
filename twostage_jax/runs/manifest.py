"""The manifest of a run: before anything is trained, and in the folder of a resumed run."""

import dataclasses
from pathlib import Path

import jax

from twostage_jax.config.layers import to_dict
from twostage_jax.engine.compile import cores
from twostage_jax.engine.switches import numeric_switches
from twostage_jax.runs.handover import source_digest
from twostage_jax.runs.plan import Plan
from twostage_jax.runs.programs import Placed
from twostage_jax.runs.resume import package_versions, updated_manifest
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.atomic import write_bytes
from twostage_jax.store.layout import CONFIG, MANIFEST
from twostage_jax.store.records import (
    DataRecord,
    MachineRecord,
    Manifest,
    PreprocessingRecord,
    json_bytes,
    read_manifest,
    repeatable_config,
    write_manifest,
)


def make_manifest(plan: Plan, placed: dict[str, Placed]) -> Manifest:
    """Return the manifest of a run that has not trained anything yet.

    It contains the number of members that train together, by stage; a resumed run keeps it.
    """
    config = plan.config
    dataset = plan.dataset
    manifest = Manifest(
        schema=1,
        config=to_dict(config),
        groups={},
        preprocessing=PreprocessingRecord(
            image=("uint8", *dataset.image_shape),
            formula="(x / 255 - 0.5) / 0.5",
            fit=dataset.fit,
        ),
        classes=list(dataset.classes),
        data=DataRecord(
            dataset.name, dataset.fingerprint, dataset.order, dataset.parts, dataset.scale
        ),
        chunks={stage: place.placement.chunk for stage, place in placed.items()},
        versions=package_versions(),
        machine=current_machine(),
        allowed=[],
        save_predictions=config.save_predictions,
        test_reads=0,
        switches=numeric_switches(),
        augmentation=None if config.encoder_run else plan.augmentation,
    )
    if config.encoder_run:
        source = read_manifest(Path(config.encoder_run))
        encoder = source_digest(source)
        manifest = dataclasses.replace(manifest, pretrain=source.pretrain, encoder=encoder)
    return manifest


def current_machine() -> MachineRecord:
    """Return the hardware that the bits of a result depend on."""
    return MachineRecord(jax.devices()[0].device_kind, jax.device_count(), cores())


def open_folder(folder: Path, manifest: Manifest, terminal: Terminal) -> Manifest:
    """Make a folder that of this run, or resume the run in it; returns its manifest.

    Raises:
        UserError: if the folder has a run on other data.
    """
    if (folder / MANIFEST).is_file():
        manifest = updated_manifest(folder, manifest, terminal)
    write_manifest(folder, manifest)
    # For people, and for --config; no command decides by it.
    write_bytes(folder / CONFIG, json_bytes(repeatable_config(manifest)))
    return manifest
