"""Bounded reading: files of any size and kind give their content or one sentence."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from twostage_jax.errors import UserError
from twostage_jax.files import (
    MIB,
    check_expanded,
    digest_of_file,
    open_regular,
    read_bytes,
    read_json,
    read_text,
)


def test_text_is_read_up_to_a_limit(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"ä": 1}')
    assert read_json(path) == {"ä": 1}
    assert read_text(path, limit=9) == '{"ä": 1}'
    with pytest.raises(UserError, match="more than 8 bytes"):
        read_text(path, limit=8)
    with pytest.raises(UserError, match=r"more than 67,108,864 bytes"):
        read_text("/dev/zero")
    path.write_bytes(b"")
    assert read_bytes(path, 0) == b""
    # sha256 of nothing
    assert digest_of_file(path).startswith("e3b0c44298fc1c14")


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]", '{"a": 1e999}', "1" * 5000])
def test_a_number_that_is_not_finite_is_rejected(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="it is not JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("content", [b"\xff{}", b"{", b"[" * 200_000, b"", b"1 2"])
def test_content_that_is_not_json_is_one_sentence(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"cannot read {path}"):
        read_json(path)


def test_a_pipe_is_read_unless_a_regular_file_is_required(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("[1]",))
    writer.start()
    assert read_json(tmp_path / "pipe") == [1]
    writer.join()
    code = "import sys; from twostage_jax.files import read_text; print(read_text(sys.argv[1]))"
    command = f'"{sys.executable}" -c "{code}" <(printf hello)'
    root = Path(__file__).parents[2]
    argv = ["bash", "-c", command]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "hello\n"


@pytest.mark.parametrize("read", [read_text, read_json, lambda *a, **k: read_bytes(*a, 9, **k)])
def test_only_a_regular_file_is_read_where_one_is_required(tmp_path, read):
    (tmp_path / "file").write_text("[1]")
    (tmp_path / "link").symlink_to("file")
    assert read(tmp_path / "file", regular=True) == read(tmp_path / "link", regular=True)
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it
    for path, kind in ((tmp_path / "pipe", "pipe"), ("/dev/zero", "device"), (tmp_path, "direct")):
        with pytest.raises(UserError, match=f"cannot read {path}: it is a {kind}"):
            read(path, regular=True)
    for name in ("nowhere", "a\0b", "x" * 300):
        for regular in (True, False):
            with pytest.raises(UserError, match="cannot read"):
                read(tmp_path / name, regular=regular)


def test_a_refused_file_is_closed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(UserError):
            open_regular(tmp_path / "pipe")
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_implausible_size_is_rejected_with_the_remedy():
    check_expanded("a.gz", 64 * MIB, 1, "expand it")
    check_expanded("a.gz", 100 * MIB, MIB, "expand it")
    with pytest.raises(UserError, match=r"a.gz has 1,048,576 bytes and .* trust it, expand it"):
        check_expanded("a.gz", 100 * MIB + 1, MIB, "expand it")
