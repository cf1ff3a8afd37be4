"""Dataclasses for the JSON files of a run, and the functions that read and write these files.

Seals detect accidents, not attacks: anybody can compute a valid seal. So a sealed file is decoded
with the same checks as any other file.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.files import read_json
from twostage_jax.store.atomic import append_text, write_bytes
from twostage_jax.store.decoding import Record, decode, encode
from twostage_jax.store.layout import MANIFEST, METRICS, RESULT, check_run
from twostage_jax.trees import PyTree, describe, digest_of_description

SEAL = "sha256"
VALIDATION_PREFIX = "validation_"  # of the members' figures on the validation split


@dataclass(frozen=True)
class LeafRecord:
    """Shape and dtype of one array, and the digest of its values."""

    shape: list[int]
    dtype: str
    sha256: str


@dataclass(frozen=True)
class GroupRecord:
    """Description of one parameter group, such as `encoder`."""

    sha256: str  # `trees.digest` of the group
    leaves: dict[str, LeafRecord]  # by path inside the group


@dataclass(frozen=True)
class PreprocessingRecord:
    """Images that the network takes, and the formula from pixels to inputs."""

    image: tuple[str, int, int, int]  # dtype, height, width and channels
    formula: str  # input as a function of the pixel `x`

    def __post_init__(self) -> None:
        """Check the sizes."""
        # They decide about the size of the modules, before any array is compared.
        if min(self.image_shape) < 1:
            raise ValueError("every size of an image is at least 1")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)`."""
        return self.image[1:]


@dataclass(frozen=True)
class DataRecord:
    """Identity of a data set, independent of its location."""

    name: str
    fingerprint: str  # digest of all examples in any order
    order: str  # digest of the order of the examples
    parts: dict[str, str]  # fingerprint of each split
    scale: str = ""  # range of the values in the source; empty if an older version wrote


@dataclass(frozen=True)
class MachineRecord:
    """Hardware that the bits of a result depend on."""

    device: str  # kind of the devices
    devices: int
    cores: int


@dataclass(frozen=True)
class AugmentationRecord:
    """Augmentation of stage 1 and the reason for its choice."""

    name: str
    reason: str  # `given`, or the figures of the images in words
    figures: dict[str, float]  # that decided; empty if the name was given


@dataclass(frozen=True)
class PretrainRecord:
    """Outcome of stage 1."""

    objective: str
    epochs: int
    loss: float | None  # mean loss of the last epoch; None without epochs
    labels: int = 0  # number of labels that the objective used; 0 if it reads no label
    augmentation: AugmentationRecord | None = None  # None if the objective takes no views
    # Figures of the encoder that is kept, means over encoders; None if it was not watched.
    probe: float | None = None  # accuracy of a linear probe on validation
    knn: float | None = None  # accuracy of nearest neighbours on validation
    rank: float | None = None  # effective rank of its features
    spread: float | None = None  # their standard deviation as a share of their length
    features: int | None = None  # number of features
    kept: list[int] | None = None  # epoch of each encoder's parameters if they are the best
    collapsed: str | None = None  # a sentence if the features had collapsed at the end


@dataclass(frozen=True)
class FrozenRecord:
    """Digests of the encoder before and after stage 2; `groups` names what was frozen."""

    groups: list[str]
    before: str
    after: str
    unchanged: bool


@dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json`, the source of truth about a run.

    `pretrain`, `encoder` and `frozen` are None until the run knows them.
    """

    schema: int  # version of this layout
    config: dict[str, object]  # as `config.layers.to_dict` returns it
    groups: dict[str, GroupRecord]  # that were handed over or trained
    preprocessing: PreprocessingRecord
    classes: list[str]
    data: DataRecord
    chunks: dict[str, int]  # number of members that train at once, by stage
    versions: dict[str, str]  # of the packages
    machine: MachineRecord
    allowed: list[str]  # changes that `--allow-changed` permitted
    save_predictions: bool
    test_reads: int  # number of times that the test split was read
    pretrain: PretrainRecord | None = None
    encoder: str | None = None  # digest of the encoder of another run, if the run uses one
    # Settings of jax that change numbers, by environment variable; empty if an older version wrote.
    switches: dict[str, str] = field(default_factory=dict)
    frozen: FrozenRecord | None = None
    # Number of epochs of each stage that `on_epoch` has ended.
    stopped: dict[str, int] = field(default_factory=dict)
    augmentation: AugmentationRecord | None = (
        None  # augmentation of stage 1, if its objective takes views
    )

    def __post_init__(self) -> None:
        """Check the counts."""
        # A resumed run divides its members by them.
        if any(count < 1 for count in self.chunks.values()):
            raise ValueError(f"chunks are at least 1, not {self.chunks}")
        if (
            not {"pretrain", "head"} >= self.stopped.keys()
            or min(self.stopped.values(), default=1) < 1
        ):
            raise ValueError(f"stages stop after 1 or more epochs, not {self.stopped}")


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


def describe_groups(params: Mapping[str, PyTree]) -> dict[str, GroupRecord]:
    """Describe every parameter group; this hashes each array once."""
    groups = {}
    for name, tree in params.items():
        table = describe(tree)
        values = {"sha256": digest_of_description(table), "leaves": table}
        groups[name] = decode(GroupRecord, values, name)
    return groups


def checksum(values: object) -> str:
    """Checksum `sha256:…` of JSON values; the order of keys does not matter."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def seal(values: Mapping[str, object]) -> dict[str, object]:
    """Add the checksum of `values` to them."""
    bare = {name: value for name, value in values.items() if name != SEAL}
    return {**bare, SEAL: checksum(bare)}


def unseal(values: object, where: Path | str) -> dict[str, object]:
    """Return sealed values without their checksum.

    Raises:
        Corrupted: if the checksum does not match.
    """
    if isinstance(values, dict):
        with contextlib.suppress(ValueError, RecursionError):  # too deep to be written again
            if values == seal(values):
                return {name: value for name, value in values.items() if name != SEAL}
    raise Corrupted(f"{where} is corrupted: it has changed since it was written")


def json_bytes(values: Mapping[str, object]) -> bytes:
    """Content of a JSON file for people: one value a line, all numbers finite."""
    return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()


def manifest_bytes(manifest: Manifest) -> bytes:
    """Content of `manifest.json`, with its seal."""
    return json_bytes(seal(encode(manifest)))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` atomically."""
    write_bytes(folder / MANIFEST, manifest_bytes(manifest))


def repeatable_config(manifest: Manifest) -> dict[str, object]:
    """Content of `config.json`: the manifest's config, with the epochs that were trained.

    A run with this config then repeats a stage that `on_epoch` has ended.
    """
    config = dict(manifest.config)
    for stage, epochs in manifest.stopped.items():
        settings = config.get(stage)
        if isinstance(settings, Mapping):
            changed = {**settings, "epochs": epochs}
            # A cosine keeps its length. Otherwise the repeated run would have other learning rates.
            if settings.get("schedule") == "cosine" and not settings.get("schedule_epochs"):
                changed["schedule_epochs"] = settings["epochs"]
            config[stage] = changed
    return config


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json` of a run.

    Raises:
        UserError: if the folder is not a run.
        Corrupted: if the file differs from what was written.
    """
    check_run(folder)
    return _read(Manifest, folder / MANIFEST, sealed=True)


def read_result(folder: Path, kind: type[Record]) -> Record:
    """Read `result.json` of a finished run as the dataclass `kind`.

    Raises:
        Corrupted: if the file is missing or differs from what was written.
    """
    return _read(kind, folder / RESULT, sealed=False)


def _read(kind: type[Record], path: Path, sealed: bool) -> Record:
    try:
        values = read_json(path, regular=True)
        return decode(kind, unseal(values, path) if sealed else values, path)
    except UserError as error:
        raise Corrupted(f"{error}; restore it from a copy") from error
