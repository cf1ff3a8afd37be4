"""From a command to a finished study: checks, folder, encoder, and the study itself."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from twostage_jax.config.studies import (
    LabelStudy,
    NextStudy,
    NoiseStudy,
    Study,
    SuspectStudy,
    check_study,
)
from twostage_jax.data.dataset import Dataset
from twostage_jax.engine.device import find_device
from twostage_jax.errors import UserError
from twostage_jax.runs.announce import show_machine
from twostage_jax.runs.opened import Run
from twostage_jax.runs.resume import package_versions
from twostage_jax.runs.study.cells import Cells
from twostage_jax.runs.study.context import Context, Values
from twostage_jax.runs.study.folder import (
    SCHEMA,
    check_new,
    read_study,
    resume_command,
    resumed_study,
    settings_of,
    write_study,
)
from twostage_jax.runs.study.labels import check_labels, study_label_counts
from twostage_jax.runs.study.next import check_next, study_next
from twostage_jax.runs.study.noise import check_noise, study_noise
from twostage_jax.runs.study.sources import Source, load_source, train_encoder
from twostage_jax.runs.study.suspects import check_suspects, study_suspects
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import resumable
from twostage_jax.store.layout import check_name, create_folder
from twostage_jax.store.lock import locked


class Kind(NamedTuple):
    """Kind of study.

    Attributes:
        name: second word of its command.
        check: `(study, dataset)` raises `UserError` for options that do not fit the data, before
            anything is written or trained.
        compute: `(context) -> results`: computes, prints, writes the study's own files, and returns
            what `study.json` gets as `results`: JSON values.
    """

    name: str
    check: Callable[[Any, Dataset], None]
    compute: Callable[[Any], Values]


STUDIES: dict[type[Study], Kind] = {
    LabelStudy: Kind("labels", check_labels, study_label_counts),
    SuspectStudy: Kind("suspects", check_suspects, study_suspects),
    NextStudy: Kind("next", check_next, study_next),
    NoiseStudy: Kind("noise", check_noise, study_noise),
}


def run_study(study: Study, terminal: Terminal) -> tuple[Path, Values]:
    """Run or resume a study; return its folder and the content of its `study.json`.

    Raises:
        UserError: options that are malformed or do not fit the data or the folder.
    """
    check_study(study)
    kind = STUDIES[type(study)]
    machine = find_device(study.device)
    with contextlib.ExitStack() as stack:
        if study.resume:
            assert study.out is not None, "`check_study` has rejected this"
            read_study(study.out)
            _claim(stack, study, kind.name, study.out, terminal)
            study = resumed_study(study, kind.name)
        elif study.out:
            check_name(study.out)
            check_new(study.out)
        with terminal.reading("reading data") as progress:
            dataset, opened = load_source(study, progress)
        kind.check(study, dataset)
        folder = study.out or create_folder(None, f"study-{kind.name}-{dataset.name}")
        if not study.resume:
            create_folder(folder, dataset.name)
            _claim(stack, study, kind.name, folder, terminal)
            check_new(folder)
        show_machine(machine, terminal)
        study = dataclasses.replace(study, out=folder)
        return folder, _run(kind, study, dataset, opened, terminal)


def _claim(
    stack: contextlib.ExitStack, study: Study, name: str, folder: Path, terminal: Terminal
) -> None:
    """Lock the folder for this process, and store the command that resumes the study."""
    stack.enter_context(locked(folder, terminal.notice))
    stack.enter_context(resumable(resume_command(study, name, folder)))


def _run(
    kind: Kind, study: Study, dataset: Dataset, opened: Run | None, terminal: Terminal
) -> Values:
    """Run a study in a locked folder, and return the content of `study.json`."""
    folder = study.out
    assert folder is not None
    start = time.perf_counter()
    content = _started(kind, study, dataset, folder, terminal)
    write_study(folder, content)
    if opened is None:
        opened = train_encoder(study, dataset, folder, terminal)
    report_labels(opened, terminal)
    encoder = opened.manifest.groups["encoder"].sha256
    if content.setdefault("encoder", encoder) != encoder:
        raise UserError(
            f"{opened.folder} has another encoder than when {folder} was started: start a new study"
        )
    # Written before anything is computed: cells must never come from two encoders.
    write_study(folder, content)
    training, lockbox = dataset.lock()

    def on_unlock() -> None:
        # Written before the test split is read.
        content["test_reads"] = max(1, content["test_reads"])
        write_study(folder, content)

    source = Source(training, lockbox, opened, folder, on_unlock, terminal.notice)
    progress = terminal.line if study.verbose else None
    cells = Cells(folder, terminal.notice, progress)
    content["results"] = kind.compute(Context(study, source, folder, cells, terminal))
    content["complete"] = True
    content["seconds"] = content["seconds"] + time.perf_counter() - start
    write_study(folder, content)
    terminal.line(f"study in {folder}", hang=2)
    return content


def report_labels(opened: Run, terminal: Terminal) -> None:
    """Print which labels stage 1 has used; the numbers of labels of a study do not include them."""
    record = opened.manifest.pretrain
    if record is None:
        return
    if record.labels:
        terminal.notice(
            f"the encoder of {opened.folder} was trained with {record.labels:,} labels: it is no "
            "evidence for pretraining without labels"
        )
    if record.kept is not None:
        terminal.notice(
            f"labels chose the epoch of the encoder of {opened.folder} (--pretrain.select probe): "
            "the study does not count these labels"
        )


def _started(
    kind: Kind, study: Study, dataset: Dataset, folder: Path, terminal: Terminal
) -> Values:
    """Return the content of `study.json` of a study that starts or resumes.

    Raises:
        UserError: data or versions that have changed since it was started.
    """
    content = {
        "schema": SCHEMA,
        "study": kind.name,
        "settings": settings_of(study, kind.name),
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "order": dataset.order,
            "classes": list(dataset.classes),
            "train": len(dataset.train["label"]),
            "unlabelled": len(dataset.unlabelled["image"]),
            "validation": len(dataset.validation["label"]),
            "test": len(dataset.test["label"]),
        },
        "versions": package_versions(),
        "test_reads": 0,
        "seconds": 0.0,
        "complete": False,
    }
    if not study.resume:
        return content
    recorded = read_study(folder)
    if recorded.get("data") != content["data"]:
        raise UserError(
            f"the data of {folder} have changed since it was started: start a new study"
        )
    if recorded.get("versions") != content["versions"]:
        terminal.notice(f"{folder} was started with other package versions: numbers can differ")
    kept = ("settings", "versions", "encoder", "test_reads", "seconds")
    return content | {name: recorded[name] for name in kept if name in recorded}
