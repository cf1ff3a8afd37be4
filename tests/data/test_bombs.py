"""A stranger's file runs no code and takes no more memory than its size makes credible."""

import contextlib
import gzip
import io
import re
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import twostage_jax as ts
from tests.data.builders import write_idx, write_prepared
from tests.fuzz.samples import example, idx_bytes
from twostage_jax.data.npz import read_arrays
from twostage_jax.data.tfds.prepared import read_prepared
from twostage_jax.files import MIB


@contextlib.contextmanager
def peak_below(limit):
    """Fail if the block takes more memory than `limit`, in whatever language it is allocated."""

    def resident(name):
        status = Path("/proc/self/status").read_text()
        return int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < limit


def test_the_peak_is_measured_in_every_language():
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


def gzip_bomb(folder):
    header = bytes([0, 0, 8, 3]) + struct.pack(">3I", 100, 1000, 1000)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(10**8), 6))
    labels = idx_bytes(np.zeros(100, np.uint8))
    (folder / "train-labels-idx1-ubyte").write_bytes(labels)
    return lambda: ts.load(f"idx:{folder}")


def npz_bomb(folder):
    image = np.zeros((100, 1000, 1000), np.uint8)
    np.savez_compressed(folder / "a.npz", image=image, label=np.arange(100))
    return lambda: ts.load(f"npz:{folder / 'a.npz'}")


def png_bomb(folder):
    picture = io.BytesIO()
    Image.new("L", (6000, 6000)).save(picture, "PNG")
    write_prepared(folder, records=[example(picture.getvalue(), 0)] * 3)
    path = folder / "features.json"
    path.write_text(path.read_text().replace('"5", "4"', '"-1", "-1"'))
    return lambda: read_prepared(folder, "tiny")


def array_record_bomb(folder):
    write_prepared(folder, "array_record", [bytes(10**8)])
    return lambda: read_prepared(folder, "tiny")


@pytest.mark.parametrize("make", [gzip_bomb, npz_bomb, png_bomb, array_record_bomb])
def test_a_bomb_is_refused_by_its_header(make, tmp_path):
    read = make(tmp_path)  # about 100 kB that announce 100 MB
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 400_000
    announced = r"announces \d\d\d,\d\d\d,\d\d\d"
    with peak_below(32 * MIB), pytest.raises(ts.UserError, match=announced):
        read()


def test_many_small_bombs_do_not_add_up(tmp_path):
    count = 5
    folder = write_prepared(
        tmp_path,
        "array_record",
        [example(bytes(40_000_000), 0)],
        lambda info, split: split.update(shardLengths=["1"] * count),
    )
    first = folder / "tiny-train.array_record-00000-of-00001"
    for index in range(count):
        shutil.copy(first, folder / f"tiny-train.array_record-{index:05}-of-{count:05}")
    with pytest.raises(ts.UserError, match=r"announces 80,000,\d\d\d"):
        read_prepared(folder, "tiny")


def test_a_long_gzip_header_costs_no_time(tmp_path):
    # Flag 8 announces a file name, which ends with a zero byte; this one never ends.
    write_idx(tmp_path, gz=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 10**7)
    with peak_below(32 * MIB), pytest.raises(ts.UserError, match="cannot read|starts with nothing"):
        ts.load(f"idx:{tmp_path}")


def test_a_plain_idx_file_is_compared_with_its_header_before_it_is_read(tmp_path):
    path = write_idx(tmp_path) / "train-images-idx3-ubyte"
    path.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**15, 2**15) + b"short")
    with pytest.raises(ts.UserError, match="has only 5"):
        ts.load(f"idx:{tmp_path}")


def npy_header(shape, descr="|u1"):
    buffer = io.BytesIO()
    fields = {"shape": shape, "fortran_order": False, "descr": descr}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def write_members(path, image, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("image.npy", image)
        archive.writestr("label.npy", npy_header((1,)) + b"\0")


@pytest.mark.parametrize("shape", [(2**40,), (-2, -3), (10**30,)])
def test_a_member_of_an_archive_is_compared_with_its_header(shape, tmp_path):
    write_members(tmp_path / "a.npz", npy_header(shape) + bytes(6 if shape == (-2, -3) else 4))
    with pytest.raises(ts.UserError, match="announces"):
        read_arrays(tmp_path / "a.npz")


def test_only_methods_of_numpy_are_unpacked(tmp_path):
    write_members(tmp_path / "a.npz", npy_header((1, 1, 1)) + b"\0", zipfile.ZIP_LZMA)
    with pytest.raises(ts.UserError, match="packed in another way"):
        read_arrays(tmp_path / "a.npz")


def test_a_long_list_of_members_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for index in range(100):
            archive.writestr(f"{index}{'x' * 60_000}", b"")
    with pytest.raises(ts.UserError, match="list of members is too long"):
        read_arrays(tmp_path / "a.npz")


class Canary:
    """An object that touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_in_an_archive_is_refused_and_not_executed(tmp_path):
    mark = tmp_path / "unpickled"
    image = np.array([Canary(mark)] * 4, dtype=object)
    np.savez(tmp_path / "a.npz", image=image, label=np.arange(4))
    with pytest.raises(ts.UserError, match="never unpickle"):
        ts.load(f"npz:{tmp_path / 'a.npz'}")
    with (tmp_path / "b.npz").open("wb") as file:
        np.save(file, image)
    with pytest.raises(ts.UserError, match="single array"):
        ts.load(f"npz:{tmp_path / 'b.npz'}")
    assert not mark.exists()
    # The canary works: NumPy unpickles it where that is allowed.
    np.load(tmp_path / "b.npz", allow_pickle=True)
    assert mark.exists()


def change_name(info, split):
    # 8,000 times 50,000 characters, for every file.
    info["name"] = "x" * 50_000
    split["filepathTemplate"] = "{DATASET}" * 8000


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_name, "text of at most 255 characters"),
        (lambda info, split: info.update(name="x" * 256), "text of at most 255 characters"),
        (lambda info, split: info.update(name=["tiny"]), "cannot read .*dataset_info.json: .*name"),
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
def test_file_names_have_bounds(change, expected, tmp_path):
    folder = write_prepared(tmp_path / "tiny", change=change)
    with peak_below(64 * MIB), pytest.raises(ts.UserError, match=expected) as error:
        read_prepared(folder, "tiny")
    assert len(str(error.value)) < 1000
