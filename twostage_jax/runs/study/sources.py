"""Data and frozen features of a study: from a run, or from an encoder that is trained first."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from twostage_jax.config.groups import HeadConfig
from twostage_jax.config.reading import reading_of
from twostage_jax.config.schema import Config
from twostage_jax.config.studies import NextStudy, Study
from twostage_jax.data.dataset import Dataset, Lockbox, TrainingData
from twostage_jax.data.sources import load
from twostage_jax.data.spec import READING, Progress, absolute
from twostage_jax.data.split import Split
from twostage_jax.engine.finish import finish_rows
from twostage_jax.engine.passes import encode
from twostage_jax.errors import UserError
from twostage_jax.runs.build import make_networks
from twostage_jax.runs.networks import Networks
from twostage_jax.runs.open import open_run
from twostage_jax.runs.opened import Run
from twostage_jax.runs.outsiders import without_outsiders
from twostage_jax.runs.run import run
from twostage_jax.runs.sources import check_shape, load_own, reading_for
from twostage_jax.runs.study.cells import Cells
from twostage_jax.runs.train import SEAMS
from twostage_jax.show.terminal import Terminal
from twostage_jax.stages.stage import Params, as_batch, as_image, new_key
from twostage_jax.store.layout import MANIFEST, RESULT

FEATURES = "features"  # folder of the cached features
PRETRAIN = "pretrain"  # folder of the encoder that a study trains first


def load_source(study: Study, progress: Progress | None = None) -> tuple[Dataset, Run | None]:
    """Load the data of a study, and open its run if there is one, without writing anything.

    Raises:
        UserError: no such run, several encoders, an encoder that stage 2 trained, or data that
            changed or have another image shape.
    """
    dataset, opened = _load_source(study, progress)
    if needs_labels(study) and not dataset.classes:
        raise UserError(
            f"{dataset.name} has no labels, and this study needs some: give --data with labelled "
            "images, such as csv:FILE"
        )
    return dataset, opened


def _load_source(study: Study, progress: Progress | None) -> tuple[Dataset, Run | None]:
    if study.from_ is None:
        reading = reading_of(study)
        dataset = load(
            study.data or "digits",
            study.validation,
            study.data_dir,
            needs_labels=needs_labels(study),
            progress=progress,
            **reading._asdict(),
        )
        return dataset, None
    opened = open_run(study.from_, study.trust_code)
    if opened.several:
        raise UserError(
            f"{study.from_} has several encoders, but a study takes one: give a run with one "
            "encoder, for instance with --share encoder"
        )
    if opened.tuned:
        raise UserError(
            f"stage 2 of {study.from_} trained the encoder with labels, but a study needs a frozen "
            "encoder: give the run that stage 2 started from"
        )
    return _data_of(study, opened, progress), opened


def needs_labels(study: Study) -> bool:
    """Return True unless a study works on images of which none has a label."""
    return not isinstance(study, NextStudy)


def _data_of(study: Study, opened: Run, progress: Progress | None) -> Dataset:
    config = opened.config
    same_size = study.validation in (None, config.validation)
    reading = reading_of(study)
    is_own = study.data is None and reading._replace(cache_dir=None) == READING
    if is_own and same_size:
        folder = study.data_dir or config.data_dir
        return load_own(opened, config.data, folder, study.cache_dir, progress)
    # With another source or validation split, the size of the split of the run may not fit.
    validation = study.validation
    if validation is None and study.data == config.data:
        validation = config.validation
    folder = study.data_dir or config.data_dir
    dataset = load(
        study.data or config.data,
        validation,
        folder,
        opened.manifest.data.scale,
        needs_labels=needs_labels(study),
        progress=progress,
        **reading_for(opened, study.data or config.data, reading)._asdict(),
    )
    if absolute(study.data or config.data) == config.data:
        dataset = without_outsiders(dataset, config.other_class)
    expected = opened.manifest.preprocessing.image_shape
    check_shape(study.data or config.data, dataset.image_shape, opened.folder, expected)
    return dataset


def train_encoder(study: Study, dataset: Dataset, folder: Path, terminal: Terminal) -> Run:
    """Train the encoder of a study in `folder/pretrain`, as `twostage pretrain` does; open it.

    A stopped training is resumed; a finished one is opened.
    """
    out = folder / PRETRAIN
    config = dataclasses.replace(study.config, out=out)
    started = (out / MANIFEST).is_file()
    with contextlib.suppress(UserError):
        if started and not (out / RESULT).is_file():
            # Raises an error if stage 1 has not finished.
            return open_run(out, study.trust_code)

    def loaded(*arguments: object, **options: object) -> Dataset:
        return dataset

    run(
        Config(out=out) if started else config,
        resume=started,
        pretrain_only=True,
        trust_code=study.trust_code,
        terminal=terminal,
        seams=SEAMS._replace(load=loaded),
        device=study.device,
    )
    return open_run(out, study.trust_code)


@dataclass(frozen=True, eq=False)
class Source:
    """Data, encoder and features of a study.

    Attributes:
        dataset: data without the test split.
        lockbox: the test split.
        run: run with the frozen encoder.
        folder: folder of the study, which caches features.
        on_unlock: called before the test split is read for the first time.
        notice: prints a message about a corrupted file.
    """

    dataset: TrainingData
    lockbox: Lockbox
    run: Run
    folder: Path
    on_unlock: Callable[[], None]
    notice: Callable[[str], None]
    _test: list[Split] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return self.dataset.classes

    @property
    def labelled(self) -> int:
        """Number of training examples that have a label in the source."""
        return len(self.dataset.train["label"])

    @cached_property
    def images(self) -> np.ndarray:
        """Training images uint8 `[N, H, W, C]`: train in the order of the source, then the pool."""
        pool = self.dataset.unlabelled["image"]
        image = self.dataset.train["image"]
        return np.concatenate([image, pool]) if len(pool) else image

    @cached_property
    def networks(self) -> Networks:
        """Modules and stage 1 of the run."""
        return headless_networks(self.run, len(self.images))

    def unlock(self) -> Split:
        """Return the test split, after all choices have been made."""
        if not self._test:
            self.on_unlock()
            self._test.append(self.lockbox.unlock())
        return self._test[0]

    def split_images(self, split: str) -> np.ndarray:
        """Return the images of `train` (with the pool), `validation` or `test`.

        Raises:
            RuntimeError: `test` before `unlock`.
        """
        if split == "train":
            return self.images
        if split == "validation":
            return self.dataset.validation["image"]
        if not self._test:
            raise RuntimeError("the test split is locked until all choices are made")
        return self._test[0]["image"]

    def features(self, split: str) -> np.ndarray:
        """Return the frozen encoder's features float32 `[N, D]` of a split of `split_images`."""
        return self.cached(
            f"frozen-{split}", lambda: self.run.features(self.split_images(split), decoded=True)
        )

    def random_features(self, split: str, seed: int) -> np.ndarray:
        """Return features of an encoder of the same shape with the initial values of a seed."""

        def make() -> np.ndarray:
            params = self.random_encoder(seed)
            apply = self.networks.features
            return np.asarray(encode(apply, params, self.split_images(split)))

        return self.cached(f"random-{seed}-{split}", make)

    def random_encoder(self, seed: int) -> Params:
        """Return initial parameters of the encoder, with statistics fixed as at the hand-over."""
        stage = self.networks.pretrain({})
        train = self.dataset.train
        batch = as_batch({name: train[name][:2] for name in ("image", "label")})
        params = jax.jit(stage.init)(new_key(seed), batch)
        if stage.finish is not None:
            rows = finish_rows(len(self.images), self.images.shape[1:])
            params = jax.jit(stage.finish)(params, as_image(self.images[rows]))
        return params["encoder"]

    def cached(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return a float32 array that is computed once and kept in the folder of the study."""

        def make_arrays() -> dict[str, np.ndarray]:
            return {"features": np.asarray(make(), np.float32)}

        return self.cached_arrays(name, make_arrays)["features"]

    def cached_arrays(
        self, name: str, make: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Return arrays that are computed once and kept in the folder of the study."""
        cells = Cells(self.folder, self.notice, kind=FEATURES)
        return cells.compute(name, lambda: dict(make()))


def headless_networks(opened: Run, images: int) -> Networks:
    """Make the modules and stage 1 of a run for so many images, independent of its head."""
    config = opened.config
    sweep = tuple(pair for pair in config.sweep or () if not pair[0].startswith("head."))
    # A head can depend on the number of its examples, which a study varies.
    headless = dataclasses.replace(config, head=HeadConfig("mlp", widths=()), sweep=sweep)
    shape = opened.manifest.preprocessing.image_shape
    return make_networks(headless, shape, len(opened.classes), 1, 0, images)
