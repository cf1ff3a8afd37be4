"""Duplicates across splits in the folder, the result and the output of a run."""

import numpy as np

from twostage_jax.data.duplicates import Pairs
from twostage_jax.data.marks import csv_bytes
from twostage_jax.data.split import Split
from twostage_jax.runs.plan import Plan
from twostage_jax.runs.result import DuplicatePairs, DuplicatesRecord
from twostage_jax.scores.figures import compute_scores
from twostage_jax.show.report.images import thumbnail
from twostage_jax.store.layout import DUPLICATES

SHOWN = 100  # pairs of each two splits in `result.json`
DRAWN = 12  # pairs of images on the page
COLUMNS = ("kind", "distance", "split", "row", "class", "path")
COPY_COLUMNS = ("copy_split", "copy_row", "copy_class", "copy_path")


def duplicates_record(
    plan: Plan, probability: np.ndarray, label: np.ndarray
) -> DuplicatesRecord | None:
    """Return the record of the duplicates, with the scores on test images without a copy.

    Args:
        plan: the run.
        probability: mean probabilities on test, `[N, K]`.
        label: labels of test, int `[N]`.
    """
    duplicates = plan.duplicates
    if duplicates is None:
        return None
    affected = duplicates.affected("test", len(label))
    without = None
    if affected.any() and not affected.all():
        without = compute_scores(probability[~affected], label[~affected])
    return DuplicatesRecord(
        near=duplicates.near,
        pairs=[_count_pairs(plan, pairs, label) for pairs in duplicates.pairs],
        affected=int(affected.sum()),
        test_without=without,
        reason=duplicates.reason or None,
    )


def _count_pairs(plan: Plan, pairs: Pairs, test_label: np.ndarray) -> DuplicatePairs:
    identical = int(pairs.identical.sum())
    relabelled = None
    if pairs.earlier != "unlabelled":
        copy_label = plan.dataset.splits[pairs.earlier]["label"][pairs.copy]
        label = test_label if pairs.later == "test" else plan.dataset.validation["label"]
        relabelled = int((copy_label != label[pairs.image]).sum())
    rows = np.stack([_rows(plan, pairs.earlier, pairs.copy), _rows(plan, pairs.later, pairs.image)])
    return DuplicatePairs(
        earlier=pairs.earlier,
        later=pairs.later,
        identical=identical,
        near=len(pairs.image) - identical,
        relabelled=relabelled,
        rows=rows.T[:SHOWN].tolist(),
    )


def _rows(plan: Plan, split: str, positions: np.ndarray) -> np.ndarray:
    """Rows in the source of images at these positions of a split."""
    rows = plan.dataset.rows.get(split)
    # The pool is used as the source gives it.
    return positions if rows is None else rows[positions]


def duplicates_files(plan: Plan, test: Split) -> dict[str, bytes]:
    """Return `duplicates.csv`, by name; empty without duplicates."""
    duplicates = plan.duplicates
    if duplicates is None or not duplicates.pairs:
        return {}
    splits = {**plan.dataset.splits, "test": test}
    lines = []
    for pairs in duplicates.pairs:
        images = _cells(plan, pairs.later, splits[pairs.later], pairs.image)
        copies = _cells(plan, pairs.earlier, splits[pairs.earlier], pairs.copy)
        for distance, image, copy in zip(pairs.distance, images, copies, strict=True):
            kind = "near" if distance else "identical"
            lines.append((kind, f"{distance:.4f}", *image, *copy))
    return {DUPLICATES: csv_bytes((*COLUMNS, *COPY_COLUMNS), lines)}


def duplicate_arrays(plan: Plan, test: Split) -> dict[str, np.ndarray]:
    """Return some pairs of images for the page; empty without duplicates.

    Nearly identical images of test come first, because a person can judge them.
    """
    duplicates = plan.duplicates
    if duplicates is None or not duplicates.pairs:
        return {}
    splits = {**plan.dataset.splits, "test": test}
    columns: dict[str, list[np.ndarray]] = {}
    for pairs in sorted(duplicates.pairs, key=lambda pairs: pairs.later):
        rows = np.argsort(-pairs.distance, kind="stable")[:DRAWN]
        later = splits[pairs.later]
        earlier = splits[pairs.earlier]
        copy = pairs.copy[rows]
        image = pairs.image[rows]
        label = earlier["label"][copy] if "label" in earlier else np.full(len(rows), -1)
        for name, values in {
            "image": np.stack([thumbnail(x) for x in later["image"][image]]),
            "copy": np.stack([thumbnail(x) for x in earlier["image"][copy]]),
            "label": later["label"][image],
            "copy_label": label,
            "distance": pairs.distance[rows],
        }.items():
            columns.setdefault(f"duplicate_{name}", []).append(values)
    return {name: np.concatenate(values)[:DRAWN] for name, values in columns.items()}


def _cells(
    plan: Plan, name: str, split: Split, positions: np.ndarray
) -> list[tuple[str, int, str, str]]:
    """Split, row, class and path of images; empty text for an unknown class or path."""
    rows = _rows(plan, name, positions).tolist()
    labels = split["label"][positions].tolist() if "label" in split else [None] * len(rows)
    paths = split["path"][positions].tolist() if "path" in split else [""] * len(rows)
    return [
        (name, row, "" if k is None else plan.dataset.classes[k], path)
        for row, k, path in zip(rows, labels, paths, strict=True)
    ]
