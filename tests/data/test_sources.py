"""Sources: what they give, and what each kind of broken input gets."""

import gzip
import os
import struct

import numpy as np
import pytest

import twostage_jax as ts
from twostage_jax.data.dataset import Source, duplicates, fingerprint, make_dataset
from twostage_jax.data.split import stratified

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx_bytes(array):
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def examples(count=60, classes=3, seed=0):
    random = np.random.RandomState(seed)
    image = random.randint(0, 256, (count, 5, 4)).astype(np.uint8)
    return image, (np.arange(count) % classes).astype(np.uint8)


def write_idx(folder, parts=("train", "test"), gz=False, dotted=False):
    for seed, part in enumerate(parts):
        for name, array in zip(NAMES[part], examples(seed=seed), strict=True):
            name = name.replace("-idx", ".idx") if dotted else name
            content = idx_bytes(array)
            path = folder / (f"{name}.gz" if gz else name)
            path.write_bytes(gzip.compress(content) if gz else content)
    return folder


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_digits_are_bundled_and_scaled_to_bytes():
    dataset = ts.load("digits")
    assert dataset.image_shape == (8, 8, 1)
    counts = [len(part["label"]) for part in (dataset.train, dataset.validation, dataset.test)]
    assert counts == [1295, 143, 359]
    assert dataset.train["image"].dtype == np.uint8 and dataset.train["label"].dtype == np.int32
    assert (dataset.train["image"].min(), dataset.train["image"].max()) == (0, 255)
    assert dataset.classes == tuple("0123456789")
    assert dataset.fingerprint == ts.load("digits", validation=0).fingerprint


def test_digits_are_scikit_learn_s():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    ours = ts.load("digits", validation=0)
    image = np.concatenate([ours.train["image"], ours.test["image"]])[..., 0]
    rows = {
        (x.tobytes(), y)
        for x, y in zip(
            image, np.concatenate([ours.train["label"], ours.test["label"]]), strict=True
        )
    }
    scaled = np.round(theirs.images * 255 / 16).astype(np.uint8)
    assert rows == {(x.tobytes(), y) for x, y in zip(scaled, theirs.target, strict=True)}


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_idx_in_all_namings_gives_the_same(tmp_path, gz, dotted):
    write_idx(tmp_path, gz=gz, dotted=dotted)
    dataset = ts.load(f"idx:{tmp_path}", validation=0)
    image, label = examples()
    np.testing.assert_array_equal(dataset.train["image"][..., 0], image)
    np.testing.assert_array_equal(dataset.train["label"], label)
    np.testing.assert_array_equal(dataset.test["image"][..., 0], examples(seed=1)[0])
    assert dataset.image_shape == (5, 4, 1)


def test_idx_beside_directories_of_the_same_names(tmp_path):
    write_idx(tmp_path, dotted=True)
    for name in NAMES["train"] + NAMES["test"]:  # as some archives unpack
        (tmp_path / name).mkdir()
    assert len(ts.load(f"idx:{tmp_path}", validation=0).train["label"]) == 60


def test_idx_without_a_test_part_gets_one_cut(tmp_path):
    dataset = ts.load(f"idx:{write_idx(tmp_path, parts=('train',))}")
    assert len(dataset.test["label"]) == 12
    np.testing.assert_array_equal(np.bincount(dataset.test["label"]), [4, 4, 4])


def test_npz_of_keras_and_plain_names_and_of_floats(tmp_path):
    image, label = examples()
    keras = {"x_train": image, "y_train": label[:, None], "x_test": image[:9], "y_test": label[:9]}
    one = ts.load(write_npz(tmp_path / "keras.npz", **keras), validation=0)
    assert (len(one.train["label"]), len(one.test["label"])) == (60, 9)
    two = ts.load(
        write_npz(tmp_path / "plain.npz", image=image[..., None] / 255, label=label * 1.0)
    )
    everything = np.concatenate([two.train["image"], two.validation["image"], two.test["image"]])
    assert {x.tobytes() for x in everything} == {x.tobytes() for x in image}


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


def arrays(**change):
    def make(folder):
        image, label = examples()
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


LABEL = examples()[1].astype(int)
BROKEN = {
    "no directory": (lambda folder: f"idx:{folder}/nowhere", "there is no directory"),
    "no files": (lambda folder: f"idx:{folder}", "has no train-images-idx3-ubyte and no train-lab"),
    "labels missing": (removed(NAMES["test"][1]), "has no t10k-labels-idx1-ubyte"),
    "magic": (corrupt(NAMES["train"][0], lambda b: b"\x89PNG" + b[4:]), "magic number"),
    "floats in idx": (corrupt(NAMES["train"][0], lambda b: b"\0\0\x0d\x03" + b[4:]), "00000d03"),
    "empty file": (corrupt(NAMES["train"][0], lambda b: b""), "starts with nothing"),
    "short header": (corrupt(NAMES["train"][0], lambda b: b[:9]), "truncated in its header"),
    "truncated": (corrupt(NAMES["train"][0], lambda b: b[:-1]), "holds only 1199"),
    "too long": (corrupt(NAMES["train"][1], lambda b: b + b"1"), "holds more"),
    "counts": (
        corrupt(NAMES["train"][1], lambda b: idx_bytes(np.zeros(59, np.uint8))),
        "60 images and 59 labels",
    ),
    "axes": (
        corrupt(NAMES["train"][1], lambda b: idx_bytes(np.zeros((60, 1), np.uint8))),
        "2 of labels",
    ),
    "broken gzip": (gzipped(lambda b: b[:30] + b"xxxx" + b[34:]), "cannot read"),
    "truncated gzip": (gzipped(lambda b: b[:-20]), "cannot read"),
    "no gzip": (gzipped(lambda b: b"plain text"), "Not a gzipped file"),
    "no file": (lambda folder: f"npz:{folder}/no.npz", "there is no file"),
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
    "array missing": (arrays(y_test=None), "lacks y_test"),
    "objects": (arrays(x_train=np.array([{}] * 60, dtype=object)), "never unpickle"),
    "floats above 1": (arrays(x_train=np.full((60, 5, 4), 1.5)), "floats from 1.5 to 1.5"),
    "not a number": (arrays(x_train=np.full((60, 5, 4), np.nan)), "floats must lie in 0 to 1"),
    "integers above 255": (arrays(x_train=np.full((60, 5, 4), 256)), "from 256 to 256"),
    "flat images": (arrays(x_train=np.zeros((60, 20), np.uint8)), r"shape \(60, 20\)"),
    "negative label": (arrays(y_train=LABEL - 1), "label -1, out of range"),
    "fractional label": (arrays(y_train=LABEL + 0.5), "label 0.5: labels must be whole"),
    "label not a number": (arrays(y_train=np.full(60, np.nan)), "label nan"),
    "huge label": (arrays(y_train=np.r_[LABEL[:-1], 10**12]), "out of range"),
    "stray label": (arrays(y_train=np.r_[LABEL[:-1], 99]), "label 99, out of range"),
    "stranger in test": (arrays(y_test=np.r_[LABEL[:8], 7]), "label 7, which its train part lacks"),
    "one-hot labels": (arrays(y_train=np.eye(3)[LABEL]), "one whole number for each example"),
    "text labels": (arrays(y_train=np.array(["a"] * 60)), "one whole number for each example"),
    "npz counts": (arrays(y_train=LABEL[:-1]), "has 60 examples and .* has 59"),
    "one class": (arrays(y_train=LABEL * 0, y_test=LABEL[:9] * 0), "single class 0"),
    "empty test": (
        arrays(x_test=np.zeros((0, 5, 4), np.uint8), y_test=np.zeros(0, int)),
        "test part of set is empty",
    ),
    "empty train": (
        arrays(x_train=np.zeros((0, 5, 4), np.uint8), y_train=np.zeros(0, int)),
        "train part of set is empty",
    ),
    "two shapes": (arrays(x_test=np.zeros((9, 5, 5), np.uint8)), r"\(5, 4, 1\) in train and"),
    "unknown": (lambda folder: "mnst", "unknown source 'mnst': did you mean 'mnist'"),
    "incomplete": (lambda folder: "idx:", "write idx:DIR"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_gets_one_sentence(name, tmp_path):
    make, expected = BROKEN[name]
    with pytest.raises(ts.UserError, match=expected) as error:
        ts.load(make(tmp_path))
    assert "\n" not in str(error.value)


def test_more_validation_than_examples_is_refused():
    with pytest.raises(ts.UserError, match="--validation 0.1 does not fit"):
        ts.load("digits", validation=0.1)  # pyright: ignore
    with pytest.raises(ts.UserError, match="give a number from 0 to 1437"):
        ts.load("digits", validation=1438)


def test_validation_is_stratified_deterministic_and_disjoint():
    label = np.repeat(np.arange(4), [100, 50, 30, 1])
    chosen = stratified(label, 18)
    np.testing.assert_array_equal(chosen, stratified(label, 18))
    np.testing.assert_array_equal(np.bincount(label[chosen], minlength=4), [10, 5, 3, 0])
    assert len(np.unique(chosen)) == 18
    # Drawn from the whole of a class, not off its beginning.
    assert chosen[9] >= 20 and chosen[9] < 100


@pytest.mark.parametrize("count", [0, 1, 17, 177, 178, 180, 181])
def test_stratified_takes_as_many_as_asked(count):
    label = np.repeat(np.arange(4), [100, 50, 30, 1])
    assert len(stratified(label, count)) == count


def test_the_default_validation_is_a_tenth_and_at_most_5000():
    label = np.arange(70_000, dtype=np.int32) % 10
    image = np.zeros((70_000, 1, 1, 1), np.uint8)
    train = {"image": image[:60_000], "label": label[:60_000]}
    test = {"image": image[60_000:], "label": label[60_000:]}
    dataset = make_dataset(Source("many", train, test))
    assert len(dataset.validation["label"]) == 5000
    np.testing.assert_array_equal(np.bincount(dataset.validation["label"]), [500] * 10)


def test_the_fingerprint_sees_content_and_not_order():
    image, label = examples()
    part = {"image": image, "label": label}
    order = np.random.RandomState(0).permutation(60)
    assert fingerprint([part]) == fingerprint([{"image": image[order], "label": label[order]}])
    changed = image.copy()
    changed[3, 2, 1] ^= 1
    swapped = label.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    others = [
        [{"image": changed, "label": label}],
        [{"image": image, "label": swapped}],
        [part, part],
        [{"image": image.reshape(60, 4, 5), "label": label}],
    ]
    assert len({fingerprint(parts) for parts in [[part], *others]}) == 5


def test_duplicates_across_parts_are_counted(tmp_path):
    image, label = examples()
    spec = write_npz(
        tmp_path / "set.npz", x_train=image, y_train=label, x_test=image[:7], y_test=label[:7]
    )
    assert duplicates(ts.load(spec, validation=0))["train and test"] == 7
    assert sum(duplicates(ts.load("digits")).values()) == 0


def test_mnist_by_idx(mnist):
    dataset = ts.load(f"idx:{mnist}")
    counts = [len(part["label"]) for part in (dataset.train, dataset.validation, dataset.test)]
    assert counts == [55_000, 5_000, 10_000]
    assert dataset.fingerprint.startswith("sha256:640864c6")
