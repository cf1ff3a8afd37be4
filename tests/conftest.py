"""Shared fixtures. Warnings are errors, and jax is as strict as it can be."""

import os
import signal
from pathlib import Path

# `nohup` and some schedulers ignore this signal, and processes that tests start would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same small programs are compiled again and again; set before jax reads it, and inherited by
# the processes that tests start.
CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# Programs of tests run for milliseconds, so they are compiled quickly rather than well. Tests of
# the bits of optimised programs are marked slow, and `.ci/run` runs them with XLA_FLAGS empty.
# Without XLA's newer emitters, a third of the time would go, and so would the equality of the bits
# of single trainings and members.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ.setdefault("XLA_FLAGS", QUICK)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from tests.browser import browser, new_page, page  # noqa: E402, F401
from twostage_jax.engine import compile  # noqa: E402

if os.environ["XLA_FLAGS"] == QUICK:
    # Programs that run once have a level of their own, which would win over the flag.
    compile._ONCE["cpu"].pop("xla_backend_optimization_level")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
# Members are then always spread over devices, as on a machine with two cores.
jax.config.update("jax_num_cpu_devices", 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one worker run all tests of a file, which share programs and fixtures."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


MNIST = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"


@pytest.fixture
def mnist() -> Path:
    """The folder with the four MNIST files."""
    if not MNIST.is_dir():
        pytest.skip("MNIST is not beside the project, in ../shared/data/mnist")
    return MNIST


@pytest.fixture(scope="session")
def split() -> dict[str, np.ndarray]:
    """70 images of 4×4 in three classes that differ in brightness: two batches of 32 and 6."""
    random = np.random.RandomState(0)
    label = np.arange(70, dtype=np.int32) % 3
    image = random.randint(0, 80, (70, 4, 4, 1)) + 80 * label[:, None, None, None]
    return {"image": image.astype(np.uint8), "label": label}
