"""The tiny set for the benchmarks: their programs train on it in seconds."""

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
