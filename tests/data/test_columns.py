"""Columns of tables: splits, groups, a column for each class, and tables of other computers."""

import unicodedata

import pytest

import twostage_jax as ts
from tests.data.photos import folder, labels, load, picture, refused, rows, sizes, write
from twostage_jax.data.csv import list_rows
from twostage_jax.data.spec import Reading


def notes(dataset):
    return "\n".join(dataset.notes)


SPLITS = [("train", "val", "Test")[index % 3] for index in range(12)]


def with_splits(images, name="Split", splits=SPLITS):
    lines = [f"{p},{k},{x}" for (p, k), x in zip(rows(images), splits, strict=True)]
    return write(images / "t.csv", [f"path,label,{name}", *lines])


def test_a_column_of_splits_is_used_and_said(images):
    dataset = load(with_splits(images))
    expected = {p: x for (p, _), x in zip(rows(images), SPLITS, strict=True)}
    for name, old in {"train": "train", "validation": "val", "test": "Test"}.items():
        paths = {path for path, split in expected.items() if split == old}
        assert set(dataset.splits[name]["path"].tolist()) == paths
    assert "splits from 'Split'" in notes(dataset)
    own = load(with_splits(images), split_column="off")
    assert sizes(own) != sizes(dataset) and "not used: 'Split'" in notes(own)


def test_a_named_column_of_splits_must_have_their_names(images):
    spec = with_splits(images, "fold", ["1", *SPLITS[1:]])
    assert "not used: 'fold'" in notes(load(spec))
    refused(spec, "line 2 of .* has the split '1': give train, .*", split_column="fold")
    # Not recognised by itself either, if one cell has another word.
    assert "not used: 'split'" in notes(load(with_splits(images, "split", ["x", *SPLITS[1:]])))


def test_unlabelled_images_of_a_test_split_are_not_trained_on(images):
    lines = [f"{p},{k if i else ''},{SPLITS[i - 1]}" for i, (p, k) in enumerate(rows(images))]
    lines[1] = lines[1].replace("train", "unlabeled")
    dataset = load(write(images / "t.csv", ["path,label,split", *lines]))
    assert dataset.unlabelled["path"].tolist() == ["a02.png"]
    assert sum(sizes(dataset).values()) == 11
    assert "unlabelled images of validation and test, not used: 1" in notes(dataset)


def test_splits_are_never_taken_for_labels(images):
    spec = write(images / "t.csv", ["path,split", *(f"{p},train" for p, _ in rows(images))])
    refused(spec, "only images without one")
    assert sizes(load(spec, needs_labels=False))["unlabelled"] == 12


def test_a_pool_does_without_the_columns_of_the_source(images, tmp_path):
    spec = write(images / "t.csv", ["file,k,who", *(f"{p},{k},{p[1]}" for p, k in rows(images))])
    for index in range(3):
        picture(tmp_path / "more" / f"{index}.png", 50 + index)
    more = write(tmp_path / "more" / "t.csv", [f"{index}.png" for index in range(3)])
    columns = {"path_column": "file", "label_column": "k", "group_column": "who"}
    dataset = load(spec, unlabeled=more, **columns)
    assert sizes(dataset)["unlabelled"] == 3
    assert "no column 'who', so --group-column is ignored" in notes(dataset)
    assert "groups of validation and test may be among them" in notes(dataset)
    # Beside a folder, the columns are meant for this table.
    with pytest.raises(ts.UserError, match="t.csv has no column 'file': give --path-column"):
        load(f"folder:{folder(tmp_path / 'main', {'x': 4, 'y': 4})}", unlabeled=more, **columns)


def test_unused_columns_are_said_and_groups_are_recommended(images):
    lines = [f"{p},{k},x,{p[2]}" for p, k in rows(images)]
    dataset = load(write(images / "t.csv", ["path,label,sex,patient_id", *lines]))
    assert "not used: 'sex', 'patient_id'" in notes(dataset)
    assert "--group-column 'patient_id'" in notes(dataset)
    grouped = load(f"csv:{images / 't.csv'}", group_column="patient_id")
    assert "looks like groups" not in notes(grouped)


def test_a_column_for_each_class_is_read(images):
    lines = [f"{p[:-4]},50,{float(k == 'ant')},{float(k == 'bee')}" for p, k in rows(images)]
    spec = write(images / "t.csv", ["image,age,ant,bee", *lines])
    dataset = load(spec)
    assert {path + ".png": name for path, name in labels(dataset).items()} == dict(rows(images))
    assert "a class for each of 'ant', 'bee'" in notes(dataset)
    lines[0] = lines[0].replace("0.0", "1.0")  # two classes: no answer
    spec = write(images / "t.csv", ["image,age,ant,bee", *lines])
    refused(spec, "give --label-column")
    refused(spec, "line 2 of .* has 2 ones in the columns", label_column="ant,bee")


def test_zeros_and_ones_beside_texts_are_labels_only_if_they_are_named(images):
    lines = [f"{p},{i % 2},{1 - i % 2},{k}" for i, (p, k) in enumerate(rows(images))]
    spec = write(images / "t.csv", ["image,male,female,finding", *lines])
    refused(spec, "give --label-column")
    assert load(spec, label_column="male, female").classes == ("female", "male")
    assert load(spec, label_column="finding").classes == ("ant", "bee")
    lines = [f"{p},{i % 2},{1 - i % 2}" for i, (p, _) in enumerate(rows(images))]
    refused(write(images / "t.csv", ["image,is_train,is_test", *lines]), "give --label-column")


def test_a_column_of_measurements_is_not_taken_for_labels(tmp_path):
    names = [path.name for path in folder(tmp_path, {".": 40}).glob("*.png")]
    spec = write(
        tmp_path / "t.csv", ["path,age", *(f"{p},{i % 25}.5" for i, p in enumerate(names))]
    )
    refused(spec, "25 different values in 40 rows of column 'age'.*--label-column")
    assert len(load(spec, label_column="age").classes) == 25


@pytest.mark.parametrize("start", ["sep=;\r\n", "# exported\n# by a program\n", ""])
def test_lines_of_programs_before_the_table_are_no_rows(images, start):
    table = "\r\n".join(["Bild;Wert;Klasse", *(f"{p};1,5;{k}" for p, k in rows(images))])
    (images / "t.csv").write_bytes(f"{start}{table}".encode("utf-8-sig"))
    dataset = load(f"csv:{images / 't.csv'}", label_column="Klasse")
    assert labels(dataset) == dict(rows(images)) and "without a file" not in notes(dataset)
    refused(f"csv:{images / 't.csv'}", "has the columns Bild, Wert, Klasse: give")


def test_a_decimal_comma_is_no_separator_without_a_header(images):
    lines = [f"{p};1,5;{k}" for p, k in rows(images)]
    assert labels(load(write(images / "t.csv", lines), label_column="3")) == dict(rows(images))


@pytest.mark.parametrize("start", ["/home/anna/set/photos/", "C:\\Users\\Ann\\photos\\", "D:/x/"])
def test_whole_paths_of_another_computer_are_found_by_their_ends(images, tmp_path, start):
    spec = write(tmp_path / "t.csv", ["path,label", *map(",".join, rows(images, start=start))])
    for place in (images, tmp_path):
        if place == images or "photos" in start:
            dataset = load(spec, image_dir=place)
            assert len(labels(dataset)) == 12
            assert "paths of another computer: 12" in notes(dataset)
            # The images to predict are said in the same way.
            reading = Reading(image_dir=place)
            assert any(
                "another computer: 12" in x for x in list_rows(tmp_path / "t.csv", reading)[1]
            )


def test_names_in_other_case_are_found_and_other_endings_are_reported(images):
    pairs = [(path.upper(), label) for path, label in rows(images)]
    dataset = load(write(images / "t.csv", ["path,label", *map(",".join, pairs)]))
    assert labels(dataset) == dict(
        pairs
    ) and "differ from the files by case or accents: 12" in notes(dataset)
    spec = write(images / "t.csv", ["path,label", *map(",".join, rows(images, ending=".jpg"))])
    refused(spec, "it has 'a00.png' instead of 'a00.jpg'; correct the endings")


def test_names_with_composed_accents_are_found(tmp_path):
    names = [f"é{index}.png" for index in range(8)]
    for index, name in enumerate(names):
        picture(tmp_path / "ö" / unicodedata.normalize("NFD", name), index)
    lines = [f"ö/{name},{index % 2}" for index, name in enumerate(names)]
    assert len(labels(load(write(tmp_path / "t.csv", ["path,label", *lines])))) == 8


def test_files_without_a_row_are_offered_to_stage_1(images):
    spec = write(images / "t.csv", ["path,label", *map(",".join, rows(images)[2:10])])
    assert f"--unlabeled folder:{images} trains stage 1" in notes(load(spec))
    dataset = load(spec, unlabeled=f"folder:{images}")
    assert sizes(dataset)["unlabelled"] == 4 and "trains stage 1" not in notes(dataset)
