"""Content of a user's files, and checks of its splits."""

from typing import NamedTuple

import numpy as np

from twostage_jax.data.names import listed
from twostage_jax.data.split import Split
from twostage_jax.errors import UserError

# Confusion matrices are K×K counts, for two splits in one `result.json`: at 2,000 classes they
# take 28 MB each as text, and at most 64 MiB of that file are read.
CLASS_LIMIT = 2000
# Values of columns of the pool for images of a source without such a column.
UNKNOWN = {"path": "", "file": "", "group": np.int32(-1), "row": np.int32(-1)}


class BrokenFile(NamedTuple):
    """File that cannot be decoded: its path as the source gives it, and the reason."""

    path: str
    reason: str

    def __str__(self) -> str:
        """Return both as one sentence."""
        return f"{self.path}: {self.reason}"


class Source(NamedTuple):
    """Content of a user's files, before anything is split off.

    Attributes:
        name: short name of the data set.
        train: `image` uint8 `[N, H, W, C]` and `label` int32 `[N]`, and `row` int32 `[N]` where
            rows of the file were left out; None if the source has no train split. A source with a
            file for each image adds `path` (text, as the source gives it) and `file`; one with
            groups adds `group` int32 `[N]`.
        test: the same, or None if the source has no test split.
        classes: class names, indexed by label. If empty, the labels themselves are the names.
        unlabelled: images uint8 `[U, H, W, C]` without labels, or None.
        validation: as `train`, or None if the source has no validation split.
        notes: sentences on how the files were read.
        scale: range of the values in the files, in words.
        pool: other columns of the unlabelled images, such as `path`; None without any.
        groups: names of the groups, indexed by `group`.
        fit: `"pad"` or `"crop"`, as `decode.Form`.
        broken: files that are left out because they cannot be decoded.
    """

    name: str
    train: Split | None
    test: Split | None = None
    classes: tuple[str, ...] = ()
    unlabelled: np.ndarray | None = None
    validation: Split | None = None
    notes: tuple[str, ...] = ()
    scale: str = "0 to 255"
    pool: Split | None = None
    groups: tuple[str, ...] = ()
    fit: str = "pad"
    broken: tuple[BrokenFile, ...] = ()

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that the source has, by name."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}


def class_names(source: Source, train: Split) -> tuple[str, ...]:
    """Return the class names of a source; without names they are the numbers.

    Raises:
        UserError: too many classes, or more than half of them without a training example.
    """
    present = np.unique(train["label"])
    count = len(source.classes) or int(present[-1]) + 1
    # A single wrong label must not create a thousand classes.
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


def without_labels(source: Source) -> Source:
    """Return a source whose training images are all unlabelled, for stage 1 alone.

    Its other splits stay only if they have labels of their own to score.
    """
    train = source.train
    if train is None:
        return source._replace(test=None, validation=None, classes=())
    moved = {name: values for name, values in train.items() if name not in ("label", "row")}
    return with_pool(source, moved)._replace(train=None, test=None, validation=None, classes=())


def with_pool(source: Source, columns: Split) -> Source:
    """Return the source with more unlabelled images, `image` and other columns."""
    more = dict(columns)
    images = more.pop("image")
    if source.unlabelled is None:
        return source._replace(unlabelled=images, pool=more or None)
    pool = source.pool or {}
    counts = (len(source.unlabelled), len(images))
    joined = {}
    # Two sources need not have the same columns.
    for name in sorted(pool.keys() | more.keys()):
        parts = [
            np.full(count, UNKNOWN[name]) if values is None else values
            for values, count in zip((pool.get(name), more.get(name)), counts, strict=True)
        ]
        joined[name] = np.concatenate(parts)
    unlabelled = np.concatenate([source.unlabelled, images])
    return source._replace(unlabelled=unlabelled, pool=joined or None)


def has_classes(source: Source) -> bool:
    """Return True if the train split of a source has examples of two classes."""
    return source.train is not None and len(np.unique(source.train["label"])) > 1


def check_source(source: Source) -> Split:
    """Return the train split of a source if its splits are usable and fit together.

    Raises:
        UserError: no train split, an empty split, a single class, images of several shapes, too few
            examples, or labels outside of the train split's.
    """
    train = source.train
    if train is None and source.unlabelled is not None:
        raise UserError(
            f"{source.name} has no training example whose label counts, only images without one: "
            "give labels, for instance with --data csv:FILE, or train stage 1 alone with twostage "
            "pretrain"
        )
    if train is None:
        raise UserError(
            f"{source.name} has no train split: give labelled training examples, or evaluate a "
            "run on it with twostage evaluate RUN --data"
        )
    for name, split in source.splits.items():
        if not len(split["label"]):
            raise UserError(f"the {name} split of {source.name} is empty: give some examples")
    present = np.unique(train["label"])
    if len(present) < 2:
        raise UserError(
            f"{source.name} has the single class {_name(source, present[0])} in its train split: a "
            f"classifier needs at least two{_nested(train)}"
        )
    pictures = {name: split["image"] for name, split in source.splits.items()}
    if source.unlabelled is not None:
        pictures["unlabelled"] = source.unlabelled
    expected = train["image"].shape[1:]
    for name, images in pictures.items():
        if images.shape[1:] != expected:
            raise UserError(
                f"{source.name} has images {expected} in train and {images.shape[1:]} in {name}: "
                "give all images one shape"
            )
    count = len(train["label"])
    if source.test is None and source.validation is None and count < 3:
        raise UserError(
            f"{source.name} has {count} examples and no test split: give at least 3, so that one "
            "can be set aside for the test"
        )
    for name, split in source.splits.items():
        # A head has no output for a class without training examples.
        unknown = np.setdiff1d(split["label"], present)
        if len(unknown):
            raise UserError(
                f"the {name} split of {source.name} has label {_name(source, unknown[0])}, which "
                f"its train split lacks: use only labels of the train split, "
                f"{listed([_name(source, label) for label in present], 12)}"
            )
    return train


def _nested(train: Split) -> str:
    """Return a hint if the classes may be the folders inside the only folder."""
    folders = {path.rpartition("/")[0] for path in train.get("path", np.array([], str)).tolist()}
    inner = sorted(folder for folder in folders if "/" in folder)
    if not inner:
        return "; labels in a table are read with csv:FILE" if folders else ""
    top = inner[0].partition("/")[0]
    return f"; if the folders in {top!r} are the classes, give folder:DIR/{top}"


def _name(source: Source, label: int) -> str:
    return repr(source.classes[label]) if source.classes else str(int(label))
