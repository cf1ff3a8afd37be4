"""A data set on the host: checked, split and fingerprinted, with its test split under lock."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from twostage_jax.data.split import Split, set_aside
from twostage_jax.errors import UserError

TEST_SHARE = 5  # one example in five
VALIDATION_SHARE = 10
VALIDATION_LIMIT = 5000
# Confusion matrices are K×K counts, for two splits in one `result.json`: at 2,000 classes they
# take 28 MB each as text, and at most 64 MiB of that file are read.
CLASS_LIMIT = 2000


class Source(NamedTuple):
    """Content of a user's files, before anything is split off.

    Attributes:
        name: short name of the data set.
        train: `image` uint8 `[N, H, W, C]` and `label` int32 `[N]`.
        test: the same, or None if the source has no test split.
        classes: class names, indexed by label. If empty, the labels themselves are the names.
        unlabelled: images uint8 `[U, H, W, C]` without labels, or None.
    """

    name: str
    train: Split
    test: Split | None = None
    classes: tuple[str, ...] = ()
    unlabelled: np.ndarray | None = None


# Equality of arrays has no truth value, so these compare by identity.
@dataclass(frozen=True, eq=False, repr=False)
class TrainingData:
    """All of a data set except its test split, on the host.

    Attributes:
        name: short name of the data set.
        train: labelled examples, `{"image": uint8 [N, H, W, C], "label": int32 [N]}`.
        validation: the same, carved from the source's train split; may be empty.
        unlabelled: `{"image": uint8 [U, H, W, C]}`, the pool for stage 1 alone; may be empty.
        classes: the `K` class names.
        fingerprint: `sha256:…` of the source's examples. Their order and the size of validation do
            not matter.
        order: `sha256:…` of the examples of all splits in order. The splits depend on the order in
            which the source gives its examples.
        parts: fingerprint of each split by itself: `train`, `validation`, `test`, and `unlabelled`
            if the source has unlabelled images.
        rows: row of each example in the source's file, int32 `[N]`, by split. A test split that was
            set aside has rows of the source's train split.
    """

    name: str
    train: Split
    validation: Split
    unlabelled: Split
    classes: tuple[str, ...]
    fingerprint: str
    order: str
    parts: dict[str, str]
    rows: dict[str, np.ndarray]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape `(H, W, C)` of one image."""
        return self.train["image"].shape[1:]

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name; `unlabelled` comes last and only if it is not empty."""
        names = [name for name in ("train", "validation", "test") if hasattr(self, name)]
        if len(self.unlabelled["image"]):
            names.append("unlabelled")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        """Return sizes and names on one line instead of the arrays."""
        sizes = [f"{name}={len(split['image'])}" for name, split in self.splits.items()]
        return (
            f"{type(self).__name__}({self.name!r}, image_shape={self.image_shape}, "
            f"classes={len(self.classes)}, {', '.join(sizes)}, fingerprint={self.fingerprint!r})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(TrainingData):
    """Images and labels in splits, on the host; `test` has the form of `train`.

    >>> import twostage_jax as ts
    >>> dataset = ts.load("digits")
    >>> {name: len(split["label"]) for name, split in dataset.splits.items()}
    {'train': 1295, 'validation': 143, 'test': 359}
    """

    test: Split

    def lock(self) -> tuple[TrainingData, "Lockbox"]:
        """Separate the data for training from the test split, which is put under lock."""
        names = [field.name for field in dataclasses.fields(TrainingData)]
        training = TrainingData(**{name: getattr(self, name) for name in names})
        return training, Lockbox(self.test)


class Lockbox:
    """The test split and its number of examples, `count`."""

    def __init__(self, test: Split) -> None:
        # Everything but `unlock` gets along with the count, so no choice can depend on the test.
        self._test = test
        self.count = len(test["label"])

    def unlock(self) -> Split:
        """Return the test split; the caller has recorded this reading of it before."""
        return self._test


def make_dataset(source: Source, validation: int | None = None) -> Dataset:
    """Check a source, set aside the splits that it lacks, and fingerprint it.

    Args:
        source: content of the files.
        validation: number of examples to carve from train, stratified; by default a tenth, at most
            5,000.

    Raises:
        UserError: an empty split, a single class or too many, splits that do not fit together, or
            `validation` out of range.
    """
    _check_source(source)
    classes = _class_names(source)
    train = _with_digests(source.train)
    originals = [train]  # the fingerprint covers the source's splits, not ours
    # The test split comes first: it must not depend on the size of validation.
    if source.test is None:
        train, test = set_aside(train, max(1, len(train["label"]) // TEST_SHARE))
    else:
        test = _with_digests(source.test)
        originals.append(test)
    count = _validation_count(validation, len(train["label"]), source.name)
    train, held_out = set_aside(train, count)
    splits = {"train": train, "validation": held_out, "test": test}
    pool = train["image"][:0] if source.unlabelled is None else source.unlabelled
    hashed: dict[str, Split] = dict(splits)
    if len(pool):  # an empty pool must not change the fingerprints of sources without one
        hashed["unlabelled"] = _with_digests({"image": pool})
        originals.append(hashed["unlabelled"])
    return Dataset(
        name=source.name,
        classes=classes,
        fingerprint=_fingerprint(originals),
        order=_fingerprint(list(hashed.values()), ordered=True),
        parts={name: _fingerprint([split]) for name, split in hashed.items()},
        rows={name: split["row"] for name, split in splits.items()},
        unlabelled={"image": pool},
        **{n: {key: split[key] for key in ("image", "label")} for n, split in splits.items()},
    )


def _with_digests(split: Split) -> Split:
    """Add the `row` of each example and its `digest`, SHA-256 over image and label, 32 bytes."""
    labels = [b""] * len(split["image"])
    if "label" in split:  # unlabelled images have none
        labels = [int(label).to_bytes(4, "little") for label in split["label"]]
    digests = [
        hashlib.sha256(image.tobytes() + label).digest()
        for image, label in zip(split["image"], labels, strict=True)
    ]
    # They follow the examples into their splits, so each example is hashed only once.
    row = np.arange(len(labels), dtype=np.int32)
    return {**split, "digest": np.frombuffer(b"".join(digests), "S32"), "row": row}


def _fingerprint(splits: Sequence[Split], ordered: bool = False) -> str:
    """Compute `sha256:…` over the image shape and the example digests of each split."""
    total = hashlib.sha256()
    for split in splits:
        total.update(str(split["image"].shape).encode())
        digests = split["digest"]
        # Sorted, because TFDS shuffles what it prepares: the same examples, one fingerprint.
        total.update((digests if ordered else np.sort(digests)).tobytes())
    return f"sha256:{total.hexdigest()}"


def _validation_count(validation: int | None, count: int, name: str) -> int:
    if validation is None:
        return min(count // VALIDATION_SHARE, VALIDATION_LIMIT)
    if not isinstance(validation, (int, np.integer)) or not 0 <= validation < count:
        raise UserError(
            f"--validation {validation} does not fit {name}, which has {count} training examples: "
            f"give a number from 0 to {count - 1}"
        )
    return int(validation)


def _class_names(source: Source) -> tuple[str, ...]:
    present = np.unique(source.train["label"])
    count = len(source.classes) or int(present[-1]) + 1
    # One stray label must not make a thousand classes; the user has to renumber a subset.
    if not source.classes and 2 * len(present) < count:
        raise UserError(
            f"{source.name} has label {count - 1}, out of range: only {len(present)} of the "
            f"classes 0 to {count - 1} have training examples; number the classes from 0 to "
            f"{len(present) - 1}"
        )
    if count > CLASS_LIMIT:
        raise UserError(
            f"{source.name} has {count:,} classes, but at most {CLASS_LIMIT:,} are possible, "
            "because the confusion matrix has a number for each pair: give fewer or coarser classes"
        )
    return source.classes or tuple(str(k) for k in range(count))


def _check_source(source: Source) -> None:
    """Raise `UserError` unless the splits of a source are usable and fit together."""
    test = source.test
    for name, split in {"train": source.train, "test": test}.items():
        if split is not None and not len(split["label"]):
            raise UserError(f"the {name} split of {source.name} is empty: give some examples")
    present = np.unique(source.train["label"])
    if len(present) < 2:
        raise UserError(
            f"{source.name} has the single class {int(present[0])} in its train split: a "
            "classifier needs at least two"
        )
    expected = source.train["image"].shape[1:]
    pictures = {"unlabelled": source.unlabelled, "test": None if test is None else test["image"]}
    for name, images in pictures.items():
        if images is not None and images.shape[1:] != expected:
            raise UserError(
                f"{source.name} has images {expected} in train and {images.shape[1:]} in {name}: "
                "give all images one shape"
            )
    count = len(source.train["label"])
    if test is None and count < 3:
        raise UserError(
            f"{source.name} has {count} examples and no test split: give at least 3, so that one "
            "can be set aside for the test"
        )
    # A head without an output for a label can neither predict nor score it.
    unknown = [] if test is None else np.setdiff1d(test["label"], present)
    if len(unknown):
        raise UserError(
            f"the test split of {source.name} has label {int(unknown[0])}, which its train split "
            f"lacks: use only labels of the train split, {int(present[0])} to {int(present[-1])}"
        )


def count_duplicates(splits: Mapping[str, Split]) -> dict[str, int]:
    """Count, for each pair of splits, the images of the later one that the earlier one has too.

    Keys are `"train and test"` and so on. Labels are ignored.
    """
    # Bytes of whole images and no digests of them: each hit is a copy.
    images = {name: [x.tobytes() for x in split["image"]] for name, split in splits.items()}
    counts = {}
    for earlier, later in itertools.combinations(images, 2):
        originals = set(images[earlier])
        counts[f"{earlier} and {later}"] = sum(image in originals for image in images[later])
    return counts
