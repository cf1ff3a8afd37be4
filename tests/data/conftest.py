"""Fixtures for files that a stranger may have made."""

import sys

import pytest


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that appears as soon as somebody imports the module `cuckoo`."""
    mark = tmp_path / "imported"
    (tmp_path / "cuckoo.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Egg: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("cuckoo", None)
