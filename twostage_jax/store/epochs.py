"""Figures of finished epochs, for `metrics.jsonl` and for checkpoints."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.files import as_json, read_text
from twostage_jax.store.atomic import append_text, write_bytes
from twostage_jax.store.decoding import decode
from twostage_jax.store.layout import METRICS

VALIDATION_PREFIX = "validation_"  # of the members' figures on the validation split


@dataclass(frozen=True)
class EpochRecord:
    """Figures of one finished epoch, for `metrics.jsonl` and for every checkpoint.

    Loss and metrics are means over the finite members, or None if no member is finite.
    """

    stage: str  # `pretrain` or `head`
    epoch: int  # from 1
    loss: float | None
    seconds: float
    metrics: dict[str, float | None] = field(default_factory=dict)
    # Metrics and loss of every member, None for values that are not finite. Empty for one member,
    # whose figures are the means. Those on validation have the prefix `validation_`.
    members: dict[str, list[float | None]] = field(default_factory=dict)
    # Loss and metrics on the validation split, after the epoch. Empty without a split.
    validation: dict[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject metrics that would hide another figure in the line."""
        taken = self.__dataclass_fields__.keys() & self.metrics
        taken |= {name for name in self.metrics if name.startswith(VALIDATION_PREFIX)}
        if taken:
            raise UserError(f"a metric cannot have the name {min(taken)!r}: rename it in the stage")
        if self.validation and "loss" not in self.validation:
            raise ValueError(f"epoch {self.epoch} has validation figures without a loss")

    @property
    def line(self) -> str:
        """Line of `metrics.jsonl`, in which the metrics stand beside the other fields."""
        # JAX sorts the keys of a dict, so `loss` stands among the metrics in alphabetical order.
        figures = dict(sorted({**self.metrics, "loss": self.loss}.items()))
        # Left out if empty, so that the format of other records does not change.
        added = {"validation": self.validation, "members": self.members}
        more = {name: values for name, values in added.items() if values}
        values = {"stage": self.stage, "epoch": self.epoch, **figures, **more}
        return json.dumps({**values, "seconds": self.seconds}, allow_nan=False) + "\n"


@dataclass(frozen=True)
class CheckpointFacts:
    """Identity of a stage and the records of its epochs, saved with every checkpoint."""

    config: str  # checksum of the config, without epochs and placement
    data: str  # fingerprint of the data set
    stage: str  # `pretrain` or `head`
    member_count: int
    records: tuple[EpochRecord, ...]

    def __post_init__(self) -> None:
        """Check the numbers of the epochs and of the members' figures."""
        # A resumed run continues the list, and reads the figures by the number of the member.
        if [record.epoch for record in self.records] != list(range(1, len(self.records) + 1)):
            raise ValueError("the epochs are not numbered from 1 without gaps")
        expected = {self.member_count} if self.member_count > 1 else set()
        for record in self.records:
            needed = {"loss", *(f"{VALIDATION_PREFIX}{name}" for name in record.validation)}
            complete = needed <= record.members.keys() if expected else not record.members
            if not complete or set(map(len, record.members.values())) != expected:
                raise ValueError(
                    f"epoch {record.epoch} has no figures of {self.member_count} members"
                )


def append_epoch(folder: Path, record: EpochRecord) -> None:
    """Append one line to `metrics.jsonl`."""
    append_text(folder / METRICS, record.line)


def epochs_bytes(records: Sequence[EpochRecord]) -> bytes:
    """Content of `metrics.jsonl`, one line for each record."""
    return "".join(record.line for record in records).encode()


def write_epochs(folder: Path, records: Sequence[EpochRecord]) -> None:
    """Replace `metrics.jsonl` if its content differs from these records."""
    path = folder / METRICS
    content = epochs_bytes(records)
    if not path.exists() and not records:
        return
    # The size first: a corrupted file may be too large to be read.
    same_size = path.is_file() and path.stat().st_size == len(content)
    if not same_size or path.read_bytes() != content:
        write_bytes(path, content)


def read_epochs(folder: Path) -> list[EpochRecord]:
    """Read the records of all epochs from `metrics.jsonl`; without the file there are none.

    Raises:
        Corrupted: a line that is no record.
    """
    path = folder / METRICS
    if not path.is_file():
        return []
    lines = read_text(path, regular=True).splitlines()
    return [_read_line(line, f"line {number} of {path}") for number, line in enumerate(lines, 1)]


def _read_line(line: str, where: str) -> EpochRecord:
    try:
        values = as_json(line)
        if not isinstance(values, dict):
            raise UserError("it is no object")
        fields = {name: values[name] for name in EpochRecord.__dataclass_fields__ if name in values}
        metrics = {name: value for name, value in values.items() if name not in fields}
        return decode(EpochRecord, {**fields, "metrics": metrics}, where)
    except (ValueError, RecursionError) as error:
        raise Corrupted(f"{where} is corrupted: {error}") from error


def last_loss(records: Sequence[EpochRecord], members: Sequence[int] | None = None) -> float | None:
    """Loss of the last epoch of one stage; None without epochs.

    Args:
        records: of the stage.
        members: indices of the members whose finite losses are averaged, by default all of them.
    """
    if not records:
        return None
    losses = records[-1].members.get("loss")
    if losses is None or members is None:
        return records[-1].loss
    finite = [loss for loss in (losses[member] for member in members) if loss is not None]
    return sum(finite) / len(finite) if finite else None
