"""Text of any size and kind, and messages of any content."""

import os
import subprocess
import sys
import threading

import pytest

from twostage_jax.errors import LONGEST, UserError, printable
from twostage_jax.files import open_regular, read_bytes, read_json, read_text


def test_text_is_read_up_to_a_bound(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"ä": 1}')
    assert read_text(path) == '{"ä": 1}' and read_json(path) == {"ä": 1}
    assert read_text(path, limit=9) == '{"ä": 1}'
    with pytest.raises(UserError, match="more than 8 bytes"):
        read_text(path, limit=8)


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]", '{"a": 1e999}', "1e-999", "1" * 5000])
def test_a_number_is_finite(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    if text == "1e-999":
        assert read_json(tmp_path / "a.json") == 0.0
        return
    with pytest.raises(UserError, match="it is no JSON"):
        read_json(tmp_path / "a.json")


def test_a_device_without_end_is_refused_and_a_pipe_is_read(tmp_path):
    with pytest.raises(UserError, match="more than 67,108,864 bytes"):
        read_text("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("[1]"))
    writer.start()
    assert read_json(tmp_path / "pipe") == [1]
    writer.join()
    code = "import sys; from twostage_jax.reading import read_text; print(read_text(sys.argv[1]))"
    command = f'"{sys.executable}" -c "{code}" <(printf hello)'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "hello\n"


@pytest.mark.parametrize("read", [read_text, read_json, lambda *a, **k: read_bytes(*a, 9, **k)])
def test_where_a_regular_file_is_demanded_nothing_else_is_read(tmp_path, read):
    (tmp_path / "file").write_text("[1]")
    (tmp_path / "link").symlink_to("file")
    assert read(tmp_path / "file", regular=True) == read(tmp_path / "link", regular=True)
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it
    for path, kind in ((tmp_path / "pipe", "pipe"), ("/dev/zero", "device"), (tmp_path, "direct")):
        with pytest.raises(UserError, match=f"cannot read {path}: it is a {kind}"):
            read(path, regular=True)
    for name in ("nowhere", "a\0b", "x" * 300):
        with pytest.raises(UserError, match="cannot read"):
            read(tmp_path / name, regular=True)


def test_what_is_refused_is_not_left_open(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(UserError):
            open_regular(tmp_path / "pipe")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("content", [b"\xff{}", b"{", b"[" * 200_000, b"", b"1" * 5000])
def test_what_is_no_json_is_one_sentence(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot read"):
        read_json(path)


@pytest.mark.parametrize("name", ["nowhere", ".", "a\0b", "x" * 300])
def test_what_is_no_file_is_one_sentence(tmp_path, name):
    with pytest.raises(UserError, match="cannot read"):
        read_text(tmp_path / name)


def test_messages_are_one_printable_line_of_bounded_length():
    nasty = "a\x1b[31mred\r\x07\u202eabc\udc80\t\x9b"
    text = str(UserError(f"the file {nasty} is\n  broken: {'x' * 10**6}!"))
    assert text.isprintable() and "\\x1b[31mred" in text and "is broken" in text
    assert len(text) <= LONGEST and text.endswith("x!")
    text.encode("utf-8")
    assert printable("Straße, 猫 and \\") == "Straße, 猫 and \\"


@pytest.mark.parametrize("one", [" ", "\n", " \n", "x", "\U0010ffff", "\x1b", "\ud800", "\u2028"])
def test_a_message_of_a_million_characters_is_one_line(one):
    # White space alone took an hour as long as a regular expression looked for line ends in it.
    text = str(UserError(f"the key {one * 10**6} is unknown"))
    assert text.startswith("the key") and text.endswith("is unknown")
    assert text.isprintable() and len(text) <= LONGEST


def test_lines_are_joined_by_one_space():
    assert str(UserError("one \n\n  two\r\nthree\n")) == "one two three"
    assert str(UserError("a  name   of blanks")) == "a  name   of blanks"


def test_tables_and_lines_show_names_as_they_are(capsys):
    from twostage_jax.show.terminal import Terminal

    terminal = Terminal()
    terminal.table("a [bold]title", ("class", "count"), [("\x1b[2J[/red]", 1), ("[link=x]", 2)])
    terminal.line("\x1b]0;owned\x07 [red]")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown
    assert "\\x1b[2J[/red]" in shown and "[link=x]" in shown and "[bold]title" in shown
