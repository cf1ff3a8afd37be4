"""Finished and unfinished runs that the tests of this room share, each trained once."""

import fcntl
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from twostage_jax.runs.study import agreement


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable], Path]:
    """A function that makes a folder once for all workers: `(name, make) -> folder`."""
    base = tmp_path_factory.getbasetemp()
    # Each worker of pytest-xdist has a folder of its own in a common one.
    root = base.parent if base.name.startswith("popen-") else base

    def make_once(name: str, make: Callable[[Path], object]) -> Path:
        folder = root / f"shared-{name}"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (root / f"{name}.done").exists():
                make(folder)
                (root / f"{name}.done").touch()
        return folder

    return make_once


@pytest.fixture(scope="session")
def data(shared) -> str:
    """SPEC of the tiny set."""

    def make(folder: Path) -> None:
        folder.mkdir()
        tiny.write(folder / "tiny.npz")

    return f"npz:{shared('data', make) / 'tiny.npz'}"


@pytest.fixture(scope="session")
def done(shared, data) -> Path:
    """A finished run with its predictions; tests only read it."""

    def make(folder: Path) -> None:
        tiny.run(tiny.config(data, folder, save_predictions=True), draw=True)

    return shared("done", make)


@pytest.fixture(scope="session")
def trio(shared, data) -> Path:
    """A finished run of three members; tests only read it."""

    def make(folder: Path) -> None:
        tiny.run(tiny.config(data, folder, members=3, save_predictions=True))

    return shared("trio", make)


@pytest.fixture(scope="session")
def unfinished(shared, data) -> Path:
    """The run `done`, stopped within the second epoch of stage 2; tests only read it."""

    def make(folder: Path) -> None:
        tiny.cut(tiny.config(data, folder, save_predictions=True), 3 * tiny.STEPS + 2)

    return shared("unfinished", make)


@pytest.fixture
def complete(done, tmp_path) -> Path:
    """A copy of `done` that a test may change."""
    return shutil.copytree(done, tmp_path / "complete")


@pytest.fixture
def copy(unfinished, tmp_path) -> Path:
    """A copy of `unfinished` that a test may change."""
    return shutil.copytree(unfinished, tmp_path / "copy")


@pytest.fixture
def few_waves(monkeypatch):
    """Heads of `find_suspects` with 128 features instead of 1,024; enough for tiny data."""
    monkeypatch.setattr(agreement, "_WAVES", 128)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that writes a user's module and puts it on Python's path."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)
