"""The cache of decoded images: used, rebuilt, and done without."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import twostage_jax as ts
from tests.data.photos import folder, load, picture, refused, sizes
from twostage_jax.data import cache, decode, parallel, worker
from twostage_jax.data.decode import Form


@pytest.fixture
def photos(tmp_path):
    return folder(tmp_path / "photos", {"cat": 6, "dog": 6}, size=(20, 30), colour=True)


@pytest.fixture
def decoded(monkeypatch):
    """Files that are decoded, in order."""
    files = []

    def count(output, task, form, limit):
        files.extend(task.files)
        return worker.decode_task(output, task, form, limit)

    monkeypatch.setattr(parallel, "decode_task", count)
    return files


def images(dataset):
    return np.concatenate([split["image"] for split in dataset.splits.values()])


def test_a_second_start_decodes_nothing_and_gives_the_same_bits(photos, tmp_path, decoded):
    spec = f"folder:{photos}"
    first = load(spec, tmp_path / "cache")
    assert len(decoded) == 12
    second = load(spec, tmp_path / "cache")
    assert len(decoded) == 12
    assert first.fingerprint == second.fingerprint == load(spec, "off").fingerprint
    assert first.order == second.order and first.notes == second.notes
    np.testing.assert_array_equal(images(first), images(second))


def test_changed_files_and_settings_are_decoded_again(photos, tmp_path, decoded):
    spec = f"folder:{photos}"
    before = load(spec, tmp_path / "cache")
    load(spec, tmp_path / "cache", image_size=8)
    assert len(decoded) == 24
    file = photos / "cat" / "000.png"
    status = file.stat()
    picture(file, 77, (20, 30), colour=True)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # not even its time tells
    after = load(spec, tmp_path / "cache")
    assert len(decoded) == 36 and before.fingerprint != after.fingerprint


def test_a_moved_folder_is_still_cached(photos, tmp_path, decoded):
    load(f"folder:{photos}", tmp_path / "cache")
    photos.rename(tmp_path / "moved")
    load(f"folder:{tmp_path / 'moved'}", tmp_path / "cache")
    assert len(decoded) == 12


def entry(folder):
    return next(path for path in folder.iterdir() if path.is_dir())


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: flip(entry / cache.IMAGES),
        lambda entry: flip(entry / cache.INDEX),
        lambda entry: (entry / cache.INDEX).unlink(),
        lambda entry: (entry / cache.IMAGES).unlink(),
        lambda entry: (entry / cache.IMAGES).write_bytes(b""),
        lambda entry: (entry / cache.INDEX).write_text("{}"),
    ],
)
def test_a_corrupted_cache_is_rebuilt_and_said(photos, tmp_path, decoded, damage):
    spec = f"folder:{photos}"
    first = load(spec, tmp_path / "cache")
    damage(entry(tmp_path / "cache"))
    second = load(spec, tmp_path / "cache")
    assert len(decoded) == 24 and first.fingerprint == second.fingerprint
    assert any("was corrupted" in note and "built again" in note for note in second.notes)
    assert load(spec, tmp_path / "cache").notes == first.notes


def test_a_corrupted_choice_of_the_form_is_made_again(photos, tmp_path):
    first = load(f"folder:{photos}", tmp_path / "cache")
    for path in (tmp_path / "cache").glob("*.json"):
        flip(path)
    assert load(f"folder:{photos}", tmp_path / "cache").image_shape == first.image_shape


def full_disk(monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fail)


def test_a_full_disk_is_one_sentence(photos, tmp_path, monkeypatch):
    full_disk(monkeypatch)
    with pytest.raises(
        ts.UserError, match="--cache-dir .* No space left on device; free"
    ) as caught:
        load(f"folder:{photos}", tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    with pytest.raises(ts.UserError, match="No space left on device; free disk space, or set TMP"):
        load(f"folder:{photos}", "off")


def test_a_default_cache_that_cannot_be_written_is_done_without(photos, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    dataset = ts.load(f"folder:{photos}")
    assert any("decoded images are not kept" in note for note in dataset.notes)
    with pytest.raises(ts.UserError, match="cannot write decoded images to --cache-dir"):
        load(f"folder:{photos}", tmp_path / "file" / "x")


def test_another_pixel_limit_chooses_the_form_again(photos, tmp_path):
    refused(f"folder:{photos}", "the limit is", cache=tmp_path / "cache", pixel_limit=1e-6)
    first = load(f"folder:{photos}", cache=tmp_path / "other")
    again = load(f"folder:{photos}", cache=tmp_path / "cache")
    assert again.image_shape == first.image_shape


def test_broken_files_are_remembered(photos, tmp_path, decoded):
    (photos / "cat" / "x.png").touch()
    for _ in range(2):
        with pytest.raises(ts.UserError, match="1 of 13 images"):
            load(f"folder:{photos}", tmp_path / "cache")
    assert len(decoded) == 13
    assert sum(sizes(load(f"folder:{photos}", tmp_path / "cache", skip_broken=True)).values()) == 12
    assert len(decoded) == 13


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "x"), OSError(errno.EMFILE, "x"), MemoryError]
)
@pytest.mark.parametrize("form", [{}, {"image_size": 8, "channels": 1}])
def test_an_error_that_can_pass_is_not_remembered(photos, tmp_path, monkeypatch, error, form):
    def fail(path):
        raise error

    spec = f"folder:{photos}"
    with monkeypatch.context() as patch:
        patch.setattr(decode, "open_regular", fail)
        refused(spec, "12 of 12 images", cache=tmp_path / "cache", **form)
    dataset = load(spec, tmp_path / "cache", **form)
    assert dataset.image_shape == load(spec, **form).image_shape


INTERRUPTED = """
import os, signal, sys
from twostage_jax import signals
from twostage_jax.data import cache, sources

def stop(*arguments):
    os.kill(os.getpid(), signal.SIGINT)

cache.decode_files = stop
with signals.handled():
    sources.load(sys.argv[1], cache_dir=sys.argv[2])
"""


def test_a_signal_while_files_are_decoded_leaves_nothing(photos, tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, f"folder:{photos}", str(tmp_path / "cache")]
    assert subprocess.run(command, stderr=subprocess.PIPE).returncode == 128 + signal.SIGINT
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_leftovers_of_killed_processes_are_removed(photos, tmp_path):
    (tmp_path / "cache" / "old.part").mkdir(parents=True)
    (tmp_path / "cache" / "new.part").mkdir()
    long_ago = time.time() - 2 * cache.STALE
    os.utime(tmp_path / "cache" / "old.part", (long_ago, long_ago))
    load(f"folder:{photos}", tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").glob("*.part")] == ["new.part"]


def decode_all(tmp_path, files, progress=None):
    with open(tmp_path / "out", "w+b") as output:
        broken = parallel.decode_files(
            output.fileno(), files, 0, Form(6, 6, 1), 10**6, progress=progress
        )
    return (tmp_path / "out").read_bytes(), broken


def test_processes_give_the_same_bits_and_report_progress(photos, tmp_path, monkeypatch):
    files = sorted(map(str, photos.rglob("*.png")))
    files.insert(3, str(tmp_path / "none.png"))
    expected = decode_all(tmp_path, files)
    monkeypatch.setattr(parallel, "WORTH_FILES", 1)
    monkeypatch.setattr(parallel, "CHUNK", 2)
    monkeypatch.setattr(parallel, "_cores", lambda: 2)
    steps = []
    assert decode_all(tmp_path, files, lambda done, total: steps.append((done, total))) == expected
    assert steps[-1] == (13, 13) and len(steps) == 7
    assert [broken.row for broken in expected[1]] == [3]


def test_a_process_that_dies_is_an_error_and_leaves_none_behind(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "WORTH_FILES", 1)
    monkeypatch.setattr(parallel, "CHUNK", 2)
    monkeypatch.setattr(parallel, "_cores", lambda: 2)
    monkeypatch.setattr(parallel.sys, "executable", "/bin/false")
    with pytest.raises(ts.UserError, match="a process that decodes images ended with status 1"):
        decode_all(tmp_path, sorted(map(str, photos.rglob("*.png"))))
