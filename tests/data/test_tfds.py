"""TensorFlow Datasets without TensorFlow and without a network."""

import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import twostage_jax as ts
from tests.conftest import MNIST
from tests.data.builders import NAMES, arrays, write_idx, write_prepared
from tests.fuzz.samples import example, frame, png, write_array_record
from twostage_jax.data.tfds import prepare
from twostage_jax.data.tfds.prepared import read_prepared
from twostage_jax.data.tfds.records import read_array_records, read_tfrecord

# These tests share TFDS's global state, so they run in one worker.
pytestmark = pytest.mark.xdist_group("tfds")


def is_unreachable(url):
    return False


@pytest.mark.slow
def test_mnist_is_prepared_from_its_files_in_the_standard_order(tmp_path):
    if not MNIST.is_dir():
        pytest.skip("MNIST is not beside the project, in ../shared/data/mnist")
    for path in MNIST.iterdir():  # in the folder itself; `downloads/manual` serves as well
        (tmp_path / path.name).symlink_to(path)
    prepared = ts.load("mnist", validation=0, data_dir=tmp_path)
    files = ts.load(f"idx:{MNIST}", validation=0)
    assert prepared.fingerprint == files.fingerprint
    assert prepared.name == "mnist"
    # The first labels of the standard folder: TFDS shuffles alike everywhere.
    assert prepared.train["label"][:4].tolist() == [4, 1, 0, 7]


@pytest.mark.parametrize("kind", ["tfrecord", "array_record"])
def test_a_prepared_folder_is_read_in_both_formats(kind, tmp_path):
    image, label = arrays(12)
    records = [example(png(x), int(y)) for x, y in zip(image, label, strict=True)]
    folder = write_prepared(tmp_path / "tiny" / "1.0.0", kind, records)
    source = read_prepared(folder, "tiny")
    np.testing.assert_array_equal(source.train["image"][..., 0], image)
    np.testing.assert_array_equal(source.train["label"], label)
    assert (source.name, source.classes, source.test) == ("tiny", ("one", "two", "three"), None)
    assert ts.load("tfds:tiny", data_dir=tmp_path).image_shape == (5, 4, 1)


def test_a_corrupted_tfrecord_is_refused(tmp_path):
    path = tmp_path / "a.tfrecord"
    records = [b"one", b"two" * 100]
    valid = b"".join(map(frame, records))
    path.write_bytes(valid)
    assert list(read_tfrecord(path)) == records
    for position in (0, 8, 12, 15, 40, len(valid) - 1):
        content = bytearray(valid)
        content[position] ^= 1
        path.write_bytes(content)
        with pytest.raises(ts.UserError, match="truncated or corrupted at byte"):
            list(read_tfrecord(path))
    path.write_bytes(valid[:-1])
    with pytest.raises(ts.UserError, match="truncated or corrupted"):
        list(read_tfrecord(path))


@settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(records=st.lists(st.binary(max_size=70_000), min_size=1, max_size=8))
def test_records_survive_an_array_record_file(records, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "survives.array_record"
    write_array_record(path, records)
    assert read_array_records(path, len(records)) == records
    with pytest.raises(ts.UserError, match="are announced"):
        read_array_records(path, len(records) + 1)


def test_an_array_record_without_its_index_is_refused(tmp_path):
    path = tmp_path / "a.array_record"
    write_array_record(path, [b"one", b"two", b"three"])
    content = path.read_bytes()
    messages = []
    for end in range(500):
        path.write_bytes(content[:end])
        with pytest.raises(ts.UserError) as error:
            read_array_records(path, 3)
        messages.append(str(error.value))
    # Six chunks end here: none, the signature, three records, and the index without its pointer.
    assert sum(" and 3 are announced" in message for message in messages) == 6
    for end in (0, 64, 130):  # no chunk, the signature, one record without an index
        path.write_bytes(content[:end])
        with pytest.raises(ts.UserError, match="has 0 records and 0 are announced, or no index"):
            read_array_records(path, 0)


def test_files_in_the_data_dir_itself_are_used(tmp_path):
    write_idx(tmp_path, gz=True)
    files = [f"{name}.gz" for names in NAMES.values() for name in names]
    assert prepare.manual_folder(tmp_path, files) == tmp_path
    assert prepare.manual_folder(tmp_path, [*files, "other.gz"]) == tmp_path / "downloads/manual"


def test_files_with_wrong_checksums_are_refused(tmp_path):
    (tmp_path / "downloads" / "manual").mkdir(parents=True)
    write_idx(tmp_path / "downloads" / "manual", gz=True)
    with pytest.raises(ts.UserError, match="wrong checksum"):
        ts.load("mnist", data_dir=tmp_path)
    assert not (tmp_path / "mnist" / "3.0.1").exists()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_without_a_network_the_alternatives_are_named(name, tmp_path):
    with pytest.raises(ts.UserError, match=r"cannot be reached.*--data-dir, or use idx:DIR"):
        prepare.read(name, tmp_path, reachable=is_unreachable)
    assert not any(tmp_path.iterdir())


def test_an_unreachable_host_is_noticed_in_seconds():
    # Nothing answers in 192.0.2.0/24, which is reserved for documentation.
    assert not prepare.is_reachable("http://192.0.2.1/file", seconds=0.2)


def test_a_missing_tensorflow_is_reported_with_the_remedy(tmp_path):
    class Builder:
        url_infos = {}

        def download_and_prepare(self, download_config):
            try:
                raise ModuleNotFoundError("No module named 'tensorflow'")
            except ModuleNotFoundError as error:
                raise RuntimeError("Error while extracting") from error

    with pytest.raises(ts.UserError, match="pip install tensorflow"):
        prepare.prepare(Builder(), "cifar10", tmp_path, is_unreachable)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar11", "has no data set 'cifar11'.*did you mean"),
        ("imdb_reviews", "not an image-classification data set.*its features are label, text"),
        ("mnist/nothing", "cannot open 'mnist/nothing'"),
    ],
)
def test_unusable_names_are_refused(name, expected, tmp_path):
    with pytest.raises(ts.UserError, match=expected):
        ts.load(f"tfds:{name}", data_dir=tmp_path)


# Each case changes one file of a valid folder, as a stranger might.
CHANGES = {
    "other kind": ("features.json", "ClassLabel", "Text", "not an image-classification"),
    "five channels": ("features.json", '"1"]', '"5"]', "with 1 to 4 channels"),
    "no number": ("features.json", '"5"', '"x"', "cannot read .*features.json: .*dimensions"),
    "many classes": ("features.json", '"numClasses": "3"', '"numClasses": "9999"', "9,999 classes"),
    "other format": ("dataset_info.json", '"tfrecord"', '"parquet"', "is prepared as 'parquet'"),
    "no train": ("dataset_info.json", '"name": "train"', '"name": "all"', "no split called train"),
    "no shard": ("dataset_info.json", '["1"]', '["0"]', "train split of .* is empty"),
    "too few records": ("dataset_info.json", '["1"]', '["2"]', "1 records, but 2 are announced"),
    "class names": ("label.labels.txt", "two", "one", "2 different names"),
    "old version": ("features.json", "featuresDict", "features", "in the format of TFDS 4.5"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_wrong_description_gets_one_message(name, tmp_path):
    file, before, after, expected = CHANGES[name]
    folder = write_prepared(tmp_path / "tiny")
    text = (folder / file).read_text()
    assert before in text
    (folder / file).write_text(text.replace(before, after))
    with pytest.raises(ts.UserError, match=expected) as error:
        read_prepared(folder, "tiny")
    assert "\n" not in str(error.value)


def test_pipes_are_not_waited_for(tmp_path):
    for file in ("dataset_info.json", "features.json", "label.labels.txt"):
        folder = write_prepared(tmp_path / file)
        (folder / file).unlink()
        os.mkfifo(folder / file)
        with pytest.raises(ts.UserError, match=f"{file}: it is a pipe"):
            read_prepared(folder, "tiny")


def test_pipes_that_tfds_would_open_are_not_waited_for(tmp_path):
    config = tmp_path / "tiny" / ".config"
    config.mkdir(parents=True)
    os.mkfifo(config / "metadata.json")
    for name in ("tiny", "tiny:1.0.0"):
        with pytest.raises(ts.UserError, match=r"metadata.json: it is a pipe"):
            ts.load(f"tfds:{name}", data_dir=tmp_path)
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for path in (manual / "train-images-idx3-ubyte.gz", tmp_path / "downloads" / "a.INFO.json"):
        os.mkfifo(path)
        with pytest.raises(ts.UserError, match=rf"{path.name}: it is a pipe"):
            ts.load("mnist", data_dir=tmp_path)
        path.unlink()


def test_no_file_outside_of_a_prepared_folder_is_read(tmp_path):
    outside = write_prepared(tmp_path / "outside") / "tiny-train.tfrecord-00000-of-00001"
    for template in (str(outside), f"../outside/{outside.name}", "{SPLIT.__class__}", "a\0b"):
        folder = write_prepared(
            tmp_path / "inside",
            change=lambda info, split, name=template: split.update(filepathTemplate=name),
        )
        with pytest.raises(ts.UserError, match="outside of its folder|lacks the file"):
            read_prepared(folder, "tiny")


def test_no_module_that_a_prepared_folder_names_is_imported(tmp_path, canary):
    folder = write_prepared(tmp_path / "tiny" / "1.0.0")
    path = folder / "features.json"
    valid = json.loads(path.read_text())
    egg = {"pythonClassName": "cuckoo.Egg", "jsonFeature": {"json": "{}"}}
    legacy = {"type": "cuckoo.Egg", "content": {}}
    inner = valid["featuresDict"]["features"]
    eggs = [egg, legacy, {**valid, "pythonClassName": "cuckoo.Egg"}]
    for name in ("image", "label"):
        eggs.append({**valid, "featuresDict": {"features": {**inner, name: egg}}})
    for values in eggs:
        path.write_text(json.dumps(values))
        with pytest.raises(ts.UserError):
            ts.load("tfds:tiny", data_dir=tmp_path)
    # A feature that nobody uses is ignored.
    path.write_text(json.dumps({**valid, "featuresDict": {"features": {**inner, "more": egg}}}))
    assert len(read_prepared(folder, "tiny").train["label"]) == 1
    assert not canary.exists()
    # The canary works: TFDS itself imports the module.
    from tensorflow_datasets.core.features import FeatureConnector

    with pytest.raises(ValueError, match="Unrecognized FeatureConnector"):
        FeatureConnector.cls_from_name("cuckoo.Egg")
    assert canary.exists()
