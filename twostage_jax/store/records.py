"""Dataclasses for `manifest.json`, and the functions that read and write the JSON files of a run.

Seals detect accidents, not attacks: anybody can compute a valid seal. So a sealed file is decoded
with the same checks as any other file.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.files import read_json
from twostage_jax.store.atomic import write_bytes
from twostage_jax.store.decoding import Record, decode, encode
from twostage_jax.store.layout import MANIFEST, RESULT, check_run
from twostage_jax.trees import PyTree, describe, digest_of_description

SEAL = "sha256"
REMEDY = "restore it from a copy"


@dataclass(frozen=True)
class LeafRecord:
    """Description of one array.

    Attributes:
        shape: length of each axis.
        dtype: such as `float32`.
        sha256: digest of `trees.array_bytes`, in hexadecimal digits.
    """

    shape: list[int]
    dtype: str
    sha256: str


@dataclass(frozen=True)
class GroupRecord:
    """Description of one parameter group, such as `encoder`.

    Attributes:
        sha256: `trees.digest` of the group.
        leaves: description of each array, by path inside the group.
    """

    sha256: str
    leaves: dict[str, LeafRecord]


@dataclass(frozen=True)
class PreprocessingRecord:
    """Images that the network takes, and the formula from pixels to inputs.

    Attributes:
        image: dtype, height, width and channels of an image.
        formula: input as a function of the pixel `x`.
    """

    image: tuple[str, int, int, int]
    formula: str

    def __post_init__(self) -> None:
        """Check the sizes."""
        if min(self.image_shape) < 1:
            raise ValueError("every size of an image is at least 1")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)`."""
        return self.image[1:]


@dataclass(frozen=True)
class DataRecord:
    """Identity of a data set, independent of its location.

    Attributes:
        name: as the source gives it.
        fingerprint: digest of all examples in any order.
        order: digest of the order of the examples.
        parts: fingerprint of each split.
    """

    name: str
    fingerprint: str
    order: str
    parts: dict[str, str]


@dataclass(frozen=True)
class MachineRecord:
    """Hardware that the bits of a result depend on.

    Attributes:
        device: kind of the devices.
        devices: number of devices.
        cores: number of CPU cores.
    """

    device: str
    devices: int
    cores: int


@dataclass(frozen=True)
class PretrainRecord:
    """Outcome of stage 1.

    Attributes:
        objective: name of the objective.
        epochs: number of epochs.
        loss: mean loss of the last epoch; None without epochs.
    """

    objective: str
    epochs: int
    loss: float | None


@dataclass(frozen=True)
class FrozenRecord:
    """Proof that stage 2 did not change the frozen groups.

    Attributes:
        groups: names of the groups.
        before: digest before stage 2.
        after: digest after stage 2.
        unchanged: True if both are equal.
    """

    groups: list[str]
    before: str
    after: str
    unchanged: bool


@dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json`, the source of truth about a run.

    Attributes:
        schema: version of this layout.
        config: the resolved config, as `config.layers.to_dict` returns it.
        groups: parameter groups that were handed over or trained, by name.
        preprocessing: images that the network takes.
        classes: names of the classes.
        data: identity of the data set.
        chunks: number of members that train at once, by stage.
        versions: versions of the packages, by name.
        machine: hardware that the run uses.
        allowed: changes that `--allow-changed` permitted.
        save_predictions: True if the run writes its predictions.
        test_reads: number of times that the test split was read.
        pretrain: outcome of stage 1, once it is finished.
        encoder: digest of the encoder of another run, if the run uses one.
        frozen: proof of the frozen groups, once the run is finished.
    """

    schema: int
    config: dict[str, object]
    groups: dict[str, GroupRecord]
    preprocessing: PreprocessingRecord
    classes: list[str]
    data: DataRecord
    chunks: dict[str, int]
    versions: dict[str, str]
    machine: MachineRecord
    allowed: list[str]
    save_predictions: bool
    test_reads: int
    pretrain: PretrainRecord | None = None
    encoder: str | None = None
    frozen: FrozenRecord | None = None

    def __post_init__(self) -> None:
        """Check the counts."""
        if any(count < 1 for count in self.chunks.values()):
            raise ValueError(f"chunks are at least 1, not {self.chunks}")


def describe_leaves(tree: PyTree) -> dict[str, LeafRecord]:
    """Describe every array of a tree by path; this hashes each array once."""
    return {path: decode(LeafRecord, entry, path) for path, entry in describe(tree).items()}


def group_records(leaves: Mapping[str, LeafRecord]) -> dict[str, GroupRecord]:
    """Split the description of `{group: tree}` into groups; this hashes no array again.

    Args:
        leaves: result of `describe_leaves`, or of a loaded checkpoint.
    """
    groups: dict[str, dict[str, LeafRecord]] = {}
    for path, leaf in leaves.items():
        name, _, inner = path.partition("/")
        groups.setdefault(name, {})[inner] = leaf
    return {name: GroupRecord(_digest(group), group) for name, group in groups.items()}


def describe_groups(params: Mapping[str, PyTree]) -> dict[str, GroupRecord]:
    """Describe every parameter group; this hashes each array once."""
    return group_records(describe_leaves(params))


def _digest(leaves: Mapping[str, LeafRecord]) -> str:
    return digest_of_description({path: encode(leaf) for path, leaf in leaves.items()})


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
    try:
        intact = isinstance(values, dict) and values.get(SEAL) == seal(values)[SEAL]
    except (ValueError, RecursionError):  # nested too deeply to be written again
        intact = False
    if not intact or not isinstance(values, dict):
        raise Corrupted(f"{where} is corrupted: it has changed since it was written")
    return {name: value for name, value in values.items() if name != SEAL}


def json_bytes(values: Mapping[str, object]) -> bytes:
    """Content of a JSON file for people: one value a line, all numbers finite."""
    return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()


def manifest_bytes(manifest: Manifest) -> bytes:
    """Content of `manifest.json`, with its seal."""
    return json_bytes(seal(encode(manifest)))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` atomically."""
    write_bytes(folder / MANIFEST, manifest_bytes(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json` of a run.

    Raises:
        UserError: if the folder is not a run.
        Corrupted: if the file differs from what was written.
    """
    check_run(folder)
    path = folder / MANIFEST
    try:
        return decode(Manifest, unseal(read_json(path, regular=True), path), path)
    except UserError as error:
        raise Corrupted(f"{error}; {REMEDY}") from error


def read_result(folder: Path, kind: type[Record]) -> Record:
    """Read `result.json` of a finished run as the dataclass `kind`.

    Raises:
        Corrupted: if the file is missing or differs from what was written.
    """
    path = folder / RESULT
    try:
        return decode(kind, read_json(path, regular=True), path)
    except UserError as error:
        raise Corrupted(f"{error}; {REMEDY}") from error
