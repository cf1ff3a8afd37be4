"""The page of a run, from memory at its end and from its folder later."""

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeGuard

import numpy as np

from twostage_jax.config.reports import Report, check_report
from twostage_jax.data.marks import original
from twostage_jax.data.npz import read_archive
from twostage_jax.errors import Corrupted, UserError
from twostage_jax.files import read_text
from twostage_jax.runs.handover import FROZEN
from twostage_jax.runs.result import ResultRecord
from twostage_jax.runs.study.folder import STUDY, read_study
from twostage_jax.show.report.compare import render_comparison, show_comparison
from twostage_jax.show.report.content import Content, Study
from twostage_jax.show.report.run import render_run
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.atomic import write_bytes
from twostage_jax.store.checksums import check, corrupted_outputs, write_files
from twostage_jax.store.epochs import EpochRecord, read_epochs
from twostage_jax.store.layout import BROKEN, DUPLICATES, MATERIAL, REPORT, RESULT, SUMS
from twostage_jax.store.lock import locked
from twostage_jax.store.records import Manifest, read_manifest, read_result

TABLES = {"duplicates": DUPLICATES, "broken": BROKEN}
COMPARISON = "comparison.html"
NEIGHBOURS = 1000  # folders beside a run that are searched for a study


def draw_report(
    folder: Path,
    manifest: Manifest,
    result: ResultRecord | None,
    epochs: Sequence[EpochRecord],
    arrays: Mapping[str, np.ndarray],
    study: Path | None = None,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> bytes:
    """Return the page of a run.

    Args:
        folder: folder of the run, from which the other files are read.
        manifest: content of `manifest.json`.
        result: content of `result.json`; None without stage 2.
        epochs: records of all epochs.
        arrays: content of `report.npz`.
        study: folder of a study of labels; by default one beside the run, see `find_study`.
        files: content of files that are not written yet, by name.

    Raises:
        UserError: a study that used another encoder.
    """
    return render_run(
        Content(
            folder=str(folder),
            manifest=manifest,
            result=result,
            epochs=epochs,
            arrays=arrays,
            tables=_read_tables(folder, files),
            study=open_study(study, manifest) if study else find_study(folder, manifest),
        )
    )


def write_report(command: Report, terminal: Terminal) -> Path:
    """Write the page of a run again, or one that compares runs, as `twostage report` does.

    Returns:
        Path of the page.

    Raises:
        UserError: folders that are no runs, runs without a result to compare, or a study that used
            another encoder.
        Corrupted: files that differ from what was written.
    """
    check_report(command)
    folders = [path.expanduser() for path in command.runs]
    path = _compare(folders, command.out, terminal)
    if path is None:
        path = _rebuild(folders[0], command.out, command.study, terminal)
    terminal.line(f"page {path}", hang=2, bold=True)
    return path


def _rebuild(folder: Path, out: Path | None, study: Path | None, terminal: Terminal) -> Path:
    """Write the page of one run."""
    manifest = read_manifest(folder)
    epochs = read_epochs(folder)
    if not (folder / RESULT).is_file():
        page = draw_report(folder, manifest, None, epochs, _material(folder, terminal), study)
        path = out or folder / REPORT
        write_bytes(path, page)
        return path
    check(folder)
    result = read_result(folder, ResultRecord)
    page = draw_report(folder, manifest, result, epochs, _material(folder, terminal), study)
    if out is not None:
        write_bytes(out, page)
        return out
    with locked(folder, terminal.notice):
        write_files(folder, {REPORT: page})
    return folder / REPORT


def _compare(folders: Sequence[Path], out: Path | None, terminal: Terminal) -> Path | None:
    """Write the page that compares several runs; return None for a single run."""
    if len(folders) < 2:
        return None
    contents = []
    for folder in folders:
        manifest = read_manifest(folder)
        if not (folder / RESULT).is_file():
            raise UserError(
                f"{folder} has no result to compare: finish it with twostage run --resume --out "
                f"{folder}, or leave it out"
            )
        check(folder)
        contents.append(Content(str(folder), manifest, read_result(folder, ResultRecord)))
    path = out or Path(COMPARISON)
    words = ["twostage", "report", *map(str, folders), "--out", str(path)]
    write_bytes(path, render_comparison(contents, [shlex.join(words)]))
    show_comparison(contents, terminal)
    return path


def _material(folder: Path, terminal: Terminal) -> Mapping[str, np.ndarray]:
    path = folder / MATERIAL
    if not path.is_file():
        terminal.notice(
            f"{folder} has no {MATERIAL}, because it is unfinished or of an older version: the "
            "page has no pictures of examples"
        )
        return {}
    if (folder / SUMS).is_file():
        for name, problem in corrupted_outputs(folder):
            if name == MATERIAL:
                raise Corrupted(f"{problem}; twostage run --resume --out {folder} makes it again")
    try:
        return read_archive(path)
    except UserError as error:
        raise Corrupted(f"{path} is corrupted: {error}") from error


def _read_tables(folder: Path, files: Mapping[str, bytes]) -> dict[str, list[list[str]]]:
    """Read the csv files of a run, by name; a run without such a file lacks the name."""
    tables = {}
    for name, file in TABLES.items():
        if file in files:
            text = files[file].decode()
        elif (folder / file).is_file():
            text = read_text(folder / file, regular=True)
        else:
            continue
        try:
            rows = csv.reader(io.StringIO(text, newline=""))
            # The page evaluates no formulas, so it shows names as they are.
            tables[name] = [[original(cell) for cell in row] for row in rows]
        except csv.Error as error:
            raise Corrupted(f"{folder / file} is corrupted: {error}") from error
    return tables


def find_study(folder: Path, manifest: Manifest) -> Study | None:
    """Find the study of labels of a run: the newest complete one with the run's encoder.

    The folders beside the run are searched, and the folder that contains it, because a study that
    trains its encoder has the run inside.
    """
    parent = folder.absolute().parent
    candidates = [parent / STUDY]
    try:
        beside = sorted(parent.iterdir())[:NEIGHBOURS]
    except OSError:
        beside = []
    candidates += [path / STUDY for path in beside]
    files = [path for path in candidates if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            return open_study(path.parent, manifest)
        except (UserError, OSError):
            continue  # a study of another kind or encoder, or one that is not complete
    return None


def open_study(folder: Path, manifest: Manifest) -> Study:
    """Open a complete study of labels that used the encoder of a run.

    Raises:
        UserError: another study, an incomplete one, or another encoder.
    """
    content = read_study(folder)
    if content.get("study") != "labels" or not content.get("complete"):
        raise UserError(
            f"{folder} is not a complete study of labels: give the folder that twostage study "
            "labels printed at its end"
        )
    results = content.get("results")
    if not _is_label_study(results):
        raise UserError(
            f"{folder / STUDY} is corrupted: its results are not those of a label study"
        )
    digests = {group.sha256 for name, group in manifest.groups.items() if name == FROZEN}
    # Stage 2 may have trained the encoder of the study.
    digests |= {manifest.frozen.before} if manifest.frozen else set()
    if content.get("encoder") not in digests:
        raise UserError(
            f"the study {folder} used another encoder than this run: run twostage study labels "
            "--from RUN"
        )
    return Study(folder.absolute().name, results)


def _is_label_study(results: object) -> TypeGuard[Mapping]:
    """Return True if results have everything that the page shows."""
    if not isinstance(results, dict):
        return False
    arms, counts, table = (results.get(name) for name in ("arms", "counts", "table"))
    controls = results.get("controls")
    if not (isinstance(arms, list) and isinstance(counts, list) and isinstance(table, list)):
        return False
    texts = [results.get("headline"), results.get("selection"), *arms]
    if not all(isinstance(text, str) for text in texts):
        return False
    if not isinstance(controls, dict) or controls.keys() != set(arms):
        return False
    if not counts or not all(isinstance(count, int) and count > 0 for count in counts):
        return False
    cells = [_cell(entry) for entry in table]
    return None not in cells and set(cells) == {(arm, count) for arm in arms for count in counts}


def _cell(entry: object) -> tuple[str, int] | None:
    """Return arm and number of labels of an entry of the table; None if it is malformed."""
    if not isinstance(entry, dict):
        return None
    shares = [entry.get(name) for name in ("mean", "low", "high")]
    if not all(isinstance(share, float | int) and 0 <= share <= 1 for share in shares):
        return None
    arm = entry.get("arm")
    labels = entry.get("labels")
    return (arm, labels) if isinstance(arm, str) and isinstance(labels, int) else None
