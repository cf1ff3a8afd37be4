"""The file `model.twostage`: an uncompressed NumPy archive with a digest of all its bytes.

Members: `about` (JSON), `program` and `program_small` (bytes of `jax.export`), and arrays. The
digest is the comment of the archive, its last 71 bytes: `sha256:` and the SHA-256 of all bytes
before the 64 hexadecimal digits. Like a seal, it detects accidents, not attacks.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostage_jax.data.npz import read_archive
from twostage_jax.errors import Corrupted, UserError, shown
from twostage_jax.files import READ_SIZE, as_json, open_regular
from twostage_jax.scores.detection import OUTLIER_SCORES, Gaussians
from twostage_jax.scores.rejection import COMBINED
from twostage_jax.store.decoding import decode, encode
from twostage_jax.store.records import PreprocessingRecord

SCHEMA = 1  # of `about`; a file with a larger number needs a newer version of the package
SUFFIX = ".twostage"
ABOUT = "about"
PREFIX = b"sha256:"
DIGITS = 64
AGAIN = "export it again with twostage export RUN"
EPOCH = (1980, 1, 1, 0, 0, 0)  # date of the members


@dataclass(frozen=True)
class SetsRecord:
    """Prediction sets: classes with `1 - p` up to the threshold, at the target coverage."""

    coverage: float
    threshold: float


@dataclass(frozen=True)
class RejectionRecord:
    """Rejection: images with a higher outlier score than the threshold belong to no class.

    Attributes:
        score: one of `scores.detection.OUTLIER_SCORES`, or `combined`.
        threshold: highest accepted score.
        gaussians: number of encoders whose Gaussians are in the file, as `gaussian/I/NAME`.
        limits: limits of the parts of `combined`, by name; see `scores.rejection.Rule`.
    """

    score: str
    threshold: float
    gaussians: int = 0
    limits: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the names."""
        allowed = (*OUTLIER_SCORES, COMBINED)
        for name in (self.score, *self.limits):
            if name not in allowed:
                raise ValueError(f"the score is one of {', '.join(allowed)}, not {name}")
        if (self.score == COMBINED) != bool(self.limits):
            raise ValueError("limits go with the score combined")


@dataclass(frozen=True)
class ModelRecord:
    """Content of the member `about`.

    Attributes:
        schema: version of this layout.
        classes: names of the K classes, in the order of the labels.
        preprocessing: images that the program takes. The formula is part of the program.
        scale: range of the values in the source of the training data, in words.
        params: names of the arrays that the program takes.
        members: number M of members.
        batch: number of images that the program computes at a time.
        temperature: divides the logarithms of probabilities; None without validation examples.
        sets: prediction sets; None if validation was too small.
        rejection: None if validation was too small.
        versions: of the packages that wrote the file.
        groups: digest of each parameter group in the run.
        data: fingerprint of the training data.
    """

    schema: int
    classes: list[str]
    preprocessing: PreprocessingRecord
    scale: str
    params: list[str]
    members: int
    batch: int
    temperature: float | None = None
    sets: SetsRecord | None = None
    rejection: RejectionRecord | None = None
    versions: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    data: str = ""

    def __post_init__(self) -> None:
        """Check the numbers that sizes depend on."""
        if not (self.classes and self.params and 1 <= self.batch <= 2**20 and self.members >= 1):
            raise ValueError("a model has classes, arrays, members and a batch size")


class ModelFile(NamedTuple):
    """Content of a model file.

    Attributes:
        about: its record.
        programs: bytes of `jax.export`, by name.
        arrays: everything else, by name.
    """

    about: ModelRecord
    programs: dict[str, bytes]
    arrays: dict[str, np.ndarray]


def model_bytes(model: ModelFile) -> bytes:
    """Return the content of a model file."""
    about = json.dumps(encode(model.about), allow_nan=False).encode()
    blobs = {ABOUT: about, **model.programs}
    members = {name: np.frombuffer(blob, np.uint8) for name, blob in blobs.items()} | model.arrays
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, values in members.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(values), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", EPOCH), content.getvalue())
        archive.comment = PREFIX + b"0" * DIGITS
    body = file.getvalue()[:-DIGITS]
    return body + hashlib.sha256(body).hexdigest().encode()


def read_model_file(path: Path) -> ModelFile:
    """Read and verify a model file.

    Raises:
        UserError: another kind of file, or one that a newer version wrote.
        Corrupted: if it differs from what was written.
    """
    _check_digest(path)
    arrays = dict(read_archive(path))
    if ABOUT not in arrays:
        raise UserError(f"{path} is not a model file, it has no member {ABOUT}: {AGAIN}")
    about = _read_about(path, arrays.pop(ABOUT))
    programs = {n: arrays.pop(n).tobytes() for n in sorted(arrays) if n.startswith("program")}
    needed = {"program", *about.params, *_gaussian_names(about)}
    missing = sorted(needed - arrays.keys() - programs.keys())
    if missing:
        raise Corrupted(f"{path} is corrupted: it has no member {missing[0]!r}; {AGAIN}")
    return ModelFile(about, programs, arrays)


def _gaussian_names(about: ModelRecord) -> list[str]:
    count = about.rejection.gaussians if about.rejection else 0
    return [_gaussian(index, name) for index in range(count) for name in Gaussians._fields]


def _gaussian(index: int, name: str) -> str:
    return f"gaussian/{index}/{name}"


def gaussian_arrays(gaussians: Sequence[Gaussians]) -> dict[str, np.ndarray]:
    """Return Gaussians as arrays of a model file."""
    return {
        _gaussian(index, name): np.asarray(values)
        for index, fitted in enumerate(gaussians)
        for name, values in fitted._asdict().items()
    }


def read_gaussians(arrays: Mapping[str, np.ndarray], about: ModelRecord) -> tuple[Gaussians, ...]:
    """Return the Gaussians of a model file."""
    count = about.rejection.gaussians if about.rejection else 0
    return tuple(
        Gaussians(*(arrays[_gaussian(index, name)] for name in Gaussians._fields))
        for index in range(count)
    )


def _read_about(path: Path, member: np.ndarray) -> ModelRecord:
    try:
        values = as_json(member.tobytes())
    except (ValueError, RecursionError) as error:
        raise Corrupted(f"{path} is corrupted: its member {ABOUT} is not JSON; {AGAIN}") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        versions = values.get("versions")
        name = versions.get("twostage-jax") if isinstance(versions, dict) else None
        raise UserError(
            f"{path} was written by a newer version of twostage-jax ({shown(name)}): upgrade the "
            "package, or export the run with this version"
        )
    return decode(ModelRecord, values, path)


def _check_digest(path: Path) -> None:
    """Raise `UserError` or `Corrupted` unless the last bytes are the digest of the others."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            body = size - DIGITS
            file.seek(max(0, body - len(PREFIX)))
            if body < 0 or not file.read(len(PREFIX) + DIGITS).startswith(PREFIX):
                raise UserError(f"{path} is not a model file, or its end is missing: {AGAIN}")
            file.seek(0)
            total = hashlib.sha256()
            while body > 0:
                piece = file.read(min(READ_SIZE, body))
                if not piece:
                    break
                total.update(piece)
                body -= len(piece)
            expected = file.read()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}; give a run or a model file"
        ) from error
    if expected != total.hexdigest().encode():
        raise Corrupted(
            f"{path} is corrupted, its digest does not match: copy it again, or {AGAIN}"
        )
