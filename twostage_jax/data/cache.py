"""Decoded images on disk, so that files are decoded once."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostage_jax.data.decode import Form
from twostage_jax.data.parallel import Broken, decode_files
from twostage_jax.data.spec import OFF, Progress
from twostage_jax.data.worker import BrokenRow
from twostage_jax.errors import UserError
from twostage_jax.files import MIB, digest_of_file, read_json
from twostage_jax.signals import run_before_exit

VERSION = 1  # of the pixels: another value whenever `decode` gives other ones
IMAGES = "images.bin"  # uint8 [N, H, W, C]
INDEX = "index.json"
PART = ".part"
STALE = 86_400  # seconds after which what a killed process has left is removed


class Files(NamedTuple):
    """Image files of a source.

    Attributes:
        files: paths to open.
        names: paths as the source gives them.
        size: bytes of all files.
        key: digest of the names, sizes and times of change of all files.
    """

    files: list[str]
    names: list[str]
    size: int
    key: str


class Decoded(NamedTuple):
    """Decoded images uint8 `[N, H, W, C]`; those of broken files are zero."""

    image: np.ndarray
    broken: Broken


def describe_files(files: list[str], names: list[str]) -> Files:
    """Read size and time of each file; a file that is gone is reported when it is decoded."""
    identities = [str(VERSION)]
    total = 0
    for file, name in zip(files, names, strict=True):
        identity: tuple[int, ...] = ()
        try:
            status = os.stat(file)
        except OSError:
            pass
        else:
            identity = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            total += status.st_size
        identities.append(f"{name}\0{identity}\0")
    # One text, one digest: 50,000 small ones take a tenth of a second.
    digest = hashlib.sha256("".join(identities).encode("utf-8", "surrogatepass"))
    return Files(files, names, total, digest.hexdigest()[:32])


class Cache:
    """Folder of decoded images.

    Args:
        folder: value of `--cache-dir`: a folder, `off`, or None for the user's cache folder.
        notes: sentences about the cache are added here.
    """

    def __init__(self, folder: str | Path | None, notes: list[str]) -> None:
        self._is_default = folder is None
        self._notes = notes
        self.folder: Path | None = None
        if str(folder) != OFF:
            base = Path(os.path.expanduser(folder)) if folder else default_folder()
            self.folder = base.absolute()

    def read_form(
        self, files: Files, limit: int, choose: Callable[[], tuple[dict[str, object], bool]]
    ) -> dict[str, object]:
        """Return what `choose` computes from files, from the cache if it is there.

        `limit` is the largest number of pixels: files that exceed it are not looked at. `choose`
        returns values, and True if they may be kept.
        """
        path = None if self.folder is None else self.folder / f"{files.key}-{limit}.json"
        if path is not None and path.is_file():
            with contextlib.suppress(UserError):  # corrupted: it is chosen again
                return _unsealed(path)
        values, is_lasting = choose()
        if path is not None and is_lasting:
            with self._write_errors():
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
                part.write_text(_sealed(values))
                part.replace(path)
        return values

    def read_images(
        self, files: Files, form: Form, limit: int, progress: Progress | None
    ) -> Decoded:
        """Return the images of files, from the cache or decoded into it.

        Raises:
            UserError: a folder that the user named and that cannot be written.
        """
        shape = (len(files.files), *form[:3])
        if self.folder is not None:
            settings = f"{files.key} {list(form)} {limit}"
            entry = self.folder / hashlib.sha256(settings.encode()).hexdigest()[:32]
            decoded = self._load(entry, shape)
            if decoded is not None:
                return decoded
            with self._write_errors():
                self._clean()
                return _build(self.folder, entry, files, form, limit, progress)
        with _no_room(tempfile.gettempdir()), tempfile.TemporaryFile() as output:
            broken = _decode_into(output.fileno(), shape, files, form, limit, progress)
            output.seek(0)
            image = np.fromfile(output, np.uint8).reshape(shape)
        return Decoded(image, broken)

    def _load(self, entry: Path, shape: tuple[int, ...]) -> Decoded | None:
        """Return the content of an entry; None if there is none or it is corrupted."""
        if not entry.is_dir():
            return None
        try:
            index = _unsealed(entry / INDEX)
            # SHA-256 of the whole file: a flipped bit would be a wrong pixel.
            if digest_of_file(entry / IMAGES) != index["sha256"]:
                raise ValueError("the images have changed")
            rows = [BrokenRow(int(row), str(reason)) for row, reason in index["broken"]]  # pyright: ignore
            return Decoded(_mapped(entry / IMAGES, shape), rows)
        except (UserError, OSError, ValueError, KeyError, TypeError) as error:
            self._notes.append(f"the cache {entry} was corrupted ({error}): it is built again")
            shutil.rmtree(entry, ignore_errors=True)
            return None

    def _clean(self) -> None:
        """Remove what killed processes have left."""
        assert self.folder is not None
        for path in self.folder.glob(f"*{PART}"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextlib.contextmanager
    def _write_errors(self):
        """Go on without the default folder if it cannot be written; report a named one."""
        try:
            yield
        except OSError as error:
            folder = self.folder
            reason = error.strerror or error
            if not self._is_default:
                raise UserError(
                    f"cannot write decoded images to --cache-dir {folder}: {reason}; free disk "
                    "space, give another folder, or --cache-dir off"
                ) from error
            self.folder = None
            self._notes.append(f"decoded images are not kept in {folder}: {reason}")


def default_folder() -> Path:
    """Return the folder for decoded images in the user's cache folder."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home folder
        base = Path(tempfile.gettempdir())
    return base / "twostage_jax" / "images"


def _build(
    folder: Path, entry: Path, files: Files, form: Form, limit: int, progress: Progress | None
) -> Decoded:
    """Decode files into a new entry, and return them; raises OSError.

    An error that can be gone at the next attempt is not kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(PART, f"{entry.name}.", folder))

    def remove() -> None:
        shutil.rmtree(part, ignore_errors=True)

    try:
        # A signal ends the process without an exception.
        with run_before_exit(remove):
            shape = (len(files.files), *form[:3])
            with open(part / IMAGES, "xb") as output:
                broken = _decode_into(output.fileno(), shape, files, form, limit, progress)
            decoded = Decoded(_mapped(part / IMAGES, shape), broken)
            if not any(x.transient for x in broken):
                rows = [(x.row, x.reason) for x in broken]
                values = {"sha256": digest_of_file(part / IMAGES), "broken": rows}
                (part / INDEX).write_text(_sealed(values))
                # Where another process was faster, its entry is as good.
                with contextlib.suppress(FileExistsError):
                    _rename(part, entry)
    finally:
        remove()
    return decoded


def _mapped(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Map a file into memory, which keeps it even if it is removed."""
    # A plain array: indexing a memmap row by row takes ten times as long.
    return np.asarray(np.memmap(file, np.uint8, "r", shape=shape))


def _rename(part: Path, entry: Path) -> None:
    if entry.exists():
        raise FileExistsError
    part.rename(entry)


def _decode_into(
    output: int,
    shape: tuple[int, ...],
    files: Files,
    form: Form,
    limit: int,
    progress: Progress | None,
) -> Broken:
    # Reserved at once, so that a full disk shows before hours of decoding.
    size = int(np.prod(shape, dtype=np.int64))
    reserve = getattr(os, "posix_fallocate", None)  # macOS has none
    if reserve is None:
        os.ftruncate(output, size)
    else:
        reserve(output, 0, size)
    return decode_files(output, files.files, files.size, form, limit, progress)


@contextlib.contextmanager
def _no_room(folder: str):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write decoded images to {folder}: {error.strerror or error}; free disk space, "
            "or set TMPDIR to a folder on another disk"
        ) from error


def _sealed(values: dict[str, object]) -> str:
    content = json.dumps(values, sort_keys=True)
    return json.dumps({"seal": hashlib.sha256(content.encode()).hexdigest(), "values": values})


def _unsealed(path: Path) -> dict[str, object]:
    """Return the values of a sealed file.

    Raises:
        UserError: a file that is not as it was written.
    """
    stored = read_json(path, 256 * MIB, regular=True)
    if isinstance(stored, dict) and isinstance(stored.get("values"), dict):
        values = stored["values"]
        if json.loads(_sealed(values))["seal"] == stored.get("seal"):
            return values
    raise UserError("its index has changed")
