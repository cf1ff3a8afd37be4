"""Data of a run, read as its config and the encoder that it takes ask for."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from twostage_jax.config.reading import reading_of, with_form
from twostage_jax.config.schema import Config
from twostage_jax.data.dataset import Dataset, TrainingData
from twostage_jax.data.spec import FILE_KINDS, fitting, kind_of
from twostage_jax.store.records import read_manifest


def load_data(
    config: Config, pretrain_only: bool, load: Callable[..., Dataset], progress: Callable[..., None]
) -> Dataset:
    """Read the data of a run, in the form and scale of the encoder that it takes, if any."""
    spec = config.data or "digits"
    reading = reading_of(config)
    scale = ""
    if config.encoder_run:
        manifest = read_manifest(Path(config.encoder_run))
        scale = manifest.data.scale
        preprocessing = manifest.preprocessing
        reading = with_form(reading, preprocessing.image_shape, preprocessing.fit)
        reading = fitting(reading, spec)
    return load(
        spec,
        config.validation,
        config.data_dir,
        scale,
        needs_labels=not pretrain_only,
        progress=progress,
        **reading._asdict(),
    )


def with_form_of(config: Config, dataset: TrainingData) -> Config:
    """Return a config with the form of the images that was chosen when they were read."""
    specs = [spec for spec in (config.data, config.unlabeled) if spec]
    if not any(kind_of(spec) in FILE_KINDS for spec in specs):
        return config
    height, width, channels = dataset.image_shape
    return dataclasses.replace(
        config, image_size=f"{height}x{width}", channels=channels, image_fit=dataset.fit
    )
