"""Tables of images: separators, headers, columns, paths, and wrong input."""

import numpy as np
import pytest

import twostage_jax as ts
from tests.data.photos import folder, labels, load, picture, refused, rows, sizes, write
from twostage_jax.data.marks import csv_bytes


@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
@pytest.mark.parametrize("header", ["path{}label", "Image{}Class", None])
@pytest.mark.parametrize("quoted", [False, True])
def test_separators_and_headers_are_recognised(images, tmp_path, separator, header, quoted):
    quote = '"' if quoted else ""
    lines = [header.format(separator)] if header else []
    lines += [f"{quote}{p}{quote}{separator}{quote}{k}{quote}" for p, k in rows(images)]
    dataset = load(write(tmp_path / "photos" / "t.csv", lines))
    assert labels(dataset) == dict(rows(images)) and dataset.classes == ("ant", "bee")
    assert dataset.name == "t"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings_of_spreadsheets_are_read(images, tmp_path, encoding):
    lines = ["path,label", *(f"{p},{k}é" for p, k in rows(images))]
    dataset = load(write(images / "t.csv", lines, encoding))
    assert dataset.classes == ("anté", "beeé")
    assert any("Windows-1252" in note for note in dataset.notes) == (encoding == "cp1252")


def test_the_row_is_that_of_the_csv(images):
    pairs = rows(images)[::-1]
    dataset = load(write(images / "t.csv", ["path,label", *map(",".join, pairs)]))
    for name, positions in dataset.rows.items():
        paths = [pairs[row][0] for row in positions]
        assert paths == dataset.splits[name]["path"].tolist()


def test_columns_are_chosen_by_name_and_number(images):
    lines = ["nr,what,when,file", *(f"{i},{k},x,{p}" for i, (p, k) in enumerate(rows(images)))]
    spec = write(images / "t.csv", lines)
    refused(spec, "has the columns nr, what, when, file: give --label-column")
    assert labels(load(spec, label_column="what")) == dict(rows(images))
    assert labels(load(spec, label_column="2", path_column="file")) == dict(rows(images))
    refused(spec, "no column 'label': give --label-column one of nr", label_column="label")
    refused(spec, "no column '9'.* or a number from 1 to 4", path_column="9")
    refused(spec, "paths and labels come from the same column", label_column="file")


def test_columns_without_a_header_are_found_by_the_files(images):
    spec = write(images / "t.csv", [f"{k},{p}" for p, k in rows(images)])
    assert labels(load(spec)) == dict(rows(images))


def test_a_csv_without_the_columns_is_refused(images):
    spec = write(images / "t.csv", ["length,width,height", "1,2,3", "4,5,6"])
    message = refused(spec, "has the columns length, width, height")
    assert "--path-column" in message and "--image-dir" in message
    refused(write(images / "t.csv", ["path,label"]), "has no rows")
    refused(write(images / "t.csv", []), "is empty")
    refused(f"csv:{images / 'none.csv'}", "No such file")
    refused(f"csv:{images}", "it is a directory")


def test_ids_without_ending_are_found_below_the_folder(images, tmp_path):
    (images / "deep").mkdir()
    (images / "a00.png").rename(images / "deep" / "a00.png")
    ids = [*rows(images, ending=""), ("a00", "ant")]
    spec = write(tmp_path / "t.csv", ["image_id,dx", *map(",".join, dict(ids).items())])
    assert labels(load(spec, image_dir=images)) == dict(ids)
    picture(images / "other" / "a02.jpg")
    refused(spec, "'a02'.* and 2 files have it", image_dir=images / "..")


def test_paths_start_at_the_csv_or_at_image_dir(images, tmp_path):
    spec = write(tmp_path / "t.csv", map(",".join, rows(images, start="photos/")))
    assert len(labels(load(spec))) == 12
    spec = write(tmp_path / "t.csv", map(",".join, rows(images)))
    assert len(labels(load(spec, image_dir=images))) == 12
    spec = write(tmp_path / "t.csv", map(",".join, rows(images, start="photos\\")))
    assert len(labels(load(spec))) == 12
    spec = write(tmp_path / "t.csv", map(",".join, rows(images, start=f"{images}/")))
    assert len(labels(load(spec))) == 12


def test_a_path_that_leads_out_is_refused(images, tmp_path):
    (tmp_path / "sub").mkdir()
    spec = write(tmp_path / "sub" / "t.csv", map(",".join, rows(images, start="../photos/")))
    message = refused(spec, "line 1 of .* has the path '../photos/a00.png', which leads out of")
    assert "--image-dir" in message
    refused(spec, "leads out of", image_dir=tmp_path / "sub")
    assert len(labels(load(spec, image_dir=images))) == 12  # it comes back
    spec = write(tmp_path / "t.csv", map(",".join, rows(images, start="/etc/../etc/")))
    refused(spec, "leads out of", image_dir=images)
    refused(spec, "--image-dir .* is not a folder", image_dir=images / "none")


def test_rows_without_a_file_and_files_without_a_row_are_counted(images):
    pairs = rows(images)[1:]
    lines = [*map(",".join, pairs), "missing.png,ant", "gone.png,bee"]
    spec = write(images / "t.csv", ["path,label", *lines])
    dataset = load(spec)
    assert len(labels(dataset)) == 11
    text = " ".join(dataset.notes)
    assert "rows without a file: 2 ('missing.png', 'gone.png')" in text
    assert "files without a row: 1 ('a00.png')" in text
    refused(spec, "rows without a file: 2 .*--strict", strict=True)
    spec = write(images / "t.csv", ["path,label", *map(",".join, pairs)])
    refused(spec, "files without a row: 1", strict=True)
    spec = write(images / "t.csv", ["path,label", "x.png,ant", "y.png,bee"])
    refused(spec, "none of the 2 files .* exists .* 'x.png': give --image-dir")


def test_an_empty_label_and_a_named_one_are_unlabelled(images):
    pairs = rows(images)
    pairs[0] = (pairs[0][0], "")
    pairs[6] = (pairs[6][0], "Not sure")
    spec = write(images / "t.csv", ["path,label", *map(",".join, pairs)])
    dataset = load(spec, unlabeled_label=("not  sure",), validation=0)
    assert set(dataset.unlabelled["path"]) == {pairs[0][0], pairs[6][0]}


def test_a_list_of_paths_is_unlabelled(images):
    spec = write(images / "t.csv", [path for path, _ in rows(images)])
    assert sizes(load(spec, needs_labels=False))["unlabelled"] == 12
    for number in range(3):
        picture(images / f"Image {number} new.png", number)
    names = [f"Image {number} new.png" for number in range(3)]
    spaced = write(images / "spaces.csv", ["path", *names])
    assert sizes(load(spaced, needs_labels=False))["unlabelled"] == 3
    refused(spec, "only images without one")


def test_numbers_as_labels_keep_their_text(images):
    lines = [f"{p},{'10' if k == 'ant' else '2.0'}" for p, k in rows(images)]
    assert load(write(images / "t.csv", lines)).classes == ("2.0", "10")


def test_a_repeated_row_is_read_once_and_a_contradiction_refused(images):
    lines = [*map(",".join, rows(images)), "a00.png,ant"]
    dataset = load(write(images / "t.csv", lines))
    assert len(labels(dataset)) == 12 and any("repeat another row" in x for x in dataset.notes)
    spec = write(images / "t.csv", [*lines, "a00.png,bee", "b01.png,ant"])
    message = refused(spec, "line 14 gives 'a00.png' a second label \\('ant' and 'bee'\\)")
    assert "image, 2:" in message and "line 15" in message  # all of them at once


@pytest.mark.parametrize("start", [b"PK\x03\x04xx", b"\xd0\xcf\x11\xe0xx"])
def test_a_spreadsheet_is_refused_with_the_way_to_save_a_csv(tmp_path, start):
    (tmp_path / "t.xlsx").write_bytes(start)
    refused(f"csv:{tmp_path / 't.xlsx'}", "save it as CSV .File, Save as, CSV UTF-8")


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(bytes(range(256)))
    refused(f"csv:{tmp_path / 't.csv'}", "is not a text file")


def test_names_that_a_spreadsheet_would_compute_come_back(tmp_path):
    names = ["=cmd()", "-1", "+x", "@y", "'=z", "a b", 'q"q', "[1]"]
    for index, name in enumerate(names):
        picture(tmp_path / f"{name}.png", index)
    pairs = [(f"{name}.png", "=a" if index % 2 else "b") for index, name in enumerate(names)]
    content = csv_bytes(("path", "label"), pairs)
    (tmp_path / "t.csv").write_bytes(content)
    assert b"\n'=cmd().png,b" in content and b",'=a\n" in content
    dataset = load(f"csv:{tmp_path / 't.csv'}", validation=0)
    assert dataset.classes == ("=a", "b") and len(labels(dataset)) == len(names)


def test_groups_come_from_a_column(images):
    lines = ["path,label,who", *(f"{p},{k},{p[1]}" for p, k in rows(images))]
    dataset = load(write(images / "t.csv", lines), group_column="who", validation=0)
    assert dataset.groups == ("0", "1")
    train = set(dataset.train["group"])
    assert train.isdisjoint(dataset.test["group"]) and len(train) == 1
    # A pattern would replace the groups of the column.
    refused(f"csv:{images / 't.csv'}", "leave one of them out", group_column="who", group_by="x")


def test_a_pool_of_a_csv_needs_no_label_column(images, tmp_path):
    folder(tmp_path / "main", {"x": 4, "y": 4}, size=(9, 9))
    spec = write(images / "t.csv", ["a,b,c,d", *(f"{p},1,2,3" for p, _ in rows(images))])
    dataset = load(f"folder:{tmp_path / 'main'}", unlabeled=spec)
    assert sizes(dataset)["unlabelled"] == 12
    with pytest.raises(ts.UserError, match="--strict goes with csv:FILE"):
        load(f"folder:{tmp_path / 'main'}", strict=True)
    assert np.isin(dataset.unlabelled["path"], [p for p, _ in rows(images)]).all()
