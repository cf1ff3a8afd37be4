"""The lock of a run's folder: what is not ours in its place is neither believed nor written to."""

import json
import os

import pytest

from twostage_jax.errors import UserError
from twostage_jax.store import lock
from twostage_jax.store.lock import locked

OURS = {"pid": 12, "host": "there", "since": "2024-01-01 00:00:00"}
NOT_OURS = [
    b"[" * 4000,
    b"\xff\xfe",
    b"null",
    b"[1, 2, 3]",
    b'"pid"',
    b"{}",
    json.dumps({**OURS, "pid": "12"}).encode(),
    json.dumps({**OURS, "host": ["there"] * 99}).encode(),
    json.dumps({**OURS, "more": 1}).encode(),
    json.dumps({**OURS, "host": "x" * 9999}).encode(),
    b'{"pid": ' + b"1" * 4000,
]


def test_who_had_the_lock_before_is_named(tmp_path):
    (tmp_path / "lock").write_text(json.dumps(OURS))
    said = []
    with locked(tmp_path, said.append):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    (line,) = said
    assert "taken over from process 12 on there (since 2024-01-01 00:00:00)" in line
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("content", NOT_OURS, ids=lambda content: content[:20])
def test_a_file_that_does_not_say_who_is_unknown(content, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "NAME_TRIES", 2)
    (tmp_path / "lock").write_bytes(content)
    said = []
    with locked(tmp_path, said.append):
        (tmp_path / "lock").write_bytes(content)  # as if another version held it
        with pytest.raises(UserError, match="in use by another process"):
            with locked(tmp_path, said.append):
                raise AssertionError("two have the lock")
    assert not said


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_not_followed(there, tmp_path):
    target = tmp_path / "precious"
    if there:
        target.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(target)
    with pytest.raises(UserError, match=r"run/lock is a link.*: remove it"):
        with locked(tmp_path / "run", print):
            raise AssertionError("the lock was taken")
    assert target.exists() == there and (not there or target.read_text() == "mine")
    assert (tmp_path / "run" / "lock").is_symlink()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_no_lock(make, tmp_path):
    make(tmp_path / "lock")
    with pytest.raises(UserError, match=r"lock is a link, a pipe or the like"):
        with locked(tmp_path, print):
            raise AssertionError("the lock was taken")
    assert (tmp_path / "lock").exists()
