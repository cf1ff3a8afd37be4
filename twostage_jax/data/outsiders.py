"""Images of a class that stands for "none of the others"."""

import dataclasses

import numpy as np

from twostage_jax.data.dataset import Dataset
from twostage_jax.data.split import Split
from twostage_jax.errors import UserError, did_you_mean, shown


def without_class(dataset: Dataset, name: str) -> Dataset:
    """Return a data set without one of its classes, whose images become `Dataset.outsiders`.

    The labels of the remaining classes are numbered without a gap. Fingerprints stay as they are:
    they identify the source and its splits.

    Raises:
        UserError: a class that does not exist, or that leaves a single class with examples.

    >>> import twostage_jax as ts
    >>> dataset = without_class(ts.load("digits"), "7")
    >>> len(dataset.classes), dataset.classes[7], len(dataset.outsiders["test"])
    (9, '8', 36)
    """
    if name not in dataset.classes:
        raise UserError(
            f"--other-class {shown(name)} is not a class of {dataset.name}: "
            f"{did_you_mean(name, dataset.classes)}"
        )
    number = dataset.classes.index(name)
    present = np.unique(dataset.train["label"])
    left = present[present != number]
    if len(left) < 2:
        names = ", ".join(dataset.classes[k] for k in left) or "none"
        raise UserError(
            f"--other-class {shown(name)} leaves a single class ({names}) in {dataset.name}: a "
            "classifier needs at least two"
        )
    splits: dict[str, Split] = {}
    outsiders = {}
    rows = {}
    for split in ("train", "validation", "test"):
        values = dataset.splits[split]
        inside = values["label"] != number
        outsiders[split] = values["image"][~inside]
        rows[split] = dataset.rows[split][inside]
        splits[split] = {key: array[inside] for key, array in values.items()}
        label = splits[split]["label"]
        splits[split]["label"] = (label - (label > number)).astype(np.int32)
    counts = ", ".join(f"{split} {len(images):,}" for split, images in outsiders.items())
    note = f"class {shown(name)}: images of no other class, which are not trained on: {counts}"
    return dataclasses.replace(
        dataset,
        **splits,
        rows=rows,
        outsiders=outsiders,
        classes=tuple(x for x in dataset.classes if x != name),
        notes=(*dataset.notes, note),
    )
