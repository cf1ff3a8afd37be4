"""Everything that reads somebody's files; `load` turns a SPEC into a `Dataset`."""

from collections.abc import Callable
from pathlib import Path

from twostage_jax.config import check_spec
from twostage_jax.data import Dataset, Source, make_dataset


def load(spec: str, validation: int | None = None, data_dir: str | Path | None = None) -> Dataset:
    """The data set that `spec` names.

    Args:
        spec: `digits` (bundled), `mnist` or `tfds:NAME` (TensorFlow Datasets), `idx:DIR` (the four
            MNIST-style files), `npz:FILE` (`x_train, y_train, x_test, y_test` or `image, label`).
        validation: examples carved from train; by default a tenth of them, at most 5,000.
        data_dir: where TensorFlow Datasets keeps its data; by default its own folder.

    Returns:
        A `Dataset` of uint8 images `[N, H, W, C]` and int32 labels. A source without a test part
        gets a stratified fifth of its examples cut off for one, always the same.

    Raises:
        UserError: an unknown spec, or files that are missing, broken or out of range.
    """
    check_spec(spec, data_dir is not None)
    return make_dataset(_reader(spec, data_dir)(), validation)


def _reader(spec: str, data_dir: str | Path | None) -> Callable[[], Source]:
    # Each source is imported where it is used: TFDS alone costs half a second.
    kind, _, rest = spec.partition(":")
    if kind == "idx":
        return lambda: _idx(Path(rest))
    if kind == "npz":
        return lambda: _npz(Path(rest))
    return _digits if kind == "digits" else lambda: _tfds(rest or kind, data_dir)


def _digits() -> Source:
    from twostage_jax.sources import digits

    return digits.read()


def _idx(folder: Path) -> Source:
    from twostage_jax.sources import idx

    return idx.read(folder)


def _npz(path: Path) -> Source:
    from twostage_jax.sources import npz

    return npz.read(path)


def _tfds(name: str, data_dir: str | Path | None) -> Source:
    from twostage_jax.sources import tfds

    return tfds.read(name, data_dir)
