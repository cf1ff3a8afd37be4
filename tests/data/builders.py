"""Files that the readers of the data room take, made from tiny arrays."""

import gzip
import json

import numpy as np

from tests.fuzz import samples
from tests.fuzz.samples import example, idx_bytes, png

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def arrays(count=60, classes=3, seed=0):
    """Random images `[N, 5, 4]` and labels `[N]`, both uint8."""
    image = np.random.RandomState(seed).randint(0, 256, (count, 5, 4)).astype(np.uint8)
    return image, (np.arange(count) % classes).astype(np.uint8)


def split(count, seed=0, classes=3):
    """Random examples of 3×2 pixels as a split."""
    image = np.random.RandomState(seed).randint(0, 256, (count, 3, 2, 1)).astype(np.uint8)
    return {"image": image, "label": np.arange(count, dtype=np.int32) % classes}


def write_idx(folder, parts=("train", "test"), gz=False, dotted=False):
    """The files of an `idx:` source, 60 examples in each split."""
    for seed, part in enumerate(parts):
        for name, array in zip(NAMES[part], arrays(seed=seed), strict=True):
            name = name.replace("-idx", ".idx") if dotted else name
            content = idx_bytes(array)
            path = folder / (f"{name}.gz" if gz else name)
            path.write_bytes(gzip.compress(content) if gz else content)
    return folder


def write_npz(path, **values):
    np.savez(path, **values)
    return f"npz:{path}"


def write_prepared(folder, kind="tfrecord", records=None, change=None):
    """A prepared folder of 5×4 images in three classes; `change(info, split)` edits its info."""
    if records is None:
        records = [example(png(arrays(1)[0][0]), 0)]
    samples.write_prepared(folder, kind, records)
    if change:
        path = folder / "dataset_info.json"
        info = json.loads(path.read_text())
        change(info, info["splits"][0])
        path.write_text(json.dumps(info))
    return folder
