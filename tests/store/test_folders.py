"""Folders of runs: free or taken, atomic files, checksums that survive a kill."""

import errno
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.store.atomic import append_text, write_bytes
from twostage_jax.store.checksums import check, corrupted_outputs, write_files
from twostage_jax.store.layout import (
    as_file_name,
    check_free,
    check_name,
    check_run,
    clean,
    create_folder,
    remove_output,
)

FILES = {name: name.encode() for name in ("config.json", "metrics.jsonl", "manifest.json")}
FILES |= {"result.json": b"result", "predictions-test.npz": b"predictions"}


@pytest.fixture
def finished(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_files(folder, FILES)
    return folder


def test_a_new_folder_is_created_and_named_after_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert create_folder(Path("a/b"), "digits") == Path("a/b")
    assert create_folder(Path("a/b"), "digits").is_dir()
    folder = create_folder(None, "../x y")
    assert folder.is_dir() and folder.parent == Path("runs") and folder.name.startswith("-x-y-")
    assert as_file_name("tfds:a/b.c") == "tfds-a-b-c"
    (tmp_path / "file").write_text("")
    for use in (lambda path: create_folder(path / "run", "x"), check_free):
        with pytest.raises(UserError, match="cannot create the folder .*; give another --out"):
            use(tmp_path / "file")


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("a[1]", "because of [ ] in it"),
        ("a\\b", "because of \\ in it"),
        ("gs:/bucket", "because of gs: in it"),
        ("a\0b", "because of \\x00 in it"),
        ("a\udcff", "not UTF-8"),
        ("x" * 256, "has a name of 256 bytes"),
    ],
)
def test_a_folder_that_orbax_cannot_write_to_is_refused(out, expected):
    with pytest.raises(UserError) as caught:
        check_name(Path(out))
    assert expected in str(caught.value)
    check_name(Path("runs/one"))


def test_only_leftovers_of_a_killed_process_are_ignored(tmp_path):
    check_free(tmp_path / "nowhere")
    for name in ("lock", "manifest.json.part"):
        (tmp_path / name).write_text("")
    check_free(tmp_path)
    with pytest.raises(UserError, match="is not a run folder"):
        check_run(tmp_path)
    (tmp_path / "config.json").write_text("{}")  # a copied config does not make a run
    with pytest.raises(UserError, match="is not empty .it contains config.json.: give a new --out"):
        check_free(tmp_path)
    (tmp_path / "manifest.json").write_text("")
    check_run(tmp_path)
    with pytest.raises(UserError, match="already contains a run: .* --resume"):
        check_free(tmp_path)


def test_unfinished_files_are_removed_and_foreign_ones_stay(tmp_path):
    ours = ["config.json.part", "SHA256SUMS.part", "sweep.png.part", "predictions-a.npz.part"]
    foreign = ["notes.part", "result.json", "sweep.png"]
    for name in ours + foreign:
        (tmp_path / name).write_text("")
    clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(foreign)
    for name in ("result.json", "../run/sweep.png", "*.png"):
        remove_output(tmp_path, name)
    assert (tmp_path / "sweep.png").exists()
    remove_output(tmp_path, "sweep.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.part", "result.json"]


@pytest.mark.parametrize("write", [write_bytes, lambda path, content: append_text(path, "new")])
@pytest.mark.parametrize("exists", [True, False])
def test_a_write_error_names_the_file_and_loses_nothing(tmp_path, monkeypatch, write, exists):
    path = tmp_path / "result.json"
    if exists:
        path.write_bytes(b"old")

    def full(self, *args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        kept = "its previous content is unchanged" if exists else "nothing else is lost"
        with pytest.raises(UserError, match=f"{path}: No space left on device; {kept}: free disk"):
            write(path, b"new")
    assert not exists or path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"] * exists


def test_a_link_with_the_name_of_an_unfinished_file_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "a.json.part").symlink_to(tmp_path / "precious")
    write_bytes(tmp_path / "a.json", b"{}")
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "a.json").read_bytes() == b"{}" and not (tmp_path / "a.json").is_symlink()


def test_the_checksums_are_those_of_sha256sum(finished):
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=finished, capture_output=True)
    assert done.returncode == 0 and done.stdout.count(b": OK") == len(FILES)
    digest = hashlib.sha256(b"result").hexdigest()
    assert f"{digest}  result.json\n" in (finished / "SHA256SUMS").read_text()
    check(finished)
    assert not list(corrupted_outputs(finished))


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "manifest.json", "result.json"])
def test_a_changed_or_missing_file_is_named(finished, name):
    path = finished / name
    path.write_bytes(b"other")
    with pytest.raises(Corrupted, match=f"{path} is corrupted, or its line in SHA256SUMS is"):
        check(finished)
    path.unlink()
    with pytest.raises(Corrupted, match=f"{path} is missing"):
        check(finished)


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"nonsense", "pipe"])
def test_a_run_without_readable_checksums_cannot_be_verified(finished, content):
    path = finished / "SHA256SUMS"
    path.unlink()
    if content == "pipe":
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(Corrupted, match="SHA256SUMS"):
        check(finished)
    if content != "pipe":
        write_files(finished, FILES)
        check(finished)


def test_outputs_are_verified_on_their_own_and_only_inside_the_folder(finished):
    (finished / "predictions-test.npz").write_bytes(b"other")
    (finished.parent / "outside").write_text("x")
    digest = hashlib.sha256(b"x").hexdigest()
    with (finished / "SHA256SUMS").open("a") as file:
        file.write(f"{digest}  ../outside\n")
    check(finished)
    assert [name for name, _ in corrupted_outputs(finished)] == [
        "../outside",
        "predictions-test.npz",
    ]
    # Writing other files does not make the corrupted file valid.
    write_files(finished, {"result.json": b"new"})
    check(finished)
    assert [name for name, _ in corrupted_outputs(finished)] == ["predictions-test.npz"]
    (finished / "predictions-test.npz").unlink()
    write_files(finished, {})
    assert not list(corrupted_outputs(finished))


@pytest.mark.parametrize("written", range(5))
def test_a_kill_between_two_files_leaves_a_valid_run(finished, written):
    """The order is checksums, manifest, result, checksums."""
    order = []

    def killed(path, content):
        if len(order) == written:
            raise KeyboardInterrupt
        order.append(path.name)
        write_bytes(path, content)

    new = {"result.json": b"new result", "manifest.json": b"new manifest"}
    if written < 4:
        with pytest.raises(KeyboardInterrupt):
            write_files(finished, new, write=killed)
    else:
        write_files(finished, new, write=killed)
        assert order == ["SHA256SUMS", "manifest.json", "result.json", "SHA256SUMS"]
    check(finished)
    assert (finished / "result.json").read_bytes() == (b"new result" if written > 2 else b"result")
    write_files(finished, new)
    (finished / "result.json").write_bytes(b"result")
    with pytest.raises(Corrupted):  # the old content is no longer accepted
        check(finished)
