"""Records of finished epochs: the lines of `metrics.jsonl`, saved with every checkpoint too."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twostage_jax.errors import UserError
from twostage_jax.store.atomic import append_text, write_bytes
from twostage_jax.store.decoding import encode
from twostage_jax.store.layout import METRICS


@dataclass(frozen=True)
class EpochRecord:
    """One line of `metrics.jsonl`, in which the metrics stand beside the other fields."""

    stage: str  # `pretrain` or `head`
    epoch: int  # number of the epoch, from 1
    loss: float | None  # mean over the finite members; None if all have diverged
    seconds: float  # duration of the epoch
    metrics: dict[str, float | None] = field(default_factory=dict)  # other means, as `loss`
    # Metrics and loss of every member, None for values that are not finite; empty without members.
    members: dict[str, list[float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject metrics that would hide a field."""
        taken = self.__dataclass_fields__.keys() & self.metrics
        if taken:
            raise UserError(f"a metric cannot have the name {min(taken)!r}: rename it in the stage")

    @staticmethod
    def flatten(values: Mapping[str, object]) -> dict[str, object]:
        """Put the metrics beside the other fields, in the order that users know."""
        # JAX sorts the keys of a dict, so `loss` stands among the metrics in alphabetical order.
        metrics = {**values["metrics"], "loss": values["loss"]}  # type: ignore[dict-item]
        line = {"stage": values["stage"], "epoch": values["epoch"], **dict(sorted(metrics.items()))}
        if values["members"]:
            line["members"] = values["members"]
        return {**line, "seconds": values["seconds"]}

    @staticmethod
    def unflatten(line: Mapping[str, object]) -> dict[str, object]:
        """Collect all names that are not fields as metrics."""
        names = ("stage", "epoch", "loss", "seconds", "members")
        values = {name: line[name] for name in names if name in line}
        return {**values, "metrics": {n: x for n, x in line.items() if n not in names}}


@dataclass(frozen=True)
class CheckpointFacts:
    """Identity of a stage and the records of its epochs, saved with every checkpoint."""

    config: str  # checksum of the config, without epochs and placement
    data: str  # fingerprint of the data set
    stage: str  # `pretrain` or `head`
    records: list[EpochRecord]  # one record for each finished epoch

    def __post_init__(self) -> None:
        """Check the numbers of the epochs."""
        if [record.epoch for record in self.records] != list(range(1, len(self.records) + 1)):
            raise ValueError("the epochs are not numbered from 1 without gaps")

    def has_members(self, count: int | None) -> bool:
        """Return True if all records have figures of `count` members; None means no members."""
        lists = [values for record in self.records for values in record.members.values()]
        if count is None:
            return not lists
        named = all("loss" in record.members for record in self.records)
        return named and all(len(values) == count for values in lists)


def epochs_bytes(records: Sequence[EpochRecord]) -> bytes:
    """Content of `metrics.jsonl`, one line for each record."""
    return "".join(map(_line, records)).encode()


def append_epoch(folder: Path, record: EpochRecord) -> None:
    """Append one line to `metrics.jsonl`."""
    append_text(folder / METRICS, _line(record))


def write_epochs(folder: Path, records: Sequence[EpochRecord]) -> None:
    """Replace `metrics.jsonl` if its content differs from these records."""
    path = folder / METRICS
    content = epochs_bytes(records)
    if not path.exists() and not records:
        return
    same_size = path.is_file() and path.stat().st_size == len(content)
    if not same_size or path.read_bytes() != content:
        write_bytes(path, content)


def _line(record: EpochRecord) -> str:
    return json.dumps(encode(record), allow_nan=False) + "\n"


def last_loss(records: Sequence[EpochRecord], members: Sequence[int] | None = None) -> float | None:
    """Loss of the last epoch; None without epochs.

    Args:
        records: of one stage.
        members: indices of the members whose finite losses are averaged, by default all of them.
    """
    if not records:
        return None
    losses = records[-1].members.get("loss")
    if losses is None or members is None:
        return records[-1].loss
    finite = [loss for loss in (losses[member] for member in members) if loss is not None]
    return sum(finite) / len(finite) if finite else None
