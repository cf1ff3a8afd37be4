"""A finished run evaluated again: on a part of its own data or of another source."""

from pathlib import Path
from typing import Any

import numpy as np

from twostage_jax.config.fields import check_coverage
from twostage_jax.data.dataset import Dataset
from twostage_jax.data.spec import absolute, takes_data_dir
from twostage_jax.data.split import Split
from twostage_jax.engine.predictor import Trained
from twostage_jax.errors import UserError
from twostage_jax.runs.open import Run, is_own, other_images, run_dataset
from twostage_jax.scores import uncertainty
from twostage_jax.scores.figures import (
    COVERAGE,
    as_npz,
    detect,
    member_scores,
    predictions,
    probabilities,
    score,
    summary,
    uncertain,
)
from twostage_jax.show.tables import (
    show_classes,
    show_detection,
    show_members,
    show_scores,
    show_uncertainty,
    times_read,
)
from twostage_jax.show.terminal import Terminal
from twostage_jax.store import checksums as sums
from twostage_jax.store import layout as folders
from twostage_jax.store.lock import locked


def judge(
    run: Run,
    terminal: Terminal,
    *,
    split: str = "test",
    data: str | None = None,
    data_dir: Path | None = None,
    ood: str | None = None,
    coverage: float | None = None,
    save_predictions: bool = False,
) -> dict[str, Any]:
    """What `twostage evaluate` prints, as a record: `scores`, `uncertainty`, `detection`.

    Args:
        run: of `open_run`.
        terminal: where to print.
        split: `train`, `validation` or `test`.
        data: another source, in place of the run's own.
        data_dir: where TensorFlow Datasets keeps its data.
        ood: a source to be told from the run's own.
        coverage: of the prediction sets, in (0, 1); by default 0.95, if validation suffices.
        save_predictions: write `predictions-SPLIT.npz`, and `predictions-ood.npz` with the scores
            of both sources.

    Raises:
        UserError: an empty part, data of another shape, a coverage outside (0, 1), one that
            validation is too small for, or one on the part it is fitted on.
    """
    check_coverage(coverage)
    with terminal.phase("data", "reading data"):
        dataset, own, outside = _read(run, data, ood, data_dir)
    fitted_on = _fitted_on(dataset is own, split, coverage)
    trained, part = run.trained, _part(run, dataset, split, terminal)
    with terminal.phase("evaluate", "evaluating"):
        logits = trained.logits(part["image"])
        record = _scores(trained, part, logits)
        held_out = None if fitted_on else own.validation
        record["uncertainty"] = _uncertain(run, held_out, part, logits, coverage)
        found = None
        if outside is not None:
            record["detection"], found = detect(trained, own.train, part["image"], outside)
    if save_predictions:
        _save(run, found, _name(run, dataset, split), part["label"], logits, terminal)
    _show(run, dataset, ood, split, record, terminal)
    return record


def _part(run: Run, dataset: Dataset, split: str, terminal: Terminal) -> Split:
    """One part of the data; that the test part of the run is read is counted before."""
    seen, lockbox = dataset.lock()
    if not (lockbox.count if split == "test" else len(getattr(seen, split)["label"])):
        raise UserError(f"the {split} part of {dataset.name} is empty: choose another --split")
    if split != "test":
        return getattr(seen, split)
    # The same images are the same test, under whatever name.
    if dataset.parts["test"] == run.manifest["data"]["parts"].get("test"):
        count_read(run, terminal)
    return lockbox.unlock()


def count_read(run: Run, terminal: Terminal) -> None:
    """Count in manifest and result that the run's test part is read again, before it is.

    Raises:
        UserError: where that cannot be written.
    """
    with locked(run.folder, terminal.notice):
        files = {}
        reads = folders.read_json(run.folder, folders.MANIFEST)["test_reads"] + 1
        for name in (folders.MANIFEST, folders.RESULT):
            values = folders.read_json(run.folder, name) | {"test_reads": reads}
            files[name] = folders.packed(name, values)
        sums.finish(run.folder, files)
    run.record["test_reads"] = reads


def _fitted_on(own: bool, split: str, coverage: float | None) -> bool:
    """Whether it is the part that temperature and prediction sets are fitted on."""
    fitted_on = own and split == "validation"
    if fitted_on and coverage is not None:
        raise UserError(
            "prediction sets are fitted on validation: leave out --coverage or --split validation"
        )
    return fitted_on


def _read(
    run: Run, data: str | None, ood: str | None, data_dir: Path | None
) -> tuple[Dataset, Dataset, Any]:
    """What is evaluated, the run's own data, and images to be told from them, or None."""
    if absolute(ood) == run.config.data:
        raise UserError(f"{ood} is the run's own data: give another source to --ood")
    if data_dir and not any(map(takes_data_dir, (data or run.config.data, ood))):
        raise UserError(
            "--data-dir goes with mnist and tfds:NAME, and neither is read: leave it out"
        )
    # With --ood the folder belongs to whichever source lies in one.
    own_dir = None if ood and not takes_data_dir(run.config.data) else data_dir
    dataset = run_dataset(run, data, own_dir)
    own = dataset if is_own(run, dataset) else run_dataset(run)
    if ood is None:
        return dataset, own, None
    return dataset, own, other_images(run, ood, data_dir if takes_data_dir(ood) else None)


def _scores(trained: Trained, part: Any, logits: np.ndarray) -> dict[str, Any]:
    record: dict[str, Any] = {"scores": score(trained, part, logits)}
    if trained.members is not None:
        record["members"] = member_scores(logits, part["label"])
        record["summary"] = summary(record["members"], record["scores"])
    return record


def _uncertain(run: Run, held_out: Any, part: Any, logits: Any, coverage: float | None) -> Any:
    """Figures of uncertainty; what is fitted is fitted on the run's own validation part.

    `held_out` is None where it is that part which is evaluated: nothing fitted is measured on it.
    """
    count = 0 if held_out is None else len(held_out["label"])
    if coverage is not None:
        uncertainty.check_enough(count, coverage)
    test = (probabilities(logits), part["label"])
    if held_out is None or not count:
        return uncertain(None, test)
    fitted = probabilities(run.trained.logits(held_out["image"]))
    return uncertain((fitted, held_out["label"]), test, coverage or COVERAGE)


def _save(
    run: Run, found: Any, name: str, label: np.ndarray, logits: np.ndarray, terminal: Terminal
) -> None:
    """Write predictions, and scores of both sources where there are two, and their checksums."""
    with locked(run.folder, terminal.notice):
        files = {f"predictions-{name}.npz": predictions(logits, label, run.config.members == 1)}
        if found is not None:
            files["predictions-ood.npz"] = as_npz(found)
        sums.finish(run.folder, files)


def _name(run: Run, dataset: Dataset, split: str) -> str:
    return split if is_own(run, dataset) else f"{folders.as_name(dataset.name)}-{split}"


def _show(
    run: Run,
    dataset: Dataset,
    ood: str | None,
    split: str,
    record: dict[str, Any],
    terminal: Terminal,
) -> None:
    show_scores(f"{run.folder} on {dataset.name}", {split: record["scores"]}, terminal)
    show_classes(record["scores"], run.manifest["classes"], terminal)
    if "summary" in record:
        show_members(record["summary"], len(record["members"]["accuracy"]), split, terminal)
    show_uncertainty(record["uncertainty"], split, terminal)
    if split == "test":
        terminal.line(f"test part of the run: {times_read(run.record['test_reads'])}")
    if ood:
        show_detection(record["detection"], ood, terminal)
