"""`twostage data`: the content of a source. It imports no jax."""

import numpy as np

from twostage_jax.config.commands import Data
from twostage_jax.config.reading import reading_of
from twostage_jax.data.duplicates import find_duplicates
from twostage_jax.data.sources import load
from twostage_jax.show.duplicates import show_duplicates
from twostage_jax.show.tables import show_dataset
from twostage_jax.show.terminal import Terminal


def describe_data(command: Data, terminal: Terminal) -> None:
    """Read a source and print its sizes, classes, duplicates and fingerprint."""
    with terminal.reading("reading data") as progress:
        dataset = load(
            command.spec,
            command.validation,
            command.data_dir,
            needs_labels=False,
            progress=progress,
            **reading_of(command)._asdict(),
        )
        counts = {}
        pixels = {}
        for name, split in dataset.splits.items():
            image = split["image"]
            if not dataset.classes or "label" not in split:
                continue
            classes = len(dataset.classes)
            counts[name] = np.bincount(split["label"], minlength=classes).tolist()
            if image.size:  # an empty array has no minimum
                pixels[name] = (int(image.min()), int(image.max()), float(image.mean()))
        duplicates = find_duplicates(dataset.splits) if dataset.classes else None
    show_dataset(
        dataset.name,
        dataset.image_shape,
        dataset.classes,
        counts,
        pixels,
        dataset.fingerprint,
        terminal,
        len(dataset.unlabelled["image"]),
        dataset.scale,
        dataset.notes,
    )
    if duplicates is not None:
        sizes = {name: len(split["image"]) for name, split in dataset.splits.items()}
        show_duplicates(duplicates.counts, sizes, duplicates.near, duplicates.reason, terminal)
