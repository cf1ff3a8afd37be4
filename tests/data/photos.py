"""Small image files for tests of folders and tables."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import twostage_jax as ts


def picture(
    path: Path, value: int = 0, size: tuple[int, int] = (8, 8), colour: bool = False
) -> Path:
    """Write an image whose pixels say its value; no two values give the same pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(value).randint(0, 200, size).astype(np.uint8)
    if colour:
        pixels = np.stack([pixels, 255 - pixels, pixels // 2], -1)
    Image.fromarray(pixels).save(path)
    return path


def folder(root: Path, counts: dict[str, int], ending: str = "png", **options: Any) -> Path:
    """Write `counts` images into each of the named sub-folders."""
    value = 0
    for name, count in counts.items():
        for index in range(count):
            picture(root / name / f"{index:03d}.{ending}", value, **options)
            value += 1
    return root


def load(spec: str, cache: Path | str = "off", **options: Any) -> ts.Dataset:
    """Load with the cache in a folder of the test."""
    return ts.load(spec, cache_dir=cache, **options)


def sizes(dataset: ts.Dataset) -> dict[str, int]:
    """Number of images of each split."""
    return {name: len(split["image"]) for name, split in dataset.splits.items()}


def refused(spec: str, message: str, **options: Any) -> str:
    """Assert that a source is refused in one line, and return it."""
    with pytest.raises(ts.UserError, match=message) as caught:
        load(spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(images: Path, ending: str = ".png", start: str = "") -> list[tuple[str, str]]:
    """Path and label of each image of the fixture `images`."""
    names = sorted(path.stem for path in images.glob("*.png"))
    return [(f"{start}{name}{ending}", {"a": "ant", "b": "bee"}[name[0]]) for name in names]


def write(path: Path, lines: Iterable[str], encoding: str = "utf-8") -> str:
    """Write a table, and return its SPEC."""
    path.write_bytes("\n".join(lines).encode(encoding))
    return f"csv:{path}"


def labels(dataset: ts.Dataset) -> dict[str, str]:
    """Class name of each image of all splits, by its path."""
    pairs = {}
    for split in dataset.splits.values():
        if "label" in split:
            names = [dataset.classes[k] for k in split["label"]]
            pairs |= dict(zip(split["path"].tolist(), names, strict=True))
    return pairs
