"""The lines at the start of a run: device, data, folder, placement of the members."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from twostage_jax.config.choices import SOLVED, WEIGHTED
from twostage_jax.config.layers import default_preset
from twostage_jax.config.presets import STEPS
from twostage_jax.engine.device import Device
from twostage_jax.errors import shown
from twostage_jax.runs.plan import Plan
from twostage_jax.runs.programs import Placed
from twostage_jax.show.duplicates import show_duplicates
from twostage_jax.show.start import PlanRow, show_data, show_device, show_plan
from twostage_jax.show.tables import counted
from twostage_jax.show.terminal import Terminal

UNEVEN = 10  # ratio of the largest class to the smallest from which on weights are recommended

SMALL = ("blog", "quick")  # presets of fully connected networks


def announce(
    plan: Plan, placed: Mapping[str, Placed], folder: Path, device: Device, terminal: Terminal
) -> None:
    """Print device, data, folder and placement of a run."""
    show_machine(device, terminal)
    show_data(plan.dataset, _sizes(plan), terminal)
    _show_uneven_classes(plan, terminal)
    settings = plan.config
    terminal.line(f"run in {folder}, preset {settings.preset}, seed {settings.seed}", hang=2)
    default = default_preset(plan.dataset.image_shape)
    if default == "photos" and settings.preset in SMALL:
        terminal.notice(
            f"preset {settings.preset} is for small grey images: leave out --preset, and these "
            f"images get {default}"
        )
    if "pretrain" in plan.stages and plan.labels_read:
        terminal.notice(
            f"stage 1 ({settings.pretrain.objective}) uses {plan.labels_read:,} labels: its "
            "encoder is no evidence for pretraining without labels"
        )
    if plan.duplicates is not None:
        duplicates = plan.duplicates
        counts = duplicates.counts
        show_duplicates(counts, _sizes(plan), duplicates.near, duplicates.reason, terminal)
    augmentation = plan.augmentation
    # There are figures only if the name was not given.
    if augmentation is not None and augmentation.figures and "pretrain" in plan.stages:
        terminal.line(
            f"augmentation: {augmentation.name}, chosen because {augmentation.reason}; "
            "--augment NAME overrides",
            hang=2,
        )
    if settings.preset in STEPS:
        _show_epochs(plan, terminal)
    rows = []
    for stage, (placement, need, _) in placed.items():
        chunks = len(placement.pieces)
        devices = placement.mesh.size
        rows.append(PlanRow(stage, placement.members, chunks, devices, need.member, need.common))
    show_plan(rows, plan.encoding if "head" in plan.stages else None, terminal)
    for stage, place in placed.items():
        if place.speed is not None:
            terminal.line(f"{stage}: {place.speed.words}", hang=2)


def _show_uneven_classes(plan: Plan, terminal: Terminal) -> None:
    """Recommend class weights if a class is much rarer than another, and they would apply."""
    settings = plan.config
    protocol = settings.head.protocol
    takes_weights = protocol not in SOLVED or protocol in WEIGHTED
    if "head" not in plan.stages or settings.class_weights == "auto" or not takes_weights:
        return
    present, counts = np.unique(plan.dataset.train["label"], return_counts=True)
    if counts.max() > UNEVEN * counts.min():
        rare = shown(plan.dataset.classes[int(present[counts.argmin()])])
        terminal.line(
            f"  classes are uneven, {counts.min():,} (class {rare}) to {counts.max():,} training "
            "images: --class-weights auto makes all classes count the same",
            hang=4,
        )


def _show_epochs(plan: Plan, terminal: Terminal) -> None:
    """Print the numbers of epochs: by default, they follow from the numbers of examples."""
    for stage in plan.stages:
        settings = getattr(plan.config, stage)
        if settings.epochs:  # a solved head has none
            steps = -(-plan.examples.counts[stage] // settings.batch_size)
            length = f"{counted(settings.epochs, 'epoch')} of {counted(steps, 'step')}"
            terminal.line(f"{stage}: {length} (--{stage}.epochs)", hang=2)


def show_machine(device: Device, terminal: Terminal) -> None:
    """Print device, cores and versions, and a notice about a device that is not used."""
    note = device.note or ""
    show_device(device.kind, device.count, device.cores, device.versions, note, terminal)


def _sizes(plan: Plan) -> dict[str, int]:
    """Return the number of examples of each split, and of those with and without a label."""
    dataset = plan.dataset
    if not dataset.classes:
        return {"unlabelled": len(plan.examples.images)}
    sizes = {
        "train": len(dataset.train["label"]),
        "validation": len(dataset.validation["label"]),
        "test": plan.tested,
    }
    images = len(plan.examples.images)
    if plan.examples.labelled != images:
        sizes["labelled"] = plan.examples.labelled
        sizes["unlabelled"] = images - plan.examples.labelled
    return sizes
