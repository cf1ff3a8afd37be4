"""Dataclasses for the JSON files of a run, and the functions that read and write these files.

Seals detect accidents, not attacks: anybody can compute a valid seal. So a sealed file is decoded
with the same checks as any other file.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.files import read_json
from twostage_jax.store.atomic import write_bytes
from twostage_jax.store.decoding import Record, decode, encode
from twostage_jax.store.layout import MANIFEST, RESULT, check_run
from twostage_jax.trees import PyTree, describe, digest_of_description

SEAL = "sha256"


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
    fit: str = "pad"  # how images of other shapes are brought into this one: pad or crop

    def __post_init__(self) -> None:
        """Check the sizes."""
        # They decide about the size of the modules, before any array is compared.
        if min(self.image_shape) < 1:
            raise ValueError("every size of an image is at least 1")
        if self.fit not in ("pad", "crop"):
            raise ValueError(f"fit is pad or crop, not {self.fit}")

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
class Rejection:
    """Threshold that rejects images of no class, and its shares on the test split."""

    score: str  # one of `scores.detection.OUTLIER_SCORES`, or `combined`
    threshold: float  # images with a higher score are rejected
    target: float  # share of new known images that the threshold may reject
    count: int  # number of validation images that it was fitted on
    known_rejected: float  # rejected share of the test images
    accepted_accuracy: float | None  # accuracy on the other test images; None if there are none
    chosen_by: str  # reason for the score, in words
    auroc: dict[str, float]  # by score, for images of the other class; empty without one
    limits: dict[str, float] | None = None  # of the parts of `combined`, by name
    other_class: str | None = None  # class of images of no class
    other_count: int | None = None  # number of its images in the test split
    other_rejected: float | None = None  # rejected share of them


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
