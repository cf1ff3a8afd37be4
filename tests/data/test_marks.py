import numpy as np
import pytest

from twostage_jax.data.marks import csv_bytes, read_labels
from twostage_jax.errors import UserError

ROWS = np.array([30, 10, 20])
NAMES = ("cat", "dog")


def read(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [values.tolist() for values in read_labels(path, ROWS, NAMES)]


def test_labels_come_back_in_the_order_of_the_images(tmp_path):
    written = csv_bytes(("index", "label"), [(20, "dog"), (10, ""), (30, "cat")])
    assert read(tmp_path, written) == [[0, 2], [0, 1]]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffindex;label\r\n20;dog\r\n\r\n",
        "label\tname\tindex\ndog\tx\t20\n",
        "index,label\n20,dog\n20, dog \n10\n",
    ],
)
def test_files_of_spreadsheets_are_read(tmp_path, text):
    assert read(tmp_path, text) == [[2], [1]]


def test_images_are_named_by_their_paths_too(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(csv_bytes(("path", "label"), [("=b.png", "dog"), ("a.png", "")]))
    paths = np.array(["a.png", "=b.png", "c.png"])
    assert [x.tolist() for x in read_labels(path, ROWS, NAMES, paths)] == [[1], [1]]
    # Without classes, those of the file are the classes.
    assert [x.tolist() for x in read_labels(path, ROWS, (), paths)] == [[1], [0]]
    with pytest.raises(UserError, match="path 'x.png', but no image has it"):
        path.write_text("path,label\nx.png,dog\n")
        read_labels(path, ROWS, NAMES, paths)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,label\n21,dog\n", "line 2 .* index '21', but no image has it"),
        ("index,label\n-1,dog\n", "index '-1'"),
        ("index,label\n20,bird\n", "label 'bird': give one of cat, dog"),
        ("index,label\n20,cat\n20,dog\n", "line 3 .* second label"),
        ("row,label\n20,cat\n", "has the columns row, label: give"),
        ("", "has the columns none"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)
