"""A finished run evaluated again: on a part of its own data or of another source."""

from pathlib import Path
from typing import Any

import numpy as np

from twostage_jax import uncertainty
from twostage_jax.data import Dataset
from twostage_jax.errors import UserError
from twostage_jax.results import (
    Trained,
    detect,
    member_scores,
    probabilities,
    save,
    score,
    summary,
    uncertain,
)
from twostage_jax.runs import Run, other_dataset, run_dataset
from twostage_jax.show import (
    show_classes,
    show_detection,
    show_members,
    show_scores,
    show_uncertainty,
)
from twostage_jax.terminal import Terminal
from twostage_jax.validate import check_coverage


def judge(
    run: Run,
    terminal: Terminal,
    *,
    split: str = "test",
    data: str | None = None,
    data_dir: Path | None = None,
    ood: str | None = None,
    coverage: float = 0.95,
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
        coverage: of the prediction sets, in (0, 1).
        save_predictions: write `predictions-SPLIT.npz`, and `predictions-ood.npz` with the scores
            of both sources.

    Raises:
        UserError: an empty part, data of another shape, too few validation examples for the
            coverage, a coverage outside (0, 1).
    """
    check_coverage(coverage)
    with terminal.phase("data", "reading data"):
        dataset = run_dataset(run, data, data_dir)
        own = dataset if data is None else run_dataset(run)
        outside = other_dataset(run, ood, data_dir) if ood else None
    part, trained = getattr(dataset, split), run.trained
    if not len(part["label"]):
        raise UserError(f"the {split} part of {dataset.name} is empty: choose another --split")
    with terminal.phase("evaluate", "evaluating"):
        logits = trained.logits(part["image"])
        record = _scores(trained, part, logits)
        record["uncertainty"] = _uncertain(run, own, part, logits, coverage)
        if outside is not None:
            record["detection"], found = detect(
                trained, own.train, part["image"], outside.test["image"]
            )
            if save_predictions:
                _save_scores(run.folder / "predictions-ood.npz", found)
    if save_predictions:
        _save(run, dataset, split, part["label"], logits)
    _show(run, dataset, outside, split, record, terminal)
    return record


def _scores(trained: Trained, part: Any, logits: np.ndarray) -> dict[str, Any]:
    record: dict[str, Any] = {"scores": score(trained, part, logits)}
    if trained.members is not None:
        record["members"] = member_scores(logits, part["label"])
        record["summary"] = summary(record["members"], record["scores"])
    return record


def _uncertain(run: Run, own: Dataset, part: Any, logits: Any, coverage: float) -> Any:
    """Figures of uncertainty; what is fitted is fitted on the run's own validation part."""
    held_out = own.validation
    if not len(held_out["label"]):
        return uncertain(None, (probabilities(logits), part["label"]), coverage)
    fitted = probabilities(run.trained.logits(held_out["image"]))
    # Raises where the part is too small, because here somebody has asked for that coverage.
    uncertainty.conformal_threshold(uncertainty.pool(fitted), held_out["label"], coverage)
    return uncertain((fitted, held_out["label"]), (probabilities(logits), part["label"]), coverage)


def _save(run: Run, dataset: Dataset, split: str, label: np.ndarray, logits: np.ndarray) -> None:
    own = dataset.fingerprint == run.manifest["data"]["fingerprint"]
    name = f"predictions-{split}.npz" if own else f"predictions-{dataset.name}-{split}.npz"
    save(run.folder / name, logits, label, run.trained.members is None)


def _save_scores(path: Path, found: dict[str, np.ndarray]) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **found)  # pyright: ignore[reportArgumentType]
    part.replace(path)


def _show(
    run: Run,
    dataset: Dataset,
    outside: Dataset | None,
    split: str,
    record: dict[str, Any],
    terminal: Terminal,
) -> None:
    show_scores(f"{run.folder} on {dataset.name}", {split: record["scores"]}, terminal)
    show_classes(record["scores"], run.manifest["classes"], terminal)
    if "summary" in record:
        show_members(record["summary"], len(record["members"]["accuracy"]), split, terminal)
    show_uncertainty(record["uncertainty"], split, terminal)
    if outside is not None:
        show_detection(record["detection"], outside.name, terminal)
