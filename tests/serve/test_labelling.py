"""Labels by keyboard: order of the images, the way back, and the csv file."""

import csv
import os

import numpy as np
import pytest

from tests.serve.conftest import PORT, make_client
from twostage_jax.data.marks import read_labels
from twostage_jax.data.spec import READING
from twostage_jax.errors import UserError
from twostage_jax.serve import label_file
from twostage_jax.serve.app import make_app
from twostage_jax.serve.label_file import LabelFile
from twostage_jax.serve.labelling import Labelling, WrongImage, keys_for
from twostage_jax.serve.pool import ORDER_LIMIT, Pool, find_order, make_pool

CLASSES = ("cat", "dog")
KEYS = ["3", "5", "8", "9"]
ORDER = [2, 0, 3, 1]


def start(path, known=None):
    """The state as the command makes it, from the file if there is one."""
    pool = Pool("index", KEYS, [f"no. {key}" for key in KEYS], str, ORDER, known or {})
    return Labelling(pool, CLASSES, LabelFile(path, "index", KEYS, CLASSES, pool.labelled))


def press(labelling, action, label=None):
    image = labelling.state()["image"]
    index = None if image is None else image["index"]
    return labelling.answer({"action": action, "label": label, "image": index})


def rows(path):
    with path.open(newline="") as file:
        return {row["index"]: (row["label"], row["note"]) for row in csv.DictReader(file)}


def test_each_answer_is_in_the_file_at_once(tmp_path):
    path = tmp_path / "a.csv"
    labelling = start(path)
    assert not path.exists()
    press(labelling, "label", 1)
    assert rows(path) == {"3": ("", ""), "5": ("", ""), "8": ("dog", ""), "9": ("", "")}
    press(labelling, "unsure")
    press(labelling, "label", 0)
    expected = {"3": ("", "not sure"), "5": ("", ""), "8": ("dog", ""), "9": ("cat", "")}
    assert rows(path) == expected
    state = labelling.state()
    counts = [state[name] for name in ("labelled", "unsure", "left", "total")]
    assert counts == [2, 1, 1, 4] and state["image"]["name"] == "no. 5"


def test_the_file_is_read_back_as_labels(tmp_path):
    path = tmp_path / "a.csv"
    labelling = start(path)
    for action, label in (("label", 1), ("unsure", None), ("label", 0)):
        press(labelling, action, label)
    position, label = read_labels(path, np.array([3, 5, 8, 9]), CLASSES)
    assert (position.tolist(), label.tolist()) == ([2, 3], [1, 0])


def test_a_second_session_continues(tmp_path):
    path = tmp_path / "a.csv"
    first = start(path)
    press(first, "label", 1)
    press(first, "unsure")
    second = start(path)
    assert second.state()["image"]["index"] == ORDER[2]
    press(second, "label", 0)
    press(second, "label", 0)
    assert second.state()["image"] is None
    assert [label for label, _ in rows(path).values()] == ["", "cat", "dog", "cat"]
    # Everything is done: only undo is left.
    assert press(second, "undo")["image"]["index"] == ORDER[3]


def test_undo_takes_back_everything_in_turn(tmp_path):
    path = tmp_path / "a.csv"
    labelling = start(path)
    states = []
    for action, label in (("label", 1), ("skip", None), ("unsure", None), ("skip", None)):
        states.append(labelling.state())
        press(labelling, action, label)
    while states:
        assert press(labelling, "undo") == states.pop()
    assert set(rows(path).values()) == {("", "")}
    assert press(labelling, "undo") == labelling.state()


def test_a_skipped_image_comes_again_at_the_end(tmp_path):
    labelling = start(tmp_path / "a.csv")
    press(labelling, "skip")
    shown = [press(labelling, "label", 0)["image"]["index"] for _ in range(3)]
    assert shown == [*ORDER[2:], ORDER[0]]
    assert labelling.state()["skipped"] == 1
    assert press(labelling, "label", 0)["skipped"] == 0


def test_an_answer_about_another_image_changes_nothing(tmp_path):
    labelling = start(tmp_path / "a.csv")
    press(labelling, "label", 0)
    before = labelling.state()
    # A key that was pressed twice, or a second window.
    with pytest.raises(WrongImage):
        labelling.answer({"action": "label", "label": 1, "image": ORDER[0]})
    assert labelling.state() == before


@pytest.mark.parametrize(
    "change",
    [
        None,
        [],
        {"action": "quit", "image": 2},
        {"action": "label", "image": 2},
        {"action": "label", "label": 2, "image": 2},
        {"action": "label", "label": -1, "image": 2},
        {"action": "label", "label": True, "image": 2},
        {"action": "label", "label": "cat", "image": 2},
    ],
    ids=str,
)
def test_a_malformed_answer_is_refused(tmp_path, change):
    labelling = start(tmp_path / "a.csv")
    with pytest.raises(UserError, match="give"):
        labelling.answer(change)
    assert not (tmp_path / "a.csv").exists()


def test_a_file_that_cannot_be_written_keeps_the_state(tmp_path, monkeypatch):
    labelling = start(tmp_path / "a.csv")
    press(labelling, "label", 1)
    before = labelling.state()

    def full(path, content):
        raise UserError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(label_file, "write_bytes", full)
        with pytest.raises(UserError, match="the disk is full"):
            press(labelling, "label", 0)
    assert labelling.state() == before
    press(labelling, "label", 0)
    assert rows(tmp_path / "a.csv")["8"] == ("dog", "")


def test_a_file_that_another_program_changed_is_not_overwritten(tmp_path):
    path = tmp_path / "a.csv"
    labelling = start(path)
    press(labelling, "label", 1)
    changed = path.read_text().replace("dog", "cat")
    path.write_text(changed)
    with pytest.raises(UserError, match="changed by another program"):
        press(labelling, "label", 1)
    assert path.read_text() == changed


def test_a_file_from_a_spreadsheet_is_continued(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\ufeffindex;label;note\r\n8;dog;\r\n3;;not sure\r\n9;;\r\n")
    state = start(path).state()
    assert (state["labelled"], state["unsure"], state["left"]) == (1, 1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,cat\n", "has the columns path, label"),
        # The file is written anew, and these would be lost.
        ("index,label,note,age\n3,cat,,7\n", "has the columns index, label, note, age"),
        ("index,label,note\n3,cat,\n77,dog,\n", "1 rows of .* name no image of the source"),
        ("index,label,note\n3,bird,\n", "line 2 .* has the label 'bird': give one of cat, dog"),
        ("", "is empty"),
    ],
)
def test_a_file_for_other_images_or_classes_is_refused(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        start(path)
    assert path.read_text() == text


def test_names_that_a_spreadsheet_would_compute_are_harmless_and_read_back(tmp_path):
    path = tmp_path / "a.csv"
    keys = ["=cmd().png", "a,\n'b'.png"]
    file = LabelFile(path, "path", keys, ("=1+1", "-1"), {})
    file.record(0, 0)
    file.record(1, 1)
    assert path.read_text().splitlines()[1] == "'=cmd().png,'=1+1,"
    assert LabelFile(path, "path", keys, ("=1+1", "-1"), {}).answers == {0: 0, 1: 1}


def test_labels_that_were_there_before_stay_in_the_file(tmp_path):
    labelling = start(tmp_path / "a.csv", {"1": "cat"})
    press(labelling, "label", 1)
    assert rows(tmp_path / "a.csv")["1"] == ("cat", "")
    assert start(tmp_path / "a.csv", {"1": "cat"}).state()["labelled"] == 1


def test_the_file_is_whole_or_old_at_any_moment(tmp_path):
    labelling = start(tmp_path / "a.csv")
    press(labelling, "label", 1)
    inode = os.stat(tmp_path / "a.csv").st_ino
    press(labelling, "label", 1)
    # Another file took its place; the old one was never written to.
    assert os.stat(tmp_path / "a.csv").st_ino != inode


def test_keys_are_names_of_one_letter_or_numbers_and_letters():
    assert keys_for(tuple("0123456789")) == list("0123456789")
    assert keys_for(tuple("ABC")) == list("ABC")
    assert keys_for([f"class {k}" for k in range(36)])[8:12] == ["9", "0", "a", "b"]
    assert keys_for([f"class {k}" for k in range(37)]) == []
    # The key of "not sure" is no class.
    assert keys_for(("?", "!")) == ["1", "2"]


def test_the_images_of_arrays_come_in_the_order_of_typical_images(digits, model, tmp_path):
    out = tmp_path / "a.csv"
    pool = make_pool(digits, "digits", READING, out, lambda x: model.passes.features(x)[0])
    assert sorted(pool.order) == list(range(len(digits.train["label"])))
    assert [int(key) for key in pool.keys] == digits.rows["train"].tolist()
    # The first images have most classes, which random ones have not.
    assert len(set(digits.train["label"][pool.order[:20]])) >= 8
    content, kind = pool.picture(pool.order[0])
    assert kind == "image/png" and content.startswith(b"\x89PNG")


def test_a_very_large_pool_is_ordered_in_parts(monkeypatch):
    monkeypatch.setattr("twostage_jax.serve.pool.ORDER_LIMIT", 30)
    images = np.arange(70, dtype=np.uint8).reshape(70, 1, 1, 1)
    read = []

    def features(batch):
        read.append(len(batch))
        return batch.reshape(-1, 1).astype(np.float32)

    orders = [find_order(images, images[:3], features) for _ in range(2)]
    assert orders[0] == orders[1] and sorted(orders[0]) == list(range(70))
    assert read == [33, 33] and ORDER_LIMIT >= 10_000
    with pytest.raises(UserError, match="no images to label"):
        find_order(images[:0], images[:0], features)


def test_the_page_gets_images_and_answers_conflicts(tmp_path):
    pool = Pool("index", KEYS, KEYS, lambda index: (str(index).encode(), "image/png"), ORDER, {})
    labelling = Labelling(pool, CLASSES, LabelFile(tmp_path / "a", "index", KEYS, CLASSES, {}))
    client = make_client(make_app("a", PORT, None, labelling))
    assert client.get("/api/page").json()["label"] is True
    assert client.get("/image/3").content == b"3"
    assert client.get("/image/4").status_code == 404
    state = client.get("/api/label").json()
    answer = {"action": "label", "label": 0, "image": state["image"]["index"]}
    assert client.post("/api/label", json=answer).json()["labelled"] == 1
    conflict = client.post("/api/label", json=answer).json()
    assert "already answered" in conflict["error"] and conflict["state"]["labelled"] == 1
    assert "not JSON" in client.post("/api/label", content=b"{").json()["error"]
