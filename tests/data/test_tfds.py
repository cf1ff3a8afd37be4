"""TensorFlow Datasets without TensorFlow and without a network."""

import shutil
import struct

import google_crc32c
import numpy as np
import pytest

import twostage_jax as ts
from twostage_jax.data.tfds import prepare as tfds
from twostage_jax.data.tfds.records import read_array_records, read_tfrecord

pytestmark = pytest.mark.xdist_group("tfds")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data directory that TFDS has prepared from the files in its manual folder."""
    from tests.conftest import MNIST

    if not MNIST.is_dir():
        pytest.skip("MNIST is not beside the project, in ../shared/data/mnist")
    root = tmp_path_factory.mktemp("tfds")
    shutil.copytree(MNIST, root / "downloads" / "manual")
    assert ts.load("mnist", data_dir=root).fingerprint == ts.load(f"idx:{MNIST}").fingerprint
    shutil.rmtree(root / "downloads")
    return root


def test_a_prepared_folder_gives_what_the_files_give(prepared, mnist):
    by_tfds = ts.load("mnist", validation=0, data_dir=prepared)
    by_idx = ts.load(f"idx:{mnist}", validation=0)
    assert by_tfds.fingerprint == by_idx.fingerprint
    assert by_tfds.name == "mnist"
    for part in ("train", "validation", "test"):
        one, other = getattr(by_tfds, part), getattr(by_idx, part)
        np.testing.assert_array_equal(np.bincount(one["label"]), np.bincount(other["label"]))
    # The first labels of the standard folder, as TFDS shuffles it everywhere.
    assert by_tfds.train["label"][:4].tolist() == [4, 1, 0, 7]


def test_a_folder_prepared_as_tfrecord_is_read_too(prepared, tmp_path, monkeypatch):
    (test,) = prepared.rglob("mnist-test.array_record-*")
    records = list(read_array_records(test, 10_000))[:50]
    path = tmp_path / "mnist-test.tfrecord-00000-of-00001"
    path.write_bytes(b"".join(frame(record) for record in records))
    assert list(read_tfrecord(path)) == records
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(ts.UserError, match="truncated or damaged at byte 0"):
        list(read_tfrecord(path))
    path.write_bytes(frame(records[0])[:-1])
    with pytest.raises(ts.UserError, match="truncated or damaged"):
        list(read_tfrecord(path))


def frame(record):
    def masked(content):
        crc = google_crc32c.value(content)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    size = struct.pack("<Q", len(record))
    return size + masked(size) + record + masked(record)


def test_files_in_the_data_dir_itself_serve_as_well(mnist, tmp_path):
    for path in mnist.iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert tfds._manual_folder(tmp_path, [path.name for path in mnist.iterdir()]) == tmp_path
    assert tfds._manual_folder(tmp_path, ["other.gz"]) == tmp_path / "downloads" / "manual"


def test_wrong_files_are_refused_by_their_checksums(mnist, tmp_path):
    manual = tmp_path / "downloads" / "manual"
    shutil.copytree(mnist, manual)
    shutil.copy(manual / "t10k-labels-idx1-ubyte.gz", manual / "train-labels-idx1-ubyte.gz")
    with pytest.raises(ts.UserError, match="wrong checksum"):
        ts.load("mnist", data_dir=tmp_path)
    assert not (tmp_path / "mnist" / "3.0.1").exists()


def test_without_network_and_preparation_the_alternatives_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "_reachable", lambda url: False)
    for spec in ("mnist", "tfds:cifar10"):
        with pytest.raises(ts.UserError, match=r"cannot be reached.*--data-dir, or use idx:DIR"):
            ts.load(spec, data_dir=tmp_path)
    assert not any(tmp_path.iterdir())


def test_an_unreachable_host_is_noticed_in_seconds():
    # 192.0.2.0/24 is reserved for documentation: nothing answers there.
    assert not tfds._reachable("http://192.0.2.1/file")


def test_what_needs_tensorflow_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "_check_network", lambda *args: None)

    class Builder:
        url_infos = {}

        def download_and_prepare(self, download_config):
            try:
                raise ModuleNotFoundError("No module named 'tensorflow'")
            except ModuleNotFoundError as error:
                raise RuntimeError("Error while extracting") from error

    with pytest.raises(ts.UserError, match="pip install tensorflow"):
        tfds._prepare(Builder(), "cifar10", tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar11", "has no set 'cifar11'.*did you mean"),
        ("imdb_reviews", "no image-classification set.*its features are text, label"),
        ("mnist/nothing", "cannot open 'mnist/nothing'"),
    ],
)
def test_names_that_will_not_do(name, expected, tmp_path):
    with pytest.raises(ts.UserError, match=expected):
        ts.load(f"tfds:{name}", data_dir=tmp_path)


def test_data_dir_goes_with_tfds_only(tmp_path):
    with pytest.raises(ts.UserError, match="--data-dir goes with mnist"):
        ts.load("digits", data_dir=tmp_path)
