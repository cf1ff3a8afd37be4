"""A data set on the host: checked, split and fingerprinted, with its test split under lock."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from twostage_jax.data.grouping import notes_on_splits, without_held_out
from twostage_jax.data.names import listed
from twostage_jax.data.source import (
    BrokenFile,
    Source,
    check_source,
    class_names,
    has_classes,
    without_labels,
)
from twostage_jax.data.split import Split, as_columns, set_aside
from twostage_jax.errors import UserError, shown
from twostage_jax.reprs import Rows, html_table, text_table

TEST_SHARE = 5  # one example in five
VALIDATION_SHARE = 10
VALIDATION_LIMIT = 5000
NOTES = 8  # lines of a printed data set; all of its notes are in `notes`


# Equality of arrays has no truth value, so these compare by identity.
@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TrainingData:
    """All of a data set except its test split, on the host.

    Attributes:
        name: short name of the data set.
        train: labelled examples, `{"image": uint8 [N, H, W, C], "label": int32 [N]}`. A source with
            a file for each image adds `path`, text `[N]`, and one with groups `group`, int32 `[N]`.
        validation: the same: the source's own split, or taken from its train split; may be empty.
        unlabelled: `{"image": uint8 [U, H, W, C]}`, the pool for stage 1 alone, with `path` and
            `group` as in `train`; may be empty.
        classes: the `K` class names.
        fingerprint: `sha256:…` of the source's examples. Their order and the size of validation do
            not matter.
        order: `sha256:…` of the examples of all splits in order. The splits depend on the order in
            which the source gives its examples.
        parts: fingerprint of each split by itself: `train`, `validation`, `test`, and `unlabelled`
            if the source has unlabelled images.
        rows: row of each example in the source's file, int32 `[N]`, by split. A test split that was
            set aside has rows of the source's train split, as a validation split taken from it.
        notes: sentences on how the source was read: values scaled, labels converted, and arrays,
            files or splits that are not used.
        scale: range of the values in the source, such as `"0 to 16, scaled to 0 to 255"`.
        groups: names of the groups, indexed by `group`; empty without groups.
        fit: `"pad"` or `"crop"`: how images of other shapes were brought into the form.
        broken: files that were left out because they cannot be decoded.
        validation_size: value of `validation` that gives the same validation split again. Whole
            groups are set aside, so its size can differ.
        outsiders: images of `--other-class` by split, uint8 `[U, H, W, C]`; empty without one.
            Nothing is trained on them.
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
    notes: tuple[str, ...] = ()
    scale: str = "0 to 255"
    groups: tuple[str, ...] = ()
    fit: str = "pad"
    broken: tuple[BrokenFile, ...] = ()
    validation_size: int = 0
    outsiders: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

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
        """Return sizes, classes, scale and notes in a few lines instead of the arrays."""
        return text_table(f"{type(self).__name__}({self.name!r})", self._rows())

    def _repr_html_(self) -> str:
        """Return the same as a small table, for notebooks."""
        return html_table(f"{type(self).__name__} {self.name}", self._rows())

    def _rows(self) -> Rows:
        sizes = (f"{name} {len(split['image']):,}" for name, split in self.splits.items())
        notes = self.notes
        if len(notes) > NOTES:
            notes = (*notes[: NOTES - 1], f"{len(notes) - NOTES + 1} more in .notes")
        return [
            ("examples", ", ".join(sizes)),
            ("images", f"{'×'.join(map(str, self.image_shape))}, uint8"),
            ("scale", self.scale),
            ("classes", f"{len(self.classes):,}: {listed(self.classes, 12)}"),
            ("fingerprint", self.fingerprint),
            *(("note", note) for note in notes),
        ]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
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
        outsiders = dict(self.outsiders)
        lockbox = Lockbox(self.test, outsiders.pop("test", None))
        return dataclasses.replace(training, outsiders=outsiders), lockbox


class Lockbox:
    """The test split and its number of examples, `count`.

    `outsiders` are images of `--other-class` uint8 `[U, H, W, C]` in the source's test split, or
    None. They are measured when the test split is read.
    """

    def __init__(self, test: Split, outsiders: np.ndarray | None = None) -> None:
        # Everything but `unlock` gets along with the count, so no choice can depend on the test.
        self._test = test
        self.count = len(test["label"])
        self.outsiders = outsiders

    def unlock(self) -> Split:
        """Return the test split; the caller has recorded this reading of it before."""
        return self._test


def make_dataset(
    source: Source, validation: int | None = None, needs_labels: bool = True
) -> Dataset:
    """Check a source, set aside the splits that it lacks, and fingerprint it.

    Args:
        source: content of the files.
        validation: number of examples to take from train, stratified; by default a tenth, at most
            5,000.
        needs_labels: False for stage 1 alone: without two labelled classes, all images are
            unlabelled.

    Raises:
        UserError: an empty split, a single class or too many, splits that do not fit together, or
            `validation` out of range.
    """
    if not needs_labels and not has_classes(source):
        return _unlabelled_dataset(without_labels(source), source.classes)
    train = check_source(source)
    classes = class_names(source, train)
    train = with_digests(train)
    originals = [train]  # the fingerprint covers the source's splits, not ours
    notes = source.notes
    extra = None if source.validation is None else with_digests(source.validation)
    # The test split comes first: it must not depend on the size of validation.
    if source.test is not None:
        test = with_digests(source.test)
        originals += [test] if extra is None else [extra, test]
    elif extra is not None:
        # As for ImageNet, whose test labels are secret.
        test = extra
        extra = None
        originals.append(test)
        notes += (f"no test split: the validation split ({_count(test)}) is used as test",)
    else:
        train, test = set_aside(train, _test_count(source.name, train["label"]))
        notes += (f"no test split: {_count(test)} of the train split set aside as one",)
    train, held_out, size, more = _cut_validation(source.name, train, extra, validation)
    splits = {"train": train, "validation": held_out, "test": test}
    notes += more + notes_on_splits(source, splits, classes)
    everything = _pool(source, splits)
    if len(everything["image"]):
        # An empty pool must not change the fingerprints of sources without one.
        everything = with_digests(everything)
        originals.append(everything)
    pool, dropped = without_held_out(everything, splits)
    hashed: dict[str, Split] = dict(splits)
    if len(pool["image"]):
        hashed["unlabelled"] = pool
    return Dataset(
        name=source.name,
        classes=classes,
        fingerprint=fingerprint(originals),
        order=fingerprint(list(hashed.values()), ordered=True),
        parts={name: fingerprint([split]) for name, split in hashed.items()},
        rows={name: split["row"] for name, split in splits.items()},
        notes=notes + dropped,
        scale=source.scale,
        groups=source.groups,
        fit=source.fit,
        broken=source.broken,
        validation_size=size,
        unlabelled=_visible(pool),
        **{name: _visible(split) for name, split in splits.items()},
    )


def _unlabelled_dataset(source: Source, classes: Sequence[str]) -> Dataset:
    """Return a data set of a source without labels, which has at most one of the `classes`."""
    note = "no labels: only stage 1 can be trained"
    if classes:
        note = f"the only class is {shown(classes[0])}: only stage 1 can be trained"
    if source.unlabelled is None or not len(source.unlabelled):
        raise UserError(f"{source.name} has no images: give a source that has some")
    empty: Split = {"image": source.unlabelled[:0], "label": np.zeros(0, np.int32)}
    pool = {"image": source.unlabelled, **(source.pool or {})}
    hashed = with_digests(pool)
    return Dataset(
        name=source.name,
        classes=(),
        fingerprint=fingerprint([hashed]),
        order=fingerprint([hashed], ordered=True),
        parts={"unlabelled": fingerprint([hashed])},
        rows={name: np.zeros(0, np.int32) for name in ("train", "validation", "test")},
        notes=(*source.notes, note),
        scale=source.scale,
        groups=source.groups,
        fit=source.fit,
        broken=source.broken,
        unlabelled=_visible(pool),
        train=empty,
        validation=empty,
        test=empty,
    )


def _visible(split: Split) -> Split:
    """Return the columns of a split that users see."""
    names = ("image", "label", "path", "group")
    return as_columns({name: split[name] for name in names if name in split})


def _test_count(name: str, label: np.ndarray) -> int:
    """Return the number of examples to set aside for the test; each class keeps one in train.

    Raises:
        UserError: a single example of each class.
    """
    spare = len(label) - len(np.unique(label))
    if not spare:
        raise UserError(
            f"{name} has a single example of each class, so none can be set aside for the test: "
            "give more examples, or a test split of your own"
        )
    return min(max(1, len(label) // TEST_SHARE), spare)


def _pool(source: Source, splits: Mapping[str, Split]) -> Split:
    """Return the unlabelled images of a source."""
    if source.unlabelled is not None:
        return {"image": source.unlabelled, **(source.pool or {})}
    absent = ("label", "row", "digest")
    return {name: x[:0] for name, x in splits["train"].items() if name not in absent}


def _count(split: Split) -> str:
    count = len(split["label"])
    return f"{count:,} example{'s' * (count != 1)}"


def _cut_validation(
    name: str, train: Split, extra: Split | None, validation: int | None
) -> tuple[Split, Split, int, tuple[str, ...]]:
    """Return train and validation split, the size that was asked for, and notes.

    The source's own split is used if `validation` is None or equal to its size, because a resumed
    run asks for the recorded size.
    """
    if extra is not None and validation in (None, len(extra["label"])):
        return train, extra, len(extra["label"]), ()
    count = _validation_count(validation, train["label"], name)
    try:
        rest, carved = set_aside(train, count)
    except UserError as error:  # groups that cannot be divided
        if validation is not None:
            raise
        rest, carved = set_aside(train, 0)
        return rest, carved, 0, (f"no validation split: {error}",)
    if extra is None:
        return rest, carved, count, ()
    instead = f"takes {count:,} from the train split" if count else "asks for none"
    note = f"the source's validation split ({_count(extra)}) is not used: --validation {instead}"
    return rest, carved, count, (note,)


def with_digests(split: Split) -> Split:
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
    digest = np.frombuffer(b"".join(digests), "S32") if digests else np.empty(0, "S32")
    return {"row": row, **split, "digest": digest}


def fingerprint(splits: Sequence[Split], ordered: bool = False) -> str:
    """Compute `sha256:…` over the image shape and the example digests of each split."""
    total = hashlib.sha256()
    for split in splits:
        total.update(str(split["image"].shape).encode())
        digests = split["digest"]
        # Sorted, because TFDS shuffles what it prepares: the same examples, one fingerprint.
        total.update((digests if ordered else np.sort(digests)).tobytes())
    return f"sha256:{total.hexdigest()}"


def _validation_count(validation: int | None, label: np.ndarray, name: str) -> int:
    count = len(label)
    if validation is None:
        spare = count - len(np.unique(label))  # each class keeps an example in train
        return min(count // VALIDATION_SHARE, VALIDATION_LIMIT, spare)
    if not isinstance(validation, (int, np.integer)) or not 0 <= validation < count:
        raise UserError(
            f"--validation {validation} does not fit {name}, which has {count} training examples: "
            f"give a number from 0 to {count - 1}"
        )
    return int(validation)
