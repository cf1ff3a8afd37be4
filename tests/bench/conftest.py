"""The tiny set for the benchmarks: their programs train on it in seconds."""

import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny


@pytest.fixture(scope="session")
def spec(tmp_path_factory):
    """SPEC of 96 images of 4×4 in three classes, and of 24 for the test split."""
    return tiny.write(tmp_path_factory.mktemp("tiny") / "tiny.npz")


@pytest.fixture(scope="session")
def dataset(spec):
    return ts.load(spec, 0)


@pytest.fixture(scope="session")
def arrays(dataset, tmp_path_factory):
    """Path of the tiny set as the PyTorch programs read it."""
    path = tmp_path_factory.mktemp("arrays") / "data.npz"
    splits = {"train": dataset.train, "test": dataset.test}
    images = {f"x_{name}": split["image"] for name, split in splits.items()}
    labels = {f"y_{name}": split["label"] for name, split in splits.items()}
    np.savez(path, **images, **labels)
    return str(path)
