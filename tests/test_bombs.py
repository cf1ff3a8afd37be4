"""What comes from a stranger takes no more memory than its size makes credible."""

import contextlib
import gzip
import io
import json
import re
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import twostage_jax as ts
from scripts.fuzzing import targets as fuzz_targets
from twostage_jax.data.tfds.prepared import read_prepared
from twostage_jax.data.tfds.records import read_array_records

MIB = 2**20


def described(folder, change, kind="tfrecord", records=None):
    """A prepared folder, with what `change` makes of its description."""
    records = records or [fuzz_targets.example(fuzz_targets.png(fuzz_targets.IMAGE[0]), 0)]
    fuzz_targets.write_prepared(folder, kind, records)
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    change(info, info["splits"][0])
    path.write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        # 8,000 times 50,000 characters, for every file.
        (
            lambda info, split: (
                info.update(name="x" * 50_000),
                split.update(filepathTemplate="{DATASET}" * 8000),
            ),
            "text of at most 255 characters",
        ),
        (lambda info, split: info.update(name="x" * 256), "text of at most 255 characters"),
        (lambda info, split: info.update(name=["tiny"]), r"has \['tiny'\] in the names"),
        (lambda info, split: split.update(filepathTemplate="x" * 256), "at most 255"),
        (lambda info, split: split.update(filepathTemplate="{DATASET}" * 28), "lacks the file"),
        (lambda info, split: split.update(shardLengths=["1"] * 2**17), "has 131,072 files"),
        (
            lambda info, split: split.update(
                shardLengths=["1"] * 2**16, filepathTemplate="tiny-train.tfrecord-00000-of-00001"
            ),
            "names 65,536 files and some of them twice",
        ),
    ],
)
def test_names_of_files_are_not_made_without_bound(change, expected, tmp_path):
    folder = described(tmp_path / "tiny", change)
    with peak_below(64 * MIB), pytest.raises(ts.UserError, match=expected) as error:
        read_prepared(folder, "tiny")
    assert len(str(error.value)) < 1000


def bomb(name, folder):
    """A source of about 200 kB that announces 200 MB."""
    zeros = bytes(200_000_000)
    if name == "gzip":
        header = bytes([0, 0, 8, 3]) + struct.pack(">3I", 200, 1000, 1000)
        (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + zeros, 6))
        labels = fuzz_targets.idx_bytes(np.zeros(200, np.uint8))
        (folder / "train-labels-idx1-ubyte").write_bytes(labels)
        return lambda: ts.load(f"idx:{folder}")
    if name == "npz":
        image = np.frombuffer(zeros, np.uint8).reshape(200, 1000, 1000)
        np.savez_compressed(folder / "a.npz", image=image, label=np.arange(200))
        return lambda: ts.load(f"npz:{folder / 'a.npz'}")
    if name == "png":
        picture = io.BytesIO()
        Image.new("L", (8000, 8000)).save(picture, "PNG")
        records = [fuzz_targets.example(picture.getvalue(), 0)] * 3
        fuzz_targets.write_prepared(folder, "tfrecord", records)
        path = folder / "features.json"
        path.write_text(path.read_text().replace('"5", "4"', '"-1", "-1"'))
    else:
        fuzz_targets.write_prepared(folder, "array_record", [zeros])
    return lambda: read_prepared(folder, "tiny")


@contextlib.contextmanager
def peak_below(most):
    """Hold what is resident in memory, in whatever language it is allocated, below `most` more."""

    def resident(name):
        status = Path("/proc/self/status").read_text()
        return int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < most


def test_the_peak_is_seen_in_every_language():
    side = 10_000
    fills = (
        lambda: b"x" * side**2,
        lambda: np.ones(side**2, np.uint8),
        lambda: Image.new("L", (side, side), 1),
    )
    for fill in fills:
        with pytest.raises(AssertionError), peak_below(64 * MIB):
            fill()
    with peak_below(64 * MIB):
        bytes(1000)


@pytest.mark.parametrize("name", ["gzip", "npz", "png", "array_record"])
def test_a_bomb_is_refused_by_its_header(name, tmp_path):
    read = bomb(name, tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 400_000
    announced = r"and announces \d\d\d,\d\d\d,\d\d\d, more than 100"
    with peak_below(32 * MIB), pytest.raises(ts.UserError, match=announced):
        read()


def test_many_files_do_not_make_a_bomb_together(tmp_path):
    count = 5
    folder = described(
        tmp_path / "tiny",
        lambda info, split: split.update(shardLengths=["1"] * count),
        "array_record",
        [fuzz_targets.example(bytes(40_000_000), 0)],
    )
    whole = folder / "tiny-train.array_record-00000-of-00001"
    for index in range(count):
        shutil.copy(whole, folder / f"tiny-train.array_record-{index:05}-of-{count:05}")
    with pytest.raises(ts.UserError, match=r"announces 80,000,\d\d\d, more than"):
        read_prepared(folder, "tiny")


def test_an_array_record_without_its_index_is_one_sentence(tmp_path):
    fuzz_targets.write_prepared(tmp_path, "array_record", [b"one", b"two", b"three"])
    path = tmp_path / "tiny-train.array_record-00000-of-00001"
    content, found = path.read_bytes(), []
    for end in range(500):
        path.write_bytes(content[:end])
        with pytest.raises(ts.UserError) as error:
            read_array_records(path, 3)
        found.append(str(error.value))
    # Where a chunk ends: at its start, after the signature, three records and the two of the index.
    assert sum(" and 3 are announced" in line for line in found) == 6
    for end in (0, 64, 130):  # no chunk, the signature, one record and nothing behind it
        path.write_bytes(content[:end])
        with pytest.raises(ts.UserError, match="has 0 records and 0 are announced, or no index"):
            read_array_records(path, 0)


def test_a_plain_idx_file_is_as_long_as_it_says_before_it_is_read(tmp_path):
    fuzz_targets.idx_target(tmp_path).feed(b"\0" + fuzz_targets.idx_bytes(fuzz_targets.IMAGE))
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**15, 2**15) + b"short")
    with pytest.raises(ts.UserError, match="holds only 5"):
        ts.load(f"idx:{tmp_path}")


def test_members_of_an_archive_are_as_long_as_their_headers_say(tmp_path):
    def header(shape, descr="|u1"):
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            buffer, {"shape": shape, "fortran_order": False, "descr": descr}
        )
        return buffer.getvalue()

    for shape in ((2**40,), (-2, -3), (10**30,)):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("image.npy", header(shape) + bytes(6 if shape == (-2, -3) else 4))
            archive.writestr("label.npy", header((1,)) + b"\0")
        with pytest.raises(ts.UserError, match="announces"):
            ts.load(f"npz:{tmp_path / 'a.npz'}")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("image.npy", header((1, 1, 1)) + b"\0")
        archive.writestr("label.npy", header((1,)) + b"\0")
    with pytest.raises(ts.UserError, match="packed in another way"):
        ts.load(f"npz:{tmp_path / 'a.npz'}")
