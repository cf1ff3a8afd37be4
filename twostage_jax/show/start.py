"""Lines at the start of a run: device, data, placement of members, parameter groups."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from twostage_jax.show.epochs import Record
from twostage_jax.show.result import show_encoder
from twostage_jax.show.tables import counted, size
from twostage_jax.show.terminal import Terminal


class PlanRow(NamedTuple):
    """Placement of the members of a stage: chunks train one after another, each on `devices`."""

    stage: str
    members: int
    chunks: int
    devices: int
    bytes_per_member: int
    bytes_shared: int


def show_device(
    kind: str,
    count: int,
    cores: int | None,
    versions: Mapping[str, str],
    note: str,
    terminal: Terminal,
) -> None:
    """Print the line about the machine and the versions, and the note about the device.

    Args:
        kind: kind of the devices, for instance `cpu`.
        count: number of devices.
        cores: number of processor cores, None if unknown.
        versions: version by name of the package.
        note: sentence about a device that is not used; may be empty.
        terminal: where to print.
    """
    devices = kind if count == 1 else f"{count} x {kind}"
    # JAX can split a CPU into any number of devices, so the number of cores is printed too.
    machine = devices if cores is None else f"{devices} on {counted(cores, 'core')}"
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    terminal.line(f"{machine}; {packages}", hang=2)
    if note:
        terminal.notice(note)


def show_data(data: Record, sizes: Mapping[str, int], terminal: Terminal) -> None:
    """Print sizes, classes and scale of `data.TrainingData` in a line, and a line per note."""
    counts = ", ".join(f"{number:,} {split}" for split, number in sizes.items())
    classes = counted(len(data.classes), "class", "es") if data.classes else "no labels"
    images = f"{size(data.image_shape)} images, values {data.scale}"
    terminal.line(f"{data.name}: {counts}; {classes}; {images}", hang=2)
    for note in data.notes:
        terminal.line(f"  {note}", hang=4)


def show_plan(rows: Iterable[PlanRow], encoding: str | None, terminal: Terminal) -> None:
    """Print the placement of members; with `--verbose` also for one member, and the encoder."""
    for row in rows:
        if row.members * row.devices == 1 and not terminal.verbose:
            continue
        chunks = counted(row.chunks, "chunk")
        devices = counted(row.devices, "device")
        terminal.line(
            f"{row.stage}: {counted(row.members, 'member')} in {chunks} on {devices}, "
            f"{row.bytes_per_member / 1e6:.2f} MB per member, "
            f"{row.bytes_shared / 1e6:.1f} MB shared",
            hang=2,
        )
    if encoding and terminal.verbose:
        terminal.line(f"encoder: {encoding}", hang=2)


def show_groups(
    stage: str, groups: Iterable[tuple[str, str, int, int]], terminal: Terminal
) -> None:
    """With `--verbose`, print the parameter groups of a stage: name, state, parameters, bytes."""
    if terminal.verbose:
        terminal.line()
        columns = ("group", "state", "parameters", "bytes")
        terminal.table(f"{stage}: parameter groups", columns, groups)


def show_stage_1(
    folder: Path, digest: str, pretrain: Record, has_labels: bool, terminal: Terminal
) -> None:
    """Print the end of a run of stage 1 alone: its encoder, next step, folder.

    Args:
        folder: folder of the run.
        digest: SHA-256 of the encoder.
        pretrain: `store.PretrainRecord`.
        has_labels: True if the data have labels for a head.
        terminal: where to print.
    """
    terminal.line()
    show_encoder(pretrain, terminal)
    if terminal.verbose:
        terminal.line(f"encoder       {digest}", hang=14)
    labels = "" if has_labels else " --data csv:FILE"
    terminal.line(f"next step     twostage head --from {folder}{labels}", hang=14)
    terminal.line(f"folder        {folder}", hang=14, bold=True)
