"""Images of folders and csv files to label, and the csv file that reads them back."""

import numpy as np
import pytest
from PIL import Image

import twostage_jax as ts
from twostage_jax.data.spec import make_reading
from twostage_jax.serve.label_file import LabelFile
from twostage_jax.serve.pool import make_pool

CLASSES = ("cat", "dog")
OPTIONS = {"image_size": "4", "cache_dir": "off"}
STRANGE = "=cmd() [a], 'b'\n<script>.png"


@pytest.fixture
def photos(tmp_path):
    """A folder with labelled and unlabelled images, and a test split of its own."""
    random = np.random.RandomState(0)
    folder = tmp_path / "photos"
    names = [f"train/{name}/{k}.png" for name in CLASSES for k in range(4)]
    names += [f"test/{name}/{k}.png" for name in CLASSES for k in range(2)]
    names += [f"unlabeled/{k}.png" for k in range(4)] + [f"unlabeled/{STRANGE}"]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(0, 256, (9, 12), np.uint8)).save(path)
    return folder


def pixels(images):
    return images.reshape(len(images), -1).astype(np.float32)


def pool_of(spec, out, **options):
    options = {**OPTIONS, **options}
    dataset = ts.load(spec, 0, needs_labels=False, **options)
    return make_pool(dataset, spec, make_reading(options), out, pixels)


def label_all(pool, out, label=1):
    file = LabelFile(out, pool.column, pool.keys, CLASSES, pool.labelled)
    for image in pool.order:
        file.record(image, label)


def test_labels_of_a_folder_are_read_back_with_those_that_it_had(photos, tmp_path):
    out = tmp_path / "labels.csv"
    pool = pool_of(f"folder:{photos}", out)
    assert sorted(pool.order) == [0, 1, 2, 3, 4]
    assert f"unlabeled/{STRANGE}" in pool.names
    label_all(pool, out)
    dataset = ts.load(f"csv:{out}", 0, **OPTIONS)
    images = len(dataset.train["label"]) + len(dataset.test["label"])
    # Eight had a label; five have one now. The test images stay out of the training.
    assert images == 13 and len(dataset.unlabelled["image"]) == 0
    paths = [*dataset.train["path"], *dataset.test["path"]]
    assert not any("test/" in path for path in paths)
    assert sum(STRANGE in path for path in paths) == 1


def test_images_without_an_answer_stay_unlabelled(photos, tmp_path):
    out = tmp_path / "labels.csv"
    pool = pool_of(f"folder:{photos}", out)
    file = LabelFile(out, pool.column, pool.keys, CLASSES, pool.labelled)
    file.record(pool.order[0], 0)
    assert len(ts.load(f"csv:{out}", 0, **OPTIONS).unlabelled["image"]) == 4


def test_files_are_shown_in_their_own_size(photos, tmp_path):
    pool = pool_of(f"folder:{photos}", tmp_path / "labels.csv")
    content, kind = pool.picture(0)
    (tmp_path / "shown").write_bytes(content)
    with Image.open(tmp_path / "shown") as image:
        assert image.size == (12, 9) and kind == "image/png"


def test_a_csv_beside_another_folder_has_absolute_paths(photos, tmp_path):
    (tmp_path / "other").mkdir()
    out = tmp_path / "other" / "labels.csv"
    pool = pool_of(f"folder:{photos}", out)
    assert all(key.startswith(f"{photos}/") for key in (*pool.keys, *pool.labelled))
    label_all(pool, out)
    assert len(ts.load(f"csv:{out}", 0, **OPTIONS).train["label"]) > 8


def test_a_table_and_a_folder_of_more_images_are_one_pool(photos, tmp_path):
    table = tmp_path / "table.csv"
    lines = [f"train/{name}/{k}.png,{name}" for name in CLASSES for k in range(3)]
    table.write_text("\n".join(["path,label", *lines, "unlabeled/0.png,", "test/cat/0.png,"]))
    options = {"image_dir": str(photos), "unlabeled": f"folder:{photos / 'unlabeled'}"}
    out = tmp_path / "labels.csv"
    pool = pool_of(f"csv:{table}", out, **options)
    # Two of the table, and the four of the folder that the table has not.
    names = ["unlabeled/0.png", "test/cat/0.png", "1.png", "2.png", "3.png", STRANGE]
    assert sorted(pool.names) == sorted(names)
    assert sorted(pool.labelled.values()) == ["cat"] * 3 + ["dog"] * 3
    label_all(pool, out)
    dataset = ts.load(f"csv:{out}", 0, **OPTIONS)
    assert len(dataset.train["label"]) + len(dataset.test["label"]) == 12


def test_a_label_that_means_none_is_no_label(photos, tmp_path):
    table = photos / "table.csv"
    lines = [f"train/{name}/{k}.png,{name}" for name in CLASSES for k in range(3)]
    table.write_text("\n".join(["path,label", *lines, "test/cat/0.png,?"]))
    pool = pool_of(f"csv:{table}", tmp_path / "labels.csv", unlabeled_label=("?",))
    assert list(pool.names) == ["test/cat/0.png"] and len(pool.labelled) == 6


def test_images_that_all_have_a_label_can_be_labelled_again(photos, tmp_path):
    out = tmp_path / "labels.csv"
    pool = pool_of(f"folder:{photos / 'train'}", out)
    assert not pool.labelled and len(pool.order) == len(pool.keys) > 5


def test_a_folder_without_any_label_can_be_labelled(photos, tmp_path):
    out = tmp_path / "labels.csv"
    pool = pool_of(f"folder:{photos / 'unlabeled'}", out)
    assert len(pool.order) == 5 and not pool.labelled
    label_all(pool, out)
    with pytest.raises(ts.UserError, match="class"):
        ts.load(f"csv:{out}", 0, **OPTIONS)


def test_paths_that_lead_out_and_back_are_read_back(photos, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    out = folder / "labels.csv"
    pool = pool_of(f"folder:{folder}/../photos", out)
    label_all(pool, out)
    assert len(ts.load("csv:labels.csv", 0, **OPTIONS).broken) == 0
    assert not any(".." in key for key in pool.keys)
