"""The lock of a run's folder: one process holds it, and foreign files are not touched."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from twostage_jax.errors import UserError
from twostage_jax.store.lock import locked

HOLDER = {"pid": 12, "host": "there", "since": "2024-01-01 00:00:00"}
MALFORMED = [
    b"[" * 4000,
    b"\xff\xfe",
    b"null",
    b"[1, 2, 3]",
    b"{}",
    json.dumps({**HOLDER, "pid": "12"}).encode(),
    json.dumps({**HOLDER, "pid": True}).encode(),
    json.dumps({**HOLDER, "more": 1}).encode(),
    json.dumps({**HOLDER, "host": "x" * 9999}).encode(),
    b'{"pid": ' + b"1" * 4000,
]


def refused(folder, match, **options):
    with pytest.raises(UserError, match=match), locked(folder, print, **options):
        raise AssertionError("the lock was taken")


def test_a_second_process_is_refused_and_learns_who_holds_the_lock(tmp_path):
    notices = []
    with locked(tmp_path, notices.append):
        refused(tmp_path, f"in use by process {os.getpid()} on .* .since .*: wait for it")
    assert not notices and not (tmp_path / "lock").exists()


def test_the_lock_of_a_killed_process_is_taken_over_with_a_notice(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from twostage_jax.store.lock import locked\n"
        "with locked(Path(sys.argv[1]), print): os.kill(os.getpid(), 9)"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    killed = subprocess.Popen(argv, cwd=Path(__file__).parents[2])
    assert killed.wait() == -9
    notices = []
    with locked(tmp_path, notices.append):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert f"taken over from process {killed.pid} on " in notices[0] and len(notices) == 1
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("content", MALFORMED, ids=lambda content: content[:20])
def test_a_malformed_file_names_no_holder(content, tmp_path):
    (tmp_path / "lock").write_bytes(content)
    notices = []
    with locked(tmp_path, notices.append):
        (tmp_path / "lock").write_bytes(content)  # as if another version held it
        refused(tmp_path, "in use by another process", retries=1)
    assert not notices


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_not_followed(exists, tmp_path):
    target = tmp_path / "precious"
    if exists:
        target.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(target)
    refused(tmp_path / "run", "run/lock is a link.*: remove it")
    assert target.exists() == exists and (not exists or target.read_text() == "mine")
    assert (tmp_path / "run" / "lock").is_symlink()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_special_file_is_refused(make, tmp_path):
    make(tmp_path / "lock")
    refused(tmp_path, "lock is a link, pipe or other special file")
    assert (tmp_path / "lock").exists()


def test_a_folder_that_is_not_writable_is_one_sentence(tmp_path, monkeypatch):
    really = os.open

    def read_only(path, *args, **options):
        if os.path.basename(path) == "lock":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return really(path, *args, **options)

    monkeypatch.setattr(os, "open", read_only)
    refused(tmp_path, "cannot write to .*: Read-only file system; make it writable")
