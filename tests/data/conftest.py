"""Fixtures for files that a stranger may have made."""

import sys

import pytest

from tests.data.photos import picture


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that appears as soon as somebody imports the module `cuckoo`."""
    mark = tmp_path / "imported"
    (tmp_path / "cuckoo.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Egg: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("cuckoo", None)


@pytest.fixture
def images(tmp_path):
    """Twelve images in a folder, six of each of two kinds by their names."""
    for index in range(12):
        picture(tmp_path / "photos" / f"{'ab'[index % 2]}{index:02d}.png", index)
    return tmp_path / "photos"
