"""Arrays in, arrays out: parts of a data set, stratified splits, fingerprints, duplicates."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from twostage_jax.data.split import Split, cut
from twostage_jax.errors import UserError

TEST_SHARE = 5
VALIDATION_SHARE = 10
VALIDATION_MOST = 5000
# Confusions are K×K counts, of two parts in one `result.json`: at 2,000 classes 28 MB each as text,
# and no more than 64 MiB are read of it.
MOST_CLASSES = 2000
PARTS = ("train", "validation", "test")


class Source(NamedTuple):
    """What somebody's files hold, before anything is cut from it.

    Attributes:
        name: short name of the data set.
        train: `image` uint8 `[N, H, W, C]` and `label` int32 `[N]`.
        test: the same, or None where the source has no test part.
        classes: class names, a label being an index into them; empty where the source has none,
            and then the labels themselves, from 0 to the highest, are the names.
    """

    name: str
    train: Split
    test: Split | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingData:
    """What training may see of a data set, on the host.

    Attributes:
        name: short name of the data set.
        train: `{"image": uint8 [N, H, W, C], "label": int32 [N]}`.
        validation: the same, carved from the source's train part; may be empty.
        classes: the `K` class names.
        fingerprint: `sha256:…` of the examples of the source's parts, whatever their order and
            wherever validation is cut.
        order: `sha256:…` of the examples of train, validation and test in the order they have
            there; what is cut depends on the order in which the source gives them.
        parts: `fingerprint` of `train`, `validation` and `test`, each by itself: whatever the order
            in it.
    """

    name: str
    train: Split
    validation: Split
    classes: tuple[str, ...]
    fingerprint: str
    order: str
    parts: dict[str, str]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of one image."""
        return self.train["image"].shape[1:]


@dataclass(frozen=True)
class Dataset(TrainingData):
    """Three parts of images and labels, on the host.

    Attributes:
        test: as `train` and `validation` are.
    """

    test: Split

    def lock(self) -> tuple[TrainingData, "Lockbox"]:
        """What training may see, and the test part under lock."""
        seen = {item.name: getattr(self, item.name) for item in dataclasses.fields(TrainingData)}
        return TrainingData(**seen), Lockbox(self.test)


class Lockbox:
    """The test part, which nothing can reach before it is unlocked.

    Attributes:
        count: number of test examples.
    """

    def __init__(self, test: Split) -> None:
        self._test = test
        self.count = len(test["label"])

    def unlock(self) -> Split:
        """The test part; who reads it has counted that before."""
        return self._test


def make_dataset(source: Source, validation: int | None = None) -> Dataset:
    """Check a source, cut what it lacks, and fingerprint it.

    Args:
        source: what was read.
        validation: examples carved from train, class by class; by default a tenth, at most 5,000.

    Raises:
        UserError: an empty part, a single class or too many, parts that do not fit each other, or
            more validation examples than there are.
    """
    _check(source)
    classes = _classes(source)
    given = [_digested(part) for part in (source.train, source.test) if part is not None]
    train, test = given[0], given[1] if len(given) == 2 else None
    if test is None:
        train, test = cut(train, max(1, len(train["label"]) // TEST_SHARE))
    count = len(train["label"])
    if validation is None:
        validation = min(count // VALIDATION_SHARE, VALIDATION_MOST)
    if not isinstance(validation, (int, np.integer)) or not 0 <= validation < count:
        raise UserError(
            f"--validation {validation} does not fit {source.name}, which has {count} training "
            f"examples: give a number from 0 to {count - 1}"
        )
    train, held_out = cut(train, validation)
    parts = dict(zip(PARTS, (train, held_out, test), strict=True))
    return Dataset(
        name=source.name,
        classes=classes,
        fingerprint=fingerprint(given),
        order=fingerprint(list(parts.values()), ordered=True),
        parts={name: fingerprint([part]) for name, part in parts.items()},
        **{name: {key: part[key] for key in ("image", "label")} for name, part in parts.items()},
    )


def fingerprint(parts: Sequence[Split], ordered: bool = False) -> str:
    """`sha256:…` over the parts: in each, its shape and the sorted digests of its examples.

    TFDS shuffles what it prepares, so the order of examples is left out on purpose, unless
    `ordered`.
    """
    total = hashlib.sha256()
    for part in parts:
        total.update(str(part["image"].shape).encode())
        digests = part["digest"] if "digest" in part else _digests(part)
        total.update((digests if ordered else np.sort(digests)).tobytes())
    return f"sha256:{total.hexdigest()}"


def _digested(part: Split) -> Split:
    """A part with `digest`, which is cut with it: each example is hashed once, before any cut."""
    return {**part, "digest": _digests(part)}


def _digests(part: Split) -> np.ndarray:
    """SHA-256 of each example, image and label, 32 bytes `[N]`."""
    digests = [
        hashlib.sha256(image.tobytes() + int(label).to_bytes(4, "little")).digest()
        for image, label in zip(part["image"], part["label"], strict=True)
    ]
    return np.frombuffer(b"".join(digests), "S32")


def duplicates(dataset: Dataset) -> dict[str, int]:
    """Images of the later part that also are in the earlier one, byte for byte, by pair of parts.

    Keys are `"train and test"` and so on; labels are not compared.
    """
    parts = {name: getattr(dataset, name)["image"] for name in PARTS}
    keys = {name: [image.tobytes() for image in images] for name, images in parts.items()}
    pairs = [("train", "validation"), ("train", "test"), ("validation", "test")]
    return {
        f"{one} and {other}": sum(map(set(keys[one]).__contains__, keys[other]))
        for one, other in pairs
    }


def _classes(source: Source) -> tuple[str, ...]:
    present = np.unique(source.train["label"])
    count = len(source.classes) or int(present[-1]) + 1
    # One stray label must not make a thousand classes; a subset has to be renumbered.
    if not source.classes and 2 * len(present) < count:
        raise UserError(
            f"{source.name} has label {count - 1}, out of range: only {len(present)} of the "
            f"classes 0 to {count - 1} have training examples; number the classes from 0 to "
            f"{len(present) - 1}"
        )
    if count > MOST_CLASSES:
        raise UserError(
            f"{source.name} has {count:,} classes, the most is {MOST_CLASSES:,}: their table of "
            "confusions has a number for each pair; give a part of the set, or coarser classes"
        )
    return source.classes or tuple(str(k) for k in range(count))


def _check(source: Source) -> None:
    parts = {"train": source.train} | ({"test": source.test} if source.test else {})
    for name, part in parts.items():
        if not len(part["label"]):
            raise UserError(f"the {name} part of {source.name} is empty: it needs examples")
    present = np.unique(source.train["label"])
    if len(present) < 2:
        raise UserError(
            f"{source.name} has the single class {int(present[0])} in its train part: a classifier "
            "needs at least two"
        )
    if source.test is None:
        if len(source.train["label"]) < 3:
            raise UserError(
                f"{source.name} has {len(source.train['label'])} examples and no test part: too "
                "few to cut one; give at least 3"
            )
        return
    shapes = [part["image"].shape[1:] for part in parts.values()]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"{source.name} has images {shapes[0]} in train and {shapes[1]} in test: they must "
            "have one shape"
        )
    strangers = np.setdiff1d(source.test["label"], present)
    if len(strangers):
        raise UserError(
            f"the test part of {source.name} has label {int(strangers[0])}, which its train part "
            f"lacks: labels must be out of {int(present[0])} to {int(present[-1])}"
        )
