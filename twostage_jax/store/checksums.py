"""`SHA256SUMS`: what the files of a complete run are, as `sha256sum -c` checks it."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.files import digest_of_file, read_text
from twostage_jax.store.layout import CONFIG, MANIFEST, METRICS, RESULT, SUMS, write_bytes

ALWAYS = (CONFIG, METRICS, MANIFEST, RESULT)


def finish(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put files into the folder of a complete run, and their checksums; `result.json` comes last.

    Whatever the moment at which the process is killed, each file is the old or the new one, and the
    checksums know it. Those of other files stay as they are: what has been damaged in the meantime
    must not be taken for whole.

    Args:
        folder: of the run.
        files: what each file is to hold, by name.

    Raises:
        UserError: where that cannot be written.
    """
    known: dict[str, set[str]] = {}
    if (folder / SUMS).is_file():
        with contextlib.suppress(Corrupted):
            known = {name: each for name, each in read(folder).items() if _there(folder, name)}
    new = {name: {hashlib.sha256(content).hexdigest()} for name, content in files.items()}
    _write(folder, known | {name: known.get(name, set()) | each for name, each in new.items()})
    for name in sorted(files, key=lambda name: name == RESULT):
        write_bytes(folder / name, files[name])
    _write(folder, known | new)


def _write(folder: Path, sums: Mapping[str, set[str]]) -> None:
    """A line for each digest that a file may have: the digest, two spaces, the name."""
    lines = [f"{digest}  {name}\n" for name in sorted(sums) for digest in sorted(sums[name])]
    write_bytes(folder / SUMS, "".join(lines).encode())


def read(folder: Path) -> dict[str, set[str]]:
    """`{name: sha256s, any of which will do}` of the files of a complete run.

    Raises:
        Corrupted: if it cannot be read.
    """
    try:
        lines = read_text(folder / SUMS, regular=True).splitlines()
    except UserError as error:
        raise Corrupted(f"{error}; without it nothing tells whether {folder} is whole") from error
    known: dict[str, set[str]] = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        known.setdefault(name, set()).add(digest)
    return known


def check(folder: Path) -> None:
    """Hold what every complete run has against its checksums.

    Raises:
        Corrupted: for the first file that is not what it was when the run was complete.
    """
    for _, why in _broken(folder, read(folder), ALWAYS):
        raise Corrupted(why)


def broken_outputs(folder: Path) -> Iterator[tuple[str, str]]:
    """Names of pictures and predictions that are not what they were, and what is wrong with each.

    Raises:
        Corrupted: if the checksums cannot be read.
    """
    known = read(folder)
    yield from _broken(folder, known, sorted(known.keys() - set(ALWAYS)))


def _broken(
    folder: Path, known: Mapping[str, set[str]], names: Iterable[str]
) -> Iterator[tuple[str, str]]:
    for name in names:
        if name not in known or not _there(folder, name):
            yield name, f"{folder / name} is missing, or is not in {SUMS}"
        elif digest_of_file(folder / name) not in known[name]:
            yield name, f"{folder / name} and {SUMS} do not agree: one is damaged"


def _there(folder: Path, name: str) -> bool:
    # A stranger's list must not lead elsewhere.
    return "/" not in name and (folder / name).is_file()
