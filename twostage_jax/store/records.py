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
    """Description of one array."""

    shape: list[int]  # length of each axis
    dtype: str  # such as `float32`
    sha256: str  # digest of `trees.array_bytes`, in hexadecimal digits


@dataclass(frozen=True)
class GroupRecord:
    """Description of one parameter group, such as `encoder`."""

    sha256: str  # `trees.digest` of the group
    leaves: dict[str, LeafRecord]  # description of each array, by path inside the group


@dataclass(frozen=True)
class PreprocessingRecord:
    """Images that the network takes, and the formula from pixels to inputs."""

    image: tuple[str, int, int, int]  # dtype, height, width and channels of an image
    formula: str  # input as a function of the pixel `x`

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
    """Identity of a data set, independent of its location."""

    name: str  # as the source gives it
    fingerprint: str  # digest of all examples in any order
    order: str  # digest of the order of the examples
    parts: dict[str, str]  # fingerprint of each split


@dataclass(frozen=True)
class MachineRecord:
    """Hardware that the bits of a result depend on."""

    device: str  # kind of the devices
    devices: int  # number of devices
    cores: int  # number of CPU cores


@dataclass(frozen=True)
class PretrainRecord:
    """Outcome of stage 1."""

    objective: str  # name of the objective
    epochs: int  # number of epochs
    loss: float | None  # mean loss of the last epoch; None without epochs


@dataclass(frozen=True)
class FrozenRecord:
    """Proof that stage 2 did not change the frozen groups."""

    groups: list[str]  # names of the groups
    before: str  # digest before stage 2
    after: str  # digest after stage 2
    unchanged: bool  # True if both are equal


@dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json`, the source of truth about a run."""

    schema: int  # version of this layout
    config: dict[str, object]  # the resolved config, as `config.layers.to_dict` returns it
    groups: dict[str, GroupRecord]  # parameter groups that were handed over or trained, by name
    preprocessing: PreprocessingRecord  # images that the network takes
    classes: list[str]  # names of the classes
    data: DataRecord  # identity of the data set
    chunks: dict[str, int]  # number of members that train at once, by stage
    versions: dict[str, str]  # versions of the packages, by name
    machine: MachineRecord  # hardware that the run uses
    allowed: list[str]  # changes that `--allow-changed` permitted
    save_predictions: bool  # True if the run writes its predictions
    test_reads: int  # number of times that the test split was read
    pretrain: PretrainRecord | None = None  # outcome of stage 1, once it is finished
    encoder: str | None = None  # digest of the encoder of another run, if the run uses one
    frozen: FrozenRecord | None = None  # proof of the frozen groups, once the run is finished

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
