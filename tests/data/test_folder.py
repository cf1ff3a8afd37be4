"""Folders of images: layouts, other files, wrong input, and settings of reading."""

import os
import shutil
import time

import numpy as np
import pytest

import twostage_jax as ts
from tests.data.photos import folder, load, picture, refused, sizes
from twostage_jax.data.listing import find_images
from twostage_jax.data.pictures import BrokenFiles


def test_folders_of_classes_are_split_and_the_pool_is_unlabelled(tmp_path):
    folder(tmp_path, {"cat": 10, "dog": 10, "unlabeled": 4})
    dataset = load(f"folder:{tmp_path}", validation=4)
    assert sizes(dataset) == {"train": 12, "validation": 4, "test": 4, "unlabelled": 4}
    assert dataset.classes == ("cat", "dog")
    assert dataset.name == tmp_path.name and dataset.image_shape == (8, 8, 1)
    for name in ("train", "validation", "test"):
        split = dataset.splits[name]
        classes = [path.split("/")[0] for path in split["path"].tolist()]
        assert classes == [dataset.classes[k] for k in split["label"]]
        # The row is the position in the sorted list of all files.
        everything = sorted(f"{path.parent.name}/{path.name}" for path in tmp_path.rglob("*.png"))
        assert [everything[row] for row in dataset.rows[name]] == split["path"].tolist()
    assert set(dataset.unlabelled["path"]) == {f"unlabeled/00{i}.png" for i in range(4)}


@pytest.mark.parametrize("names", [("train", "validation", "test"), ("Train", "val", "testing")])
def test_folders_of_splits_are_those_splits(tmp_path, names):
    counts = {f"{split}/{k}": 3 for split in names for k in ("2", "10")}
    folder(tmp_path, {**counts, f"{names[0]}/unlabeled": 2, "extras/a": 1})
    dataset = load(f"folder:{tmp_path}")
    assert sizes(dataset) == {"train": 6, "validation": 6, "test": 6, "unlabelled": 2}
    assert dataset.classes == ("2", "10")  # numbers in their order, not that of their text
    assert any("1 images in 'extras'" in note for note in dataset.notes)


def test_a_class_may_be_called_train(tmp_path):
    folder(tmp_path, {"train": 6, "plane": 6})
    assert load(f"folder:{tmp_path}").classes == ("plane", "train")


def test_deeper_folders_belong_to_their_class(tmp_path):
    folder(tmp_path, {"cat/anna": 4, "cat/images": 3, "dog/bea": 5})
    dataset = load(f"folder:{tmp_path}", validation=0)
    assert dataset.classes == ("cat", "dog") and sum(sizes(dataset).values()) == 12


def test_a_folder_without_sub_folders_is_unlabelled(tmp_path):
    folder(tmp_path, {".": 5})
    dataset = load(f"folder:{tmp_path}", needs_labels=False)
    assert sizes(dataset)["unlabelled"] == 5 and sizes(dataset)["train"] == 0
    refused(f"folder:{tmp_path}", "give labels, .* or train stage 1 alone with twostage pretrain")


def test_unlabelled_test_images_are_not_trained_on(tmp_path):
    folder(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2, "test/unlabeled": 3})
    dataset = load(f"folder:{tmp_path}")
    assert "unlabelled" not in sizes(dataset)
    assert any("3 images of test without a class" in note for note in dataset.notes)
    folder(tmp_path, {"train/c": 2, "test/c": 2})
    dataset = load(f"folder:{tmp_path}", unlabeled_label=("c",))
    assert sizes(dataset)["unlabelled"] == 2
    assert any("validation and test, not used: 2" in note for note in dataset.notes)


def test_other_files_are_counted_and_not_read(tmp_path):
    folder(tmp_path, {"cat": 6, "dog": 6})
    picture(tmp_path / "cat" / "000_mask.png")
    picture(tmp_path / "cat" / "001-seg-2.png")
    picture(tmp_path / "dog" / "masks" / "000.png")
    picture(tmp_path / "loose.png")
    for name in (".DS_Store", "cat/._000.png", "dog/notes.txt", "dog/Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    dataset = load(f"folder:{tmp_path}")
    assert sum(sizes(dataset).values()) == 12
    text = " ".join(dataset.notes)
    for part in ("2 masks", "2 hidden", "1 .txt", "1 .db", "1 folders masks", "beside the folders"):
        assert part in text, part


def test_a_mask_without_its_image_and_a_class_called_mask_are_images(tmp_path):
    folder(tmp_path, {"mask": 5, "no_mask": 5})
    picture(tmp_path / "mask" / "death_mask.png", 99)
    dataset = load(f"folder:{tmp_path}")
    assert dataset.classes == ("mask", "no_mask") and sum(sizes(dataset).values()) == 11


def test_glob_chooses_files(tmp_path):
    folder(tmp_path, {"cat": 6, "dog": 6})
    folder(tmp_path, {"cat": 3, "dog": 3}, ending="bmp")
    assert sum(sizes(load(f"folder:{tmp_path}", glob="*.bmp")).values()) == 6
    assert sum(sizes(load(f"folder:{tmp_path}", glob="*/00[0-3].*")).values()) == 14
    refused(f"folder:{tmp_path}", r"no file matches --glob '\*.xyz'", glob="*.xyz")


def test_names_of_any_kind_are_read(tmp_path):
    names = ["a b", "ä\u0301", "[x]*?", "line\nbreak", "<script>", "=cmd()", "'quoted'", "a;b,c"]
    for index, name in enumerate(names):
        for k in range(3):
            picture(tmp_path / name / f"{name}{k}.png", 3 * index + k)
    dataset = load(f"folder:{tmp_path}", validation=0)
    assert len(dataset.classes) == len(names) and sum(sizes(dataset).values()) == 3 * len(names)
    assert all(note.isprintable() for note in dataset.notes)


def test_names_that_are_not_utf_8_are_read(tmp_path):
    folder(tmp_path, {"a": 3, "b": 3})
    os.rename(tmp_path / "a" / "000.png", os.fsencode(tmp_path / "a") + b"/\xff.png")
    dataset = load(f"folder:{tmp_path}", cache=tmp_path / "cache")
    assert sum(sizes(dataset).values()) == 6


def test_links_are_followed_once_and_loops_end(tmp_path):
    folder(tmp_path / "real", {"cat": 4, "dog": 4})
    (tmp_path / "real" / "cat" / "up").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "cat" / "self").symlink_to("self")
    (tmp_path / "data").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "real" / name)
    assert sum(sizes(load(f"folder:{tmp_path / 'real'}")).values()) == 8
    dataset = load(f"folder:{tmp_path / 'data'}")
    assert dataset.classes == ("cat", "dog")


@pytest.mark.slow
def test_200000_files_are_listed_in_time(tmp_path):
    for index in range(200_000):
        (tmp_path / f"{index}.png").touch()
    start = time.perf_counter()
    assert len(find_images(tmp_path).images) == 200_000
    assert time.perf_counter() - start < 60


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    refused(f"folder:{tmp_path}", "has no images: give a folder of PNG")
    (tmp_path / "a.txt").touch()
    refused(f"folder:{tmp_path}", "has no images, only 1 .txt: give")
    refused(f"folder:{tmp_path / 'none'}", "No such file")
    refused(f"folder:{tmp_path / 'a.txt'}", "is a file: give a folder")


def test_one_class_is_refused_with_a_hint_for_a_folder_too_many(tmp_path):
    folder(tmp_path, {"photos/cat": 4, "photos/dog": 4})
    message = refused(f"folder:{tmp_path}", "single class 'photos'")
    assert "give folder:DIR/photos" in message
    folder(tmp_path / "one", {"cat": 4})
    refused(f"folder:{tmp_path / 'one'}", "single class 'cat' in its train split")


def test_a_class_with_one_image_stays_in_train_and_is_named(tmp_path):
    folder(tmp_path, {"a": 8, "b": 8, "rare": 1})
    dataset = load(f"folder:{tmp_path}")
    assert 2 in dataset.train["label"] and 2 not in dataset.test["label"]
    assert any("no test image of class 'rare'" in note for note in dataset.notes)


def test_an_empty_class_folder_is_named(tmp_path):
    folder(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "nothing").mkdir()
    dataset = load(f"folder:{tmp_path}")
    assert dataset.classes == ("a", "b")
    assert any("'nothing'" in note for note in dataset.notes)


def test_all_broken_files_are_listed_at_once(tmp_path):
    folder(tmp_path, {"cat": 6, "dog": 6})
    (tmp_path / "cat" / "empty.png").touch()
    (tmp_path / "dog" / "text.jpg").write_text("hello")
    whole = (tmp_path / "dog" / "000.png").read_bytes()
    (tmp_path / "dog" / "cut.png").write_bytes(whole[:60])
    message = refused(f"folder:{tmp_path}", "3 of 15 images .* cannot be decoded")
    for part in (
        "cat/empty.png: it is empty",
        "dog/text.jpg: it is not",
        "dog/cut.png",
        "--skip-b",
    ):
        assert part in message
    dataset = load(f"folder:{tmp_path}", skip_broken=True)
    assert sum(sizes(dataset).values()) == 12
    assert [file.path for file in dataset.broken] == [
        "cat/empty.png",
        "dog/cut.png",
        "dog/text.jpg",
    ]
    # Its own rows, as if nothing were missing.
    rows = np.concatenate(list(dataset.rows.values()))
    assert sorted(rows) == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]


def test_a_long_list_of_broken_files_is_complete_in_the_details(tmp_path):
    folder(tmp_path, {"cat": 2, "dog": 2})
    for index in range(300):
        (tmp_path / "cat" / f"x{index}.png").touch()
    with pytest.raises(BrokenFiles) as caught:
        load(f"folder:{tmp_path}")
    assert len(caught.value.details) == 300
    for path in tmp_path.rglob("0*.png"):
        path.write_bytes(b"")
    refused(f"folder:{tmp_path}", "none of the 304 images", skip_broken=True)


def test_the_pixel_limit_is_said_and_can_be_raised(tmp_path):
    folder(tmp_path, {"cat": 3, "dog": 3})
    picture(tmp_path / "cat" / "large.png", 9, (40, 50))
    message = refused(f"folder:{tmp_path}", "the limit is 0.001", pixel_limit=0.001)
    assert "--pixel-limit" in message and "50×40" in message
    assert sum(sizes(load(f"folder:{tmp_path}", pixel_limit=0.002)).values()) == 7


def test_size_and_channels_are_chosen_from_the_images(tmp_path):
    folder(tmp_path / "small", {"a": 4, "b": 4}, size=(12, 20))
    assert load(f"folder:{tmp_path / 'small'}").image_shape == (12, 20, 1)
    folder(tmp_path / "large", {"a": 4, "b": 4}, size=(90, 120), colour=True)
    dataset = load(f"folder:{tmp_path / 'large'}")
    assert dataset.image_shape == (64, 64, 3)
    assert any("90×120, and are resized to 64×64, padded" in note for note in dataset.notes)
    assert any("--channels 1" in note for note in dataset.notes)
    folder(tmp_path / "dots", {"a": 4, "b": 4}, size=(1, 1))
    assert load(f"folder:{tmp_path / 'dots'}").image_shape == (8, 8, 1)
    mixed = folder(tmp_path / "mixed", {"a": 9, "b": 9}, size=(30, 20))
    picture(mixed / "a" / "x.png", 7, (10, 300))
    assert load(f"folder:{mixed}").image_shape == (32, 32, 1)


def test_given_size_channels_and_fit_are_used(tmp_path):
    folder(tmp_path, {"a": 4, "b": 4}, size=(12, 20), colour=True)
    given = load(f"folder:{tmp_path}", image_size="8x10", channels=1, image_fit="crop")
    assert given.image_shape == (8, 10, 1) and given.fit == "crop"
    assert load(f"folder:{tmp_path}", image_size=16).image_shape == (16, 16, 3)
    refused(f"folder:{tmp_path}", "--image-size is '8x': give a number of pixels", image_size="8x")


@pytest.mark.parametrize("bits", [12, 16])
def test_scans_that_use_a_small_part_of_16_bits_are_said(tmp_path, bits):
    from PIL import Image

    for index in range(8):
        (tmp_path / f"{index % 2}").mkdir(exist_ok=True)
        pixels = np.random.RandomState(index).randint(0, 2**bits, (8, 8)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"{index % 2}" / f"{index}.tif")
    notes = "\n".join(load(f"folder:{tmp_path}").notes)
    assert ("all images are dark, at most 16 of 255" in notes) == (bits == 12)


def test_images_with_several_pages_are_said(tmp_path):
    from PIL import Image

    folder(tmp_path, {"a": 4, "b": 4})
    pages = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 90)]
    assert "pages" not in "".join(load(f"folder:{tmp_path}").notes)
    for name in ("a/x.tif", "b/y.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    notes = "".join(load(f"folder:{tmp_path}").notes)
    assert "2 of 10 images looked at have several frames or pages" in notes


def test_grey_pictures_in_colour_files_are_grey(tmp_path):
    from PIL import Image

    for index in range(8):
        path = picture(tmp_path / f"{index % 2}" / f"{index}.png", index)
        Image.open(path).convert("RGB").save(path.with_suffix(".jpg"))
        path.unlink()
    assert load(f"folder:{tmp_path}").image_shape == (8, 8, 1)


def test_labels_that_differ_by_case_or_spaces_are_asked_about(tmp_path):
    folder(tmp_path, {"Cat": 5, "cat ": 2, "dog": 5})
    message = refused(f"folder:{tmp_path}", "differ only by case, spaces or zeros")
    assert "'Cat' (5) and 'cat ' (2)" in message and "--merge-labels" in message
    assert load(f"folder:{tmp_path}", merge_labels=True).classes == ("Cat", "dog")


def test_a_named_label_means_unlabelled(tmp_path):
    folder(tmp_path, {"cat": 5, "dog": 5, "Not sure": 3, "blurred": 2})
    dataset = load(f"folder:{tmp_path}", unlabeled_label=("not sure", "blurred"))
    assert dataset.classes == ("cat", "dog") and sizes(dataset)["unlabelled"] == 5
    refused(
        f"folder:{tmp_path}", "'horse' is not the label of any image", unlabeled_label=("horse",)
    )


def test_each_class_keeps_a_training_image(tmp_path):
    counts = {f"class {index:02d}": 1 for index in range(12)}
    root = folder(tmp_path, counts)
    refused(f"folder:{root}", "a single example of each class, so none can be set aside")
    picture(root / "class 03" / "second.png", 77)
    dataset = load(f"folder:{root}")
    assert sizes(dataset) == {"train": 12, "validation": 0, "test": 1}
    assert len(set(dataset.train["label"].tolist())) == 12


def test_more_unlabelled_images_come_from_another_source(tmp_path):
    folder(tmp_path / "labelled", {"cat": 5, "dog": 5})
    for index in range(7):
        picture(tmp_path / "all" / f"{index}.png", 50 + index, (30, 40), colour=True)
    # The labelled images are in the large folder, too, under another name.
    (tmp_path / "all" / "labelled").symlink_to(tmp_path / "labelled")
    dataset = load(f"folder:{tmp_path / 'labelled'}", unlabeled=f"folder:{tmp_path / 'all'}")
    assert sizes(dataset)["unlabelled"] == 7 and dataset.image_shape == (8, 8, 1)
    assert any("10 images are those of the source" in note for note in dataset.notes)


def test_copies_of_the_images_at_another_place_are_not_trained_on(tmp_path):
    folder(tmp_path / "labelled", {"cat": 5, "dog": 5}, size=(20, 30))
    shutil.copytree(tmp_path / "labelled", tmp_path / "copy")
    (tmp_path / "copy" / "dog" / "004.png").rename(tmp_path / "copy" / "renamed.png")
    picture(tmp_path / "copy" / "new.png", 99, (20, 30))
    for name in ("labelled", "copy"):
        (tmp_path / name / "dog" / "empty.png").touch()
    spec = f"folder:{tmp_path / 'labelled'}"
    dataset = load(spec, unlabeled=f"folder:{tmp_path / 'copy'}", skip_broken=True)
    assert [broken.path for broken in dataset.broken] == ["dog/empty.png"]
    assert dataset.unlabelled["path"].tolist() == ["new.png"]
    assert any("10 images are those of the source" in note for note in dataset.notes)
    assert not len(ts.load("digits", unlabeled="digits").unlabelled["image"])


def test_more_images_for_arrays_get_their_shape(tmp_path):
    folder(tmp_path / "more", {".": 6}, size=(20, 30), colour=True)
    dataset = load("digits", "off", unlabeled=f"folder:{tmp_path / 'more'}")
    assert dataset.unlabelled["image"].shape == (6, 8, 8, 1)
    np.savez(tmp_path / "a.npz", image=np.zeros((4, 9, 9), np.uint8), label=[0, 1, 0, 1])
    with pytest.raises(ts.UserError, match="images 9×9×1, and digits has 8×8×1"):
        ts.load("digits", unlabeled=f"npz:{tmp_path / 'a.npz'}")


def test_settings_that_do_not_fit_a_source_are_refused():
    for name, value in {"image_size": 8, "glob": "*", "path_column": "a"}.items():
        flag = name.replace("_", "-")
        with pytest.raises(ts.UserError, match=f"--{flag} goes with"):
            ts.load("digits", **{name: value})
    with pytest.raises(ts.UserError, match="no option 'image_sise': did you mean 'image_size'"):
        ts.load("digits", image_sise=8)


def test_splits_with_paths_go_through_jax(tmp_path):
    import jax

    folder(tmp_path, {"cat": 5, "dog": 5})
    dataset = load(f"folder:{tmp_path}", group_by="00[0-9]")
    shapes = jax.eval_shape(lambda split: split, dataset.train)
    assert set(shapes) == {"image", "label", "group"} and "path" in dataset.train
    few = ts.with_labels(load(f"folder:{tmp_path}", validation=0), 4)
    assert len(few.unlabelled["path"]) == len(few.unlabelled["image"]) == 4
    assert set(jax.eval_shape(lambda split: split, few.train)) == {"image", "label"}
