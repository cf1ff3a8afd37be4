"""All labelled examples of a source, to evaluate a finished run on them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from twostage_jax.data.dataset import fingerprint, with_digests
from twostage_jax.data.names import listed
from twostage_jax.data.source import Source
from twostage_jax.data.split import Split
from twostage_jax.errors import UserError, shown

ALL = "all"  # name of the part if a source has a single one


class Examples(NamedTuple):
    """Labelled examples of a source, on the host.

    Attributes:
        name: short name of the source.
        part: `"all"`, or the name of the split that was read if the source has several.
        image: uint8 `[N, H, W, C]`.
        label: int32 `[N]`, indices into the classes of the run.
        rows: row of each example in the source's file, int32 `[N]`.
        notes: sentences on how the source was read.
        fingerprint: `sha256:…` of the source, as `Dataset.fingerprint`.
        test_fingerprint: `sha256:…` of these examples; equals `Dataset.parts["test"]` of a data set
            whose test split has exactly these examples.
        path: path of each image as the source gives it, text `[N]`; None without files.
        group: group of each image, int32 `[N]`, an index into `groups`; None without groups.
        groups: names of the groups.
    """

    name: str
    part: str
    image: np.ndarray
    label: np.ndarray
    rows: np.ndarray
    notes: tuple[str, ...]
    fingerprint: str
    test_fingerprint: str
    path: np.ndarray | None = None
    group: np.ndarray | None = None
    groups: tuple[str, ...] = ()


def make_examples(source: Source, classes: Sequence[str], split: str | None = None) -> Examples:
    """Select a split of a source and express its labels in `classes`.

    Args:
        source: content of the files.
        classes: class names of the run, indexed by label.
        split: `train`, `validation` or `test`; by default the test split.

    Raises:
        UserError: a split that the source lacks or that has no labelled example, or a label outside
            of the run's classes.
    """
    splits = {name: part for name, part in source.splits.items() if len(part["image"])}
    if not splits:
        raise UserError(f"{source.name} has no labelled examples: give images with labels")
    name = _choose(source.name, list(splits), split)
    chosen = with_digests(splits[name])
    label, notes = _as_classes(source, chosen["label"], classes)
    mapped = with_digests({"image": chosen["image"], "label": label})
    notes = source.notes + notes
    unread = [f"{n} ({len(part['label'])})" for n, part in splits.items() if n != name]
    if unread:
        notes += (f"read the {name} split; the source also has {', '.join(unread)}",)
    return Examples(
        name=source.name,
        part=name if unread else ALL,
        image=chosen["image"],
        label=label,
        rows=chosen["row"],
        notes=notes,
        fingerprint=source_fingerprint(source),
        test_fingerprint=fingerprint([mapped]),
        path=chosen.get("path"),
        group=chosen.get("group"),
        groups=source.groups,
    )


def source_fingerprint(source: Source) -> str:
    """Compute the fingerprint of a source, equal to that of its `Dataset`."""
    parts: list[Split] = list(source.splits.values())
    if source.unlabelled is not None and len(source.unlabelled):
        parts.append({"image": source.unlabelled})
    return fingerprint([with_digests(part) for part in parts])


def _choose(source: str, names: Sequence[str], split: str | None) -> str:
    if len(names) == 1 and split in (None, "test", names[0]):
        return names[0]  # the only split; `test` also means "the examples to score"
    if split is None:
        return next(name for name in ("test", "validation", "train") if name in names)
    if split not in names:
        raise UserError(
            f"{source} has no {split} split of its own, only {', '.join(names)}: leave --split out "
            "or choose one of these"
        )
    return split


def _as_classes(
    source: Source, label: np.ndarray, classes: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels as indices into `classes`, by name, or by number without names; and notes."""
    present = np.unique(label)
    names = {int(k): source.classes[k] if source.classes else str(k) for k in present}
    numbers = {name: index for index, name in enumerate(classes)}
    notes = ()
    # A number is first looked up among the class names, then used as an index.
    if _are_numbers(names.values()) and not _are_numbers(classes):
        numbers = {str(index): index for index in range(len(classes))}
        notes = ("labels are numbers: 0 is the first class of the run",)
    unknown = [name for name in names.values() if name not in numbers]
    if unknown:
        raise UserError(
            f"{source.name} has the class {shown(unknown[0])}, which the run was not trained on: "
            f"give examples of its classes, {listed(classes, 12)}"
        )
    table = np.zeros(int(present[-1]) + 1, np.int32)
    for k, name in names.items():
        table[k] = numbers[name]
    return table[label], notes


def _are_numbers(names: Iterable[str]) -> bool:
    return all(name.isdecimal() for name in names)
