"""Heads that see all training images, through runs: what is shared, scored, stored and resumed."""

import shutil

import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax.runs.open import open_run

HEAD = {"protocol": "propagate", "method": "zhou", "class_sizes": "labels", "set": {"votes": 3}}


@pytest.fixture(scope="module")
def pair(done, tmp_path_factory):
    """Two members with labels of their own on one encoder."""
    out = tmp_path_factory.mktemp("pair") / "run"
    return tiny.run(ts.Config(encoder_run=str(done), out=out, labels=12, members=2, head=HEAD))


def test_members_share_the_features_and_are_scored_on_images_without_a_label(pair, data):
    record = pair.record
    assert record["head"]["settings"]["method"] == "zhou"
    assert record["head"]["settings"]["class_sizes"] == "labels"
    assert pair.params["bank"]["features"].shape == (tiny.TRAIN, 4)
    share = pair.params["head"]["share"]
    assert share.shape == (2, tiny.TRAIN, tiny.CLASSES)
    # A member gets its own twelve labels right, and they are left out of its score.
    train = ts.load(data, tiny.VALIDATION).train["label"]
    correct = (share.argmax(-1) == train).sum(1)
    accuracy = record["member_transductive"]["accuracy"]
    assert accuracy == pytest.approx((correct - 12) / (tiny.TRAIN - 12), abs=0.05)
    assert tiny.TRAIN - 24 <= record["transductive"]["count"] < tiny.TRAIN - 12


def test_an_opened_run_predicts_as_the_run_did_and_resumes_to_the_same_bits(pair, data, tmp_path):
    opened = open_run(pair.folder)
    assert ts.digest(opened.params) == ts.digest(pair.params)
    test = ts.load(data, tiny.VALIDATION).test
    accuracy = (opened.predict(test["image"]) == test["label"]).mean()
    assert accuracy == pytest.approx(pair.record["test"]["accuracy"])
    again = shutil.copytree(pair.folder, tmp_path / "again")
    (again / "result.json").unlink()
    tiny.resume(again)
    tiny.same(again, pair.folder)


def test_without_unlabelled_images_a_note_says_why_there_is_no_transductive_score(done, tmp_path):
    head = {"protocol": "propagate"}
    result = tiny.run(ts.Config(encoder_run=str(done), out=tmp_path / "run", head=head))
    assert "transductive" not in result.record
    assert "give fewer --labels" in result.record["transductive_note"]
