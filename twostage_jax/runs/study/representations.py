"""Representations of the images that the arms of a study compare, as features on the host."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostage_jax.data.dataset import TrainingData
from twostage_jax.data.npz import read_archive
from twostage_jax.errors import UserError
from twostage_jax.files import open_regular
from twostage_jax.runs.study.sources import Source

PIXELS = 2048  # PCA uses all images up to this number of pixels, and a sample above it
SAMPLE = 4000  # number of images of that sample


class Representation(NamedTuple):
    """Features of every split.

    Attributes:
        name: first part of the arm's name.
        features: `(split) -> float32 [N, D]` for `train` (with the pool, if `covers_pool`),
            `validation` and `test`.
        covers_pool: True if `train` also has the features of the unlabelled pool.
    """

    name: str
    features: Callable[[str], np.ndarray]
    covers_pool: bool = True


def scaled(representation: Representation) -> Representation:
    """Divide all features by one number, so that their mean variance on train is 1.

    One grid of strengths then fits every representation. Cosines do not change.
    """
    train = representation.features("train")
    scale = np.float32(1 / max(float(np.sqrt(train.var(0, dtype=np.float64).mean())), 1e-12))

    @cache
    def features(split: str) -> np.ndarray:
        return scale * representation.features(split)

    return representation._replace(features=features)


def features_of(
    banks: Sequence[Representation], split: str, count: int | None = None
) -> list[np.ndarray]:
    """Features `[N, D]` of a split, of the first `count` examples, for each representation."""
    return [bank.features(split)[:count] for bank in banks]


def frozen(source: Source) -> Representation:
    """Features of the pretrained encoder."""
    return Representation("frozen", source.features)


def random(source: Source, seed: int) -> Representation:
    """Features of an encoder of the same shape with random initial values."""
    return Representation("random", lambda split: source.random_features(split, seed))


def pixels(source: Source) -> Representation:
    """Values of the pixels in [0, 1]."""
    return Representation("pixels", lambda split: _flat(source.split_images(split)))


def pca(source: Source, width: int) -> Representation:
    """Principal components of the pixels of all training images; labels are not used.

    Args:
        source: images.
        width: number of components; at most the number of pixels are used.
    """

    def features(split: str) -> np.ndarray:
        return source.cached(f"pca-{split}", lambda: _project(source, split, width))

    return Representation("pca", features)


def _project(source: Source, split: str, width: int) -> np.ndarray:
    images = source.images
    if images[0].size > PIXELS and len(images) > SAMPLE:
        images = images[np.linspace(0, len(images) - 1, SAMPLE).astype(int)]
    values = _flat(images)
    mean = values.mean(0, dtype=np.float64).astype(np.float32)
    values -= mean
    if len(values) < values.shape[1]:
        # The smaller of the two Gram matrices has the same eigenvalues.
        _, vectors = np.linalg.eigh(values @ values.T)
        vectors = values.T @ vectors[:, ::-1][:, :width]
        vectors /= np.maximum(np.linalg.norm(vectors, axis=0), 1e-12)
    else:
        _, vectors = np.linalg.eigh(values.T @ values)
        vectors = vectors[:, ::-1][:, :width]
    return (_flat(source.split_images(split)) - mean) @ np.ascontiguousarray(vectors)


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255


def check_features(path: Path, dataset: TrainingData, tested: int) -> None:
    """Check that a file of features fits the data, without returning the features."""
    load_features(path, dataset, tested, test_rows=None)


def load_features(
    path: Path, dataset: TrainingData, tested: int, test_rows: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Load features from a file in the order of the source.

    The file is a NumPy archive with `train` `[N, D]`, `test` `[T, D]` and, if the source has a
    validation split of its own, `validation` `[V, D]`: one row for each labelled image of the
    source's own splits. A split that is set aside from the train split has its rows in `train`.

    Args:
        path: `.npz` file.
        dataset: the study's data.
        tested: number of test examples.
        test_rows: rows of the test examples; None while the test split is locked.

    Returns:
        Features of `train`, `validation` and, with `test_rows`, `test`, in the study's order.

    Raises:
        UserError: a file that cannot be read, missing arrays, another number of rows, or values
            that are not finite.
    """
    arrays = _read_features(path)
    rows = dataset.rows
    # Splits that are set aside are rows of the train split of the source.
    train_rows = rows["train"]
    homes = {"train": "train"}
    for name in ("validation", "test"):
        carved = not np.isin(rows[name], train_rows).any()
        homes[name] = "train" if carved and len(rows[name]) else name
    sizes = {"train": len(train_rows)}
    for name, home in homes.items():
        if name != "train":
            sizes[home] = sizes.get(home, 0) + len(rows[name])
    for name, count in sizes.items():
        if count:
            _check_rows(path, arrays, name, count)
    parts = {
        name: arrays[homes[name]][rows[name]] for name in ("train", "validation") if len(rows[name])
    }
    if test_rows is not None:
        parts["test"] = arrays[homes["test"]][test_rows]
    width = parts["train"].shape[1]
    parts.setdefault("validation", np.zeros((0, width), np.float32))
    return parts


def _read_features(path: Path) -> dict[str, np.ndarray]:
    try:
        with open_regular(path) as file:
            single = file.read(6) == b"\x93NUMPY"
        if single:
            raise UserError(
                f"{path} holds a single array: save numpy.savez(file, train=..., test=...)"
            )
        arrays = read_archive(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a readable file") from error
    features = {}
    for name in ("train", "validation", "test"):
        if name in arrays:
            values = arrays[name]
            if values.ndim < 2 or values.dtype.kind not in "fiu":
                raise UserError(
                    f"{path}: {name} is {values.dtype} {list(values.shape)}: give numbers [N, D]"
                )
            values = values.reshape(len(values), -1).astype(np.float32)
            if not np.isfinite(values).all():
                raise UserError(f"{path}: {name} contains values that are not finite: replace them")
            features[name] = values
    widths = {name: values.shape[1] for name, values in features.items()}
    if len(set(widths.values())) > 1:
        raise UserError(f"{path} has splits of different widths, {widths}: give [N, D] with one D")
    return features


def _check_rows(path: Path, arrays: dict[str, np.ndarray], name: str, count: int) -> None:
    if name not in arrays:
        raise UserError(
            f"{path} has no array {name}: give {name} [{count}, D], in the order of the source"
        )
    if len(arrays[name]) != count:
        raise UserError(
            f"{path}: {name} has {len(arrays[name]):,} rows, but the source has {count:,} labelled "
            f"images there: give one row for each, in the order of the source"
        )
