"""The sources `digits`, `idx:` and `npz:`: valid files, and one message for each broken one."""

import gzip
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import twostage_jax as ts
from tests.data.builders import NAMES, arrays, write_idx, write_npz
from tests.fuzz.samples import idx_bytes
from twostage_jax.data import digits, idx, npz
from twostage_jax.data.sources import load_images
from twostage_jax.data.spec import absolute, check_spec

IMAGES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=4, max_side=5))
few = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_digits_are_bundled_and_scaled_to_bytes():
    dataset = ts.load("digits")
    assert dataset.image_shape == (8, 8, 1)
    counts = [len(part["label"]) for part in (dataset.train, dataset.validation, dataset.test)]
    assert counts == [1295, 143, 359]
    assert dataset.train["image"].dtype == np.uint8 and dataset.train["label"].dtype == np.int32
    assert (dataset.train["image"].min(), dataset.train["image"].max()) == (0, 255)
    assert dataset.classes == tuple("0123456789")
    assert dataset.fingerprint == ts.load("digits", validation=0).fingerprint


def test_digits_equal_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    reference = load_digits()
    source = digits.read().train
    scaled = np.round(reference.images * 255 / 16).astype(np.uint8)
    np.testing.assert_array_equal(source["image"][..., 0], scaled)
    np.testing.assert_array_equal(source["label"], reference.target)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_all_namings_of_idx_files_are_read(tmp_path, gz, dotted):
    write_idx(tmp_path, gz=gz, dotted=dotted)
    dataset = ts.load(f"idx:{tmp_path}", validation=0)
    image, label = arrays()
    np.testing.assert_array_equal(dataset.train["image"][..., 0], image)
    np.testing.assert_array_equal(dataset.train["label"], label)
    np.testing.assert_array_equal(dataset.test["image"][..., 0], arrays(seed=1)[0])
    assert dataset.image_shape == (5, 4, 1)


def test_idx_files_may_lie_beside_directories_of_their_names(tmp_path):
    write_idx(tmp_path, dotted=True)
    for name in NAMES["train"] + NAMES["test"]:  # as some archives unpack
        (tmp_path / name).mkdir()
    assert len(ts.load(f"idx:{tmp_path}", validation=0).train["label"]) == 60


def test_a_fifth_is_set_aside_if_there_is_no_test_split(tmp_path):
    dataset = ts.load(f"idx:{write_idx(tmp_path, parts=('train',))}")
    assert len(dataset.test["label"]) == 12
    np.testing.assert_array_equal(np.bincount(dataset.test["label"]), [4, 4, 4])


def test_npz_is_read_in_both_namings_and_in_floats(tmp_path):
    image, label = arrays()
    named = {"x_train": image, "y_train": label[:, None], "x_test": image[:9], "y_test": label[:9]}
    spec = write_npz(tmp_path / "keras.npz", **named)
    dataset = ts.load(spec, validation=0)
    assert (len(dataset.train["label"]), len(dataset.test["label"])) == (60, 9)
    assert len(load_images(spec)[0]) == 9
    spec = write_npz(tmp_path / "plain.npz", image=image[..., None] / 255, label=label * 1.0)
    splits = ts.load(spec).splits.values()
    everything = np.concatenate([split["image"] for split in splits])
    assert {x.tobytes() for x in everything} == {x.tobytes() for x in image}
    assert len(load_images(spec)[0]) == 60


def corrupt(name, change, parts=("train", "test")):
    def make(folder):
        write_idx(folder, parts)
        path = folder / name
        path.write_bytes(change(path.read_bytes()))
        return f"idx:{folder}"

    return make


def gzipped(change):
    def make(folder):
        write_idx(folder, gz=True)
        path = folder / "train-images-idx3-ubyte.gz"
        path.write_bytes(change(path.read_bytes()))
        return f"idx:{folder}"

    return make


def removed(name):
    def make(folder):
        write_idx(folder)
        (folder / name).unlink()
        return f"idx:{folder}"

    return make


def special(name, make_it, spec="idx:{}"):
    def make(folder):
        write_idx(folder)
        (folder / name).unlink(missing_ok=True)
        make_it(folder / name)
        return spec.format(folder)

    return make


def keras(**change):
    def make(folder):
        image, label = arrays()
        keras = {"x_train": image, "y_train": label, "x_test": image[:9], "y_test": label[:9]}
        keras.update(change)
        kept = {name: values for name, values in keras.items() if values is not None}
        return write_npz(folder / "set.npz", **kept)

    return make


def text_file(folder):
    (folder / "set.npz").write_text("not an archive")
    return f"npz:{folder / 'set.npz'}"


def single_array(folder):
    with (folder / "set.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    return f"npz:{folder / 'set.npz'}"


LABEL = arrays()[1].astype(int)
BROKEN = {
    "no directory": (lambda folder: f"idx:{folder}/nowhere", "there is no directory"),
    "no files": (lambda folder: f"idx:{folder}", "has no train-images-idx3-ubyte and no train-lab"),
    "labels missing": (removed(NAMES["test"][1]), "has no t10k-labels-idx1-ubyte"),
    "magic": (corrupt(NAMES["train"][0], lambda b: b"\x89PNG" + b[4:]), "magic number"),
    "bytes as floats": (
        corrupt(NAMES["train"][0], lambda b: b"\0\0\x0d\x03" + b[4:]),
        "announces 4800 bytes for .* and has only 1200",
    ),
    "unknown type": (corrupt(NAMES["train"][0], lambda b: b"\0\0\x0a\x03" + b[4:]), "00000a03"),
    "empty file": (corrupt(NAMES["train"][0], lambda b: b""), "starts with nothing"),
    "short header": (corrupt(NAMES["train"][0], lambda b: b[:9]), "truncated in its header"),
    "truncated": (corrupt(NAMES["train"][0], lambda b: b[:-1]), "has only 1199"),
    "too long": (corrupt(NAMES["train"][1], lambda b: b + b"1"), "has more: it is corrupted"),
    "counts": (
        corrupt(NAMES["train"][1], lambda b: idx_bytes(np.zeros(59, np.uint8))),
        "60 images, but .* has 59 labels: give one label",
    ),
    "axes": (
        corrupt(NAMES["train"][1], lambda b: idx_bytes(np.zeros((60, 2), np.uint8))),
        r"shape \(60, 2\) and is not one-hot: give one whole number",
    ),
    "corrupted gzip": (gzipped(lambda b: b[:30] + b"xxxx" + b[34:]), "cannot read"),
    "truncated gzip": (gzipped(lambda b: b[:-20]), "cannot read"),
    "several gzip streams": (gzipped(lambda b: b + b), "more data after its gzip stream.*gunzip"),
    "no gzip": (gzipped(lambda b: b"plain text"), "starts with 706c6169"),
    "no file": (lambda folder: f"npz:{folder}/no.npz", "no.npz: No such file"),
    "pipe in place of images": (special(NAMES["train"][0], os.mkfifo), "ubyte: it is a pipe"),
    "pipe in place of labels": (special(NAMES["test"][1], os.mkfifo), "ubyte: it is a pipe"),
    "device in place of labels": (
        special(NAMES["train"][1], lambda path: os.symlink("/dev/zero", path)),
        "ubyte: it is a device",
    ),
    "directory in place of labels": (special(NAMES["train"][1], os.mkdir), "has no train-labels"),
    "archive is a pipe": (special("a.npz", os.mkfifo, "npz:{}/a.npz"), "a.npz: it is a pipe"),
    "archive is a directory": (lambda folder: f"npz:{folder}", "it is a directory"),
    "archive is a device": (lambda folder: "npz:/dev/zero", "zero: it is a device"),
    "folder is a device": (lambda folder: "idx:/dev/zero", "there is no directory"),
    "no archive": (text_file, "cannot read"),
    "single array": (single_array, "holds a single array"),
    "array missing": (keras(y_test=None), "lacks y_test"),
    "objects": (keras(x_train=np.array([{}] * 60, dtype=object)), "never unpickle"),
    "floats above 1": (
        keras(x_train=np.full((60, 5, 4), 1.5), x_test=np.full((9, 5, 4), 1.5)),
        "float64 values from 1.5 to 1.5",
    ),
    "not a number": (
        keras(x_train=np.full((60, 5, 4), np.nan), x_test=np.ones((9, 5, 4))),
        "from nan to nan",
    ),
    "integers above 255": (keras(x_train=np.full((60, 5, 4), 256)), "from 256 to 256"),
    "flat images": (keras(x_train=np.zeros((60, 20), np.uint8)), r"shape \(60, 20\)"),
    "negative label": (keras(y_train=LABEL - 2), "label -2, out of range"),
    "fractional label": (keras(y_train=LABEL + 0.5), "label 0.5: labels must be whole"),
    "label not a number": (keras(y_train=np.full(60, np.nan)), "label nan"),
    "huge label": (keras(y_train=np.r_[LABEL[:-1], 10**12]), "out of range"),
    "label without class": (keras(y_train=np.r_[LABEL[:-1], 99]), "label 99, out of range"),
    "unknown label in test": (
        keras(y_test=np.r_[LABEL[:8], 7]),
        "label 7, which its train split lacks",
    ),
    "soft labels": (keras(y_train=np.eye(3)[LABEL] * 0.9), "is not one-hot"),
    "text in one split": (keras(y_train=np.array(["a"] * 60)), "is text and the labels of another"),
    "npz counts": (keras(y_train=LABEL[:-1]), "y_train has 59 labels"),
    "one class": (keras(y_train=LABEL * 0, y_test=LABEL[:9] * 0), "single class 0"),
    "empty test": (
        keras(x_test=np.zeros((0, 5, 4), np.uint8), y_test=np.zeros(0, int)),
        "test split of set is empty",
    ),
    "empty train": (
        keras(x_train=np.zeros((0, 5, 4), np.uint8), y_train=np.zeros(0, int)),
        "train split of set is empty",
    ),
    "two shapes": (keras(x_test=np.zeros((9, 5, 5), np.uint8)), r"\(5, 4, 1\) in train and"),
    "unknown": (lambda folder: "mnst", "unknown source 'mnst': did you mean 'mnist'"),
    "incomplete": (lambda folder: "idx:", "--data 'idx:' is incomplete: write idx:DIR"),
    "folder alone": (str, "unknown source '.*': write folder:/.* for a folder of images"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_gets_one_message(name, tmp_path):
    make, expected = BROKEN[name]
    with pytest.raises(ts.UserError, match=expected) as error:
        ts.load(make(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.csv", "b.npz"])
def test_a_file_alone_is_refused_with_its_form(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ts.UserError, match=f"write {name[-3:]}:/.*{name}$"):
        ts.load(str(tmp_path / name))


def test_mnist_by_idx(mnist):
    dataset = ts.load(f"idx:{mnist}")
    counts = [len(part["label"]) for part in (dataset.train, dataset.validation, dataset.test)]
    assert counts == [55_000, 5_000, 10_000]
    assert dataset.fingerprint.startswith("sha256:640864c6")


@few
@given(array=IMAGES | hnp.arrays(np.uint8, st.integers(0, 40)), packed=st.booleans())
def test_an_array_survives_an_idx_file(array, packed, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "survives"
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if packed else content)
    np.testing.assert_array_equal(idx.read_array(path), array)


@few
@given(array=IMAGES, dtype=st.sampled_from([np.uint8, np.int64, ">u2", np.float32, np.float64]))
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_array_survives_an_npz_file(save, array, dtype, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "survives.npz"
    # With a last axis of one the axes are certain, and with a white image the scale is.
    array = array.reshape(*array.shape[:2], -1, 1)
    array = np.concatenate([array, np.full_like(array[:1], 255)])
    values = array.astype(dtype) / 255 if np.dtype(dtype).kind == "f" else array
    label = np.arange(len(array))
    save(path, image=np.asfortranarray(values.astype(dtype)), label=label)
    source = npz.read(path)
    np.testing.assert_array_equal(source.train["image"], array)
    np.testing.assert_array_equal(source.train["label"], label)
    assert source.notes == ()


def test_a_large_gzip_stream_is_read_in_pieces(tmp_path):
    random = np.random.RandomState(0)
    array = random.randint(0, 256, 200_000).astype(np.uint8)  # packed into several pieces
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(idx_bytes(array)))
    np.testing.assert_array_equal(idx.read_array(path), array)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the checksum of the stream
    path.write_bytes(content)
    with pytest.raises(ts.UserError, match="cannot read"):
        idx.read_array(path)


def test_a_spec_is_checked_by_its_form():
    check_spec("tfds:mnist:3.0.1", with_data_dir=True)
    assert absolute("idx:a") == f"idx:{os.getcwd()}/a" and absolute("mnist") == "mnist"
    for spec in ("digits:", "digits:a", "tfds", "npz:"):
        with pytest.raises(ts.UserError, match="is incomplete"):
            check_spec(spec)
    for name in ("../../x", "/etc", "mnist/..", "a:b", "mnist/x=1", "a b", "é"):
        with pytest.raises(ts.UserError, match="not a valid name"):
            check_spec(f"tfds:{name}")
    with pytest.raises(ts.UserError, match="--data-dir goes with mnist"):
        ts.load("digits", data_dir="/nowhere")
