"""`SHA256SUMS`: checksums of the files of a finished run, in the format of `sha256sum -c`."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.files import digest_of_file, read_text
from twostage_jax.store.atomic import write_bytes
from twostage_jax.store.layout import CONFIG, MANIFEST, METRICS, RESULT, SUMS

REQUIRED = (CONFIG, METRICS, MANIFEST, RESULT)


def write_files(
    folder: Path,
    files: Mapping[str, bytes],
    write: Callable[[Path, bytes], None] = write_bytes,
) -> None:
    """Write files of a finished run, by name, and their checksums; `result.json` comes last.

    If the process is killed, each file is the old or the new one, and the checksums accept both.
    The checksums of other files stay as they are, so a corrupted file is still detected later.
    A test may replace `write`, which writes a file atomically.

    Raises:
        UserError: if a file cannot be written.
    """
    old: dict[str, set[str]] = {}
    if (folder / SUMS).is_file():
        with contextlib.suppress(Corrupted):
            old = {n: sums for n, sums in read_sums(folder).items() if _exists(folder, n)}
    new = {name: {hashlib.sha256(content).hexdigest()} for name, content in files.items()}
    either = {name: old.get(name, set()) | sums for name, sums in new.items()}
    write(folder / SUMS, _lines(old | either))
    for name in sorted(files, key=lambda name: name == RESULT):
        write(folder / name, files[name])
    write(folder / SUMS, _lines(old | new))


def _lines(sums: Mapping[str, set[str]]) -> bytes:
    """One line for each accepted digest of a file: the digest, two spaces, the name."""
    lines = [f"{digest}  {name}\n" for name in sorted(sums) for digest in sorted(sums[name])]
    return "".join(lines).encode()


def read_sums(folder: Path) -> dict[str, set[str]]:
    """Accepted digests of each file of a finished run, by name.

    Raises:
        Corrupted: if `SHA256SUMS` cannot be read.
    """
    try:
        lines = read_text(folder / SUMS, regular=True).splitlines()
    except UserError as error:
        raise Corrupted(f"{error}; without it, {folder} cannot be verified") from error
    sums: dict[str, set[str]] = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        sums.setdefault(name, set()).add(digest)
    return sums


def check(folder: Path) -> None:
    """Compare the files that every finished run has with their checksums.

    Raises:
        Corrupted: if a file is missing or differs; names the first one.
    """
    for _, problem in _corrupted(folder, read_sums(folder), REQUIRED):
        raise Corrupted(problem)


def check_output(folder: Path, name: str) -> None:
    """Compare one more file of a finished run with its checksum.

    Raises:
        Corrupted: if it is missing or differs.
    """
    for _, problem in _corrupted(folder, read_sums(folder), [name]):
        raise Corrupted(problem)


def corrupted_outputs(folder: Path) -> Iterator[tuple[str, str]]:
    """Find corrupted plots and predictions; yields their names and problems.

    Raises:
        Corrupted: if `SHA256SUMS` cannot be read.
    """
    sums = read_sums(folder)
    yield from _corrupted(folder, sums, sorted(sums.keys() - set(REQUIRED)))


def _corrupted(
    folder: Path, sums: Mapping[str, set[str]], names: Iterable[str]
) -> Iterator[tuple[str, str]]:
    for name in names:
        if name not in sums or not _exists(folder, name):
            yield name, f"{folder / name} is missing, or is not listed in {SUMS}"
        elif digest_of_file(folder / name) not in sums[name]:
            yield name, f"{folder / name} is corrupted, or its line in {SUMS} is"


def _exists(folder: Path, name: str) -> bool:
    # A stranger's list must not lead out of the folder.
    return "/" not in name and (folder / name).is_file()
