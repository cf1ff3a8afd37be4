"""The lines at the start of a run: device, data, folder, placement of the members."""

from collections.abc import Mapping
from pathlib import Path

from twostage_jax.engine.device import Device, find_device
from twostage_jax.runs.programs import Placed, Plan
from twostage_jax.show.start import PlanRow, show_data, show_device, show_plan
from twostage_jax.show.terminal import Terminal


def announce(plan: Plan, placed: Mapping[str, Placed], folder: Path, terminal: Terminal) -> None:
    """Print what is about to run."""
    show_data(plan.dataset, _sizes(plan), terminal)
    settings = plan.config
    terminal.line(f"run in {folder}, preset {settings.preset}, seed {settings.seed}", hang=2)
    rows = []
    for stage, (placement, need) in placed.items():
        chunks = len(placement.pieces)
        devices = placement.mesh.size
        rows.append(PlanRow(stage, placement.members, chunks, devices, need.member, need.common))
    show_plan(rows, plan.encoding if "head" in plan.stages else None, terminal)


def start_device(requested: str | None, terminal: Terminal) -> Device:
    """Start jax on a device and print the first line of a command: device, cores and versions.

    Raises:
        UserError: a device that is not there or does not start.
    """
    with terminal.status("starting jax"):
        device = find_device(requested)
    show_device(
        device.kind, device.count, device.cores, device.versions, device.note or "", terminal
    )
    return device


def _sizes(plan: Plan) -> dict[str, int]:
    """Return the number of examples of each split, and of those with and without a label."""
    dataset = plan.dataset
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
