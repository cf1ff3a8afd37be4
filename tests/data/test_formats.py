"""Public sets in the layouts in which people have them: what is read, and what is said."""

import gzip
import json
import struct

import numpy as np
import pytest

import twostage_jax as ts
from tests.data.builders import arrays, write_idx, write_npz, write_prepared
from tests.fuzz.samples import example, frame, png
from twostage_jax.data.dataset import make_dataset
from twostage_jax.data.sources import load_examples, load_images
from twostage_jax.data.tfds.prepared import read_prepared

IMAGE, LABEL = arrays()
TEST_IMAGE, TEST_LABEL = arrays(9, seed=1)
TYPES = {"u1": 8, "i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}


def idx_file(array, kind="u1"):
    head = bytes([0, 0, TYPES[kind], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(kind).tobytes()


def same_images(dataset, image=IMAGE, label=LABEL):
    """True if all splits together have exactly these examples."""
    found = sorted(
        (x.tobytes(), int(y))
        for split in dataset.splits.values()
        for x, y in zip(split["image"], split["label"], strict=True)
    )
    return found == sorted((x.tobytes(), int(y)) for x, y in zip(image, label, strict=True))


PLAIN = {
    "images, labels": {"images": IMAGE, "labels": LABEL},
    "X, y": {"X": IMAGE, "y": LABEL},
    "data, target": {"data": IMAGE, "target": LABEL},
    "without names": {"arr_0": IMAGE, "arr_1": LABEL},
    "without names, labels first": {"arr_0": LABEL[:, None], "arr_1": IMAGE},
    "scikit-learn": {"data": IMAGE.reshape(60, -1), "images": IMAGE, "target": LABEL},
}


@pytest.mark.parametrize("name", PLAIN)
def test_arrays_of_one_split_are_found_by_name_or_shape(name, tmp_path):
    dataset = ts.load(write_npz(tmp_path / "a.npz", **PLAIN[name]))
    assert same_images(dataset) and len(dataset.test["label"]) == 12
    (said,) = (note for note in dataset.notes if "test split" in note)
    assert said == "no test split: 12 examples of the train split set aside as one"


def test_medmnist_is_read_with_its_own_validation_split(tmp_path):
    parts = {}
    for seed, part in enumerate(("train", "val", "test")):
        image, label = arrays(30 + seed, seed=seed)
        parts |= {f"{part}_images": image, f"{part}_labels": label[:, None]}
    dataset = ts.load(write_npz(tmp_path / "bloodmnist.npz", **parts))
    sizes = {name: len(split["label"]) for name, split in dataset.splits.items()}
    assert sizes == {"train": 30, "validation": 31, "test": 32} and dataset.notes == ()
    np.testing.assert_array_equal(dataset.validation["image"][..., 0], parts["val_images"])


def test_four_arrays_without_names_are_train_and_test(tmp_path):
    for order in ((IMAGE, LABEL, TEST_IMAGE, TEST_LABEL), (IMAGE, TEST_IMAGE, LABEL, TEST_LABEL)):
        np.savez(tmp_path / "a.npz", *order)
        dataset = ts.load(f"npz:{tmp_path / 'a.npz'}", validation=0)
        np.testing.assert_array_equal(dataset.test["image"][..., 0], TEST_IMAGE)
        np.testing.assert_array_equal(dataset.train["label"], LABEL)


def test_every_array_that_is_not_used_is_named(tmp_path):
    spec = write_npz(
        tmp_path / "a.npz",
        image=IMAGE,
        label=LABEL,
        **{"mean": np.zeros(3), "image_path": np.array([{}], dtype=object), "\x1b[2J": LABEL},
    )
    assert "not used: \\x1b[2J, image_path, mean" in ts.load(spec).notes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"x_train": IMAGE, "y_train": LABEL, "x_test": IMAGE}, "has x_test and lacks y_test"),
        (
            {"images": IMAGE, "labels": LABEL, "val_labels": LABEL},
            "lacks val_images: add",
        ),
        ({"image": IMAGE, "label": LABEL, "x_train": IMAGE}, "both names mean the train images"),
        ({"pictures": IMAGE, "truth": LABEL}, "pictures, truth and lacks images: name the"),
        ({"class_names": LABEL}, "has the arrays class_names and lacks images"),
        ({"image": IMAGE}, "no training example whose label counts"),
        ({"arr_0": IMAGE}, "do not tell images from labels: name them image"),
        ({"arr_0": IMAGE, "arr_1": np.eye(3)[LABEL]}, "do not tell images from labels"),
        (
            {"arr_0": IMAGE[:5], "arr_1": LABEL[:5], "arr_2": IMAGE, "arr_3": LABEL},
            "do not tell images",
        ),
        ({"image": IMAGE, "label": LABEL, "weight": LABEL}, "weights other than 0 and 1"),
        ({"image": IMAGE, "label": LABEL, "weight": LABEL[:9] // 2}, "give one weight for each"),
        ({"image": IMAGE, "label": LABEL.astype(object)}, "as np.array.x, dtype=str.*unpickled"),
        ({"image": IMAGE, "label": LABEL * 1j}, "values of type complex128"),
        ({"image": IMAGE, "label": LABEL, "classes": LABEL, "class_names": LABEL}, "both class na"),
    ],
)
def test_arrays_that_are_not_certain_are_refused(values, expected, tmp_path):
    with pytest.raises(ts.UserError, match=expected) as error:
        ts.load(write_npz(tmp_path / "a.npz", **values))
    assert "\n" not in str(error.value)


def test_rows_lead_back_to_the_source_past_images_without_a_label(tmp_path):
    label = np.where(np.arange(60) % 5 == 0, -1, LABEL.astype(int) + 1)
    test_label = np.where(np.arange(9) == 4, -1, TEST_LABEL.astype(int) + 1)
    weight = np.arange(60) % 7 != 0
    values = {"x_train": IMAGE, "y_train": label, "weight_train": weight}
    spec = write_npz(tmp_path / "a.npz", **values, x_test=TEST_IMAGE, y_test=test_label)
    dataset = ts.load(spec)
    assert dataset.classes == ("1", "2", "3")
    files = {
        "train": (IMAGE, label),
        "validation": (IMAGE, label),
        "test": (TEST_IMAGE, test_label),
    }
    for name, (image, known) in files.items():
        split, row = dataset.splits[name], dataset.rows[name]
        np.testing.assert_array_equal(split["image"][..., 0], image[row])
        np.testing.assert_array_equal(split["label"] + 1, known[row])
    assert len(dataset.test["label"]) == 8
    unused = ~weight | (label == -1)
    np.testing.assert_array_equal(dataset.unlabelled["image"][..., 0], IMAGE[unused])
    assert len(dataset.train["label"]) + len(dataset.validation["label"]) == (~unused).sum()
    assert sum("without" in note or "weight 0" in note for note in dataset.notes) == 3


def test_class_names_reach_the_data_set(tmp_path):
    names = np.array(["T-shirt", "trouser", "bag"])
    spec = write_npz(tmp_path / "a.npz", image=IMAGE, label=LABEL, class_names=names)
    assert ts.load(spec).classes == tuple(names.tolist())
    text = write_npz(tmp_path / "b.npz", image=IMAGE, label=names[LABEL])
    assert ts.load(text).classes == ("T-shirt", "bag", "trouser")


def test_images_without_labels_are_a_pool(tmp_path):
    values = {"image": IMAGE, "label": LABEL, "x_unlabeled": TEST_IMAGE}
    dataset = ts.load(write_npz(tmp_path / "a.npz", **values, y_unlabeled=TEST_LABEL))
    np.testing.assert_array_equal(dataset.unlabelled["image"][..., 0], TEST_IMAGE)
    assert any("not used: labels of unlabelled images" in note for note in dataset.notes)
    assert len(load_images(write_npz(tmp_path / "b.npz", image=TEST_IMAGE))[0]) == 9


def write_files(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", "-")).write_bytes(content)
    return f"idx:{folder}"


@pytest.mark.parametrize("kind", TYPES)
def test_all_types_of_idx_files_are_read(kind, tmp_path):
    image = IMAGE / 255 if "f" in kind else IMAGE % 17 if kind == "i1" else IMAGE
    spec = write_files(
        tmp_path / "set",
        train_images_idx3_ubyte=idx_file(image, kind),
        train_labels_idx1_ubyte=idx_file(LABEL, kind),
    )
    expected = np.round(IMAGE % 17 * (255 / 16)).astype(np.uint8) if kind == "i1" else IMAGE
    assert same_images(ts.load(spec), expected)


def test_qmnist_is_read_with_the_first_column_of_its_labels(tmp_path):
    people = np.stack([LABEL, *[np.arange(60)] * 7], 1)
    spec = write_files(
        tmp_path,
        qmnist_train_images_idx3_ubyte=idx_file(IMAGE),
        qmnist_train_labels_idx2_int=idx_file(people, ">i4"),
        qmnist_test_images_idx3_ubyte=idx_file(TEST_IMAGE),
        qmnist_test_labels_idx2_int=idx_file(np.stack([TEST_LABEL] * 8, 1), ">i4"),
    )
    dataset = ts.load(spec, validation=0)
    np.testing.assert_array_equal(dataset.train["label"], LABEL)
    np.testing.assert_array_equal(dataset.test["label"], TEST_LABEL)
    assert dataset.name == "qmnist" and "the first of its 8 columns" in dataset.notes[0]
    with pytest.raises(ts.UserError, match="is not one-hot"):
        ts.load(write_files(tmp_path / "b", train_images_idx3_ubyte=idx_file(IMAGE),
                            train_labels_idx2_int=idx_file(people, ">i4")))  # fmt: skip


def test_one_of_several_sets_in_a_folder_is_chosen_by_name(tmp_path):
    for name, labels in (("emnist_letters", LABEL + 1), ("emnist_digits", LABEL)):
        spec = write_files(
            tmp_path,
            **{
                f"{name}_train_images_idx3_ubyte": idx_file(IMAGE),
                f"{name}_train_labels_idx1_ubyte": idx_file(labels),
                f"{name}_mapping.txt": b"1 65 97",
            },
        )
    with pytest.raises(ts.UserError, match=r"several sets, emnist-digits, emnist-letters: choose"):
        ts.load(spec)
    dataset = ts.load(f"{spec}/emnist-letters")
    assert dataset.name == "emnist-letters" and dataset.classes == ("1", "2", "3")
    said = " / ".join(dataset.notes)
    assert "height and width exchanged" in said and "1 to 3: numbered 0 to 2" in said
    assert "emnist-letters-mapping.txt" in said and "emnist-digits-train-images" in said
    with pytest.raises(ts.UserError, match="has the sets emnist-digits, emnist-letters"):
        ts.load(f"{spec}/letters")


def test_own_validation_files_and_copies_are_noted(tmp_path):
    write_idx(tmp_path)
    image, label = idx_file(TEST_IMAGE), idx_file(TEST_LABEL)
    copy = gzip.compress(idx_file(IMAGE))
    write_files(tmp_path, valid_images_idx3_ubyte=image, valid_labels_idx1_ubyte=label)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(copy)
    dataset = ts.load(f"idx:{tmp_path}")
    np.testing.assert_array_equal(dataset.validation["image"][..., 0], TEST_IMAGE)
    assert dataset.notes == ("not used: train-images-idx3-ubyte.gz",)


def test_the_first_bytes_say_whether_a_file_is_compressed(tmp_path):
    write_idx(tmp_path, parts=("train",))
    before = ts.load(f"idx:{tmp_path}")
    image, label = sorted(tmp_path.iterdir())
    image.rename(f"{image}.gz")
    label.write_bytes(gzip.compress(label.read_bytes()))
    after = ts.load(f"idx:{tmp_path}")
    assert after.fingerprint == before.fingerprint
    said = " / ".join(after.notes)
    assert "train-images-idx3-ubyte.gz is not compressed, although its name ends with .gz" in said
    assert "train-labels-idx1-ubyte is compressed, although its name does not end with .gz" in said


def prepared(folder, **splits):
    """A prepared folder whose splits have the labels given; returns its source."""
    records = {
        name: [example(png(x), k) for x, k in zip(arrays(len(labels))[0], labels, strict=True)]
        for name, labels in splits.items()
    }
    write_prepared(folder)
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"] = []
    for name, content in records.items():
        (folder / f"tiny-{name}.tfrecord-00000-of-00001").write_bytes(b"".join(map(frame, content)))
        info["splits"].append({"name": name, "shardLengths": [str(len(content))], "numBytes": "1"})
    path.write_text(json.dumps(info))
    return read_prepared(folder, "tiny")


def test_all_splits_of_a_prepared_folder_are_used_or_named(tmp_path):
    label = [0, 1, 2] * 4
    source = prepared(tmp_path / "a", train=label, validation=label[:6], test=label[:3], extra=[0])
    dataset = make_dataset(source)
    sizes = {name: len(split["label"]) for name, split in dataset.splits.items()}
    assert sizes == {"train": 12, "validation": 6, "test": 3}
    assert dataset.notes == ("not used: split 'extra'",) and dataset.classes[0] == "one"
    dataset = make_dataset(prepared(tmp_path / "b", train=label, validation=label[:6]))
    assert len(
        dataset.test["label"]
    ) == 6 and "validation split (6 examples) is used as test" in str(dataset.notes)
    # As STL-10 and ImageNet: a pool, and a test split whose labels are secret.
    source = prepared(tmp_path / "c", train=label, validation=label[:6], test=[-1], unlabelled=[-1])
    dataset = make_dataset(source)
    assert len(dataset.test["label"]) == 6 and len(dataset.unlabelled["image"]) == 1
    assert "the test split is not used: none of its examples has a label" in dataset.notes


def test_home_folders_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_npz(tmp_path / "a.npz", image=IMAGE, label=LABEL)
    write_idx(tmp_path)
    assert same_images(ts.load("npz:~/a.npz"))
    assert len(ts.load("idx:~").test["label"]) == 60
    folder = write_prepared(tmp_path / "data" / "tiny" / "1.0.0")
    assert folder.is_dir()
    examples = load_examples("tfds:tiny", ["one", "two", "three"], data_dir="~/data")
    assert len(examples.label) == 1
