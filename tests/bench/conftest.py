"""A data set so small that a benchmark of it takes seconds."""

import numpy as np
import pytest

import twostage_jax as ts


@pytest.fixture(scope="session")
def spec(tmp_path_factory, split):
    """SPEC of 70 images of 4×4 in three classes; 30 of them are the test split too."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.npz"
    arrays = {"x_train": split["image"], "y_train": split["label"]}
    np.savez(path, **arrays, x_test=split["image"][:30], y_test=split["label"][:30])
    return f"npz:{path}"


@pytest.fixture(scope="session")
def dataset(spec):
    return ts.load(spec, 0)
