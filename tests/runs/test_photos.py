"""Runs on folders and tables of images: from files to a run, an evaluation and a next round."""

import csv
import dataclasses
import io

import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from tests.data.photos import folder, picture
from twostage_jax.config.studies import NextStudy, SuspectStudy
from twostage_jax.runs.evaluate import evaluate
from twostage_jax.runs.open import open_run
from twostage_jax.runs.study.start import run_study
from twostage_jax.show.terminal import Terminal

QUIET = Terminal(quiet=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("photos")


@pytest.fixture(scope="module", autouse=True)
def cache(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        yield


@pytest.fixture(scope="module")
def photos(place):
    """Three classes of 16 images 4×4, a pool of 8, and a broken file."""
    root = folder(place / "photos", {"a": 16, "b": 16, "c": 16, "unlabeled": 8}, size=(4, 4))
    (root / "b" / "broken.png").touch()
    return root


def config(photos, out, **options):
    options = {"image_size": 4, "skip_broken": True, "validation": None, **options}
    return tiny.config(f"folder:{photos}", out, **options)


@pytest.fixture(scope="module")
def finished(photos, place):
    out = place / "run"
    tiny.run(config(photos, out, group_by="[0-9]{3}"))
    return out


@pytest.fixture(scope="module")
def expected(finished):
    """The run before it is evaluated, which is counted in it."""
    return tiny.outcome(finished)


def rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_a_run_keeps_how_it_read_and_which_files_were_broken(finished, photos):
    stored = tiny.stored(finished, "config.json")
    wanted = {"image_size": "4x4", "channels": 1, "image_fit": "pad", "group_by": "[0-9]{3}"}
    assert {name: stored[name] for name in wanted} == wanted
    assert stored["data"] == f"folder:{photos}" and stored["skip_broken"] is True
    assert tiny.stored(finished, "manifest.json")["preprocessing"]["fit"] == "pad"
    (broken,) = rows(finished / "broken.csv")
    assert broken["path"] == "b/broken.png" and "0 bytes" in broken["reason"]


def test_an_evaluation_reads_the_data_as_the_run_did(finished, expected):
    run = open_run(finished)
    again = evaluate(run, QUIET)
    assert expected["result"]["test"]["count"] == 9
    assert again.assessment.scores.count == tiny.stored(finished, "result.json")["test"]["count"]


def test_own_data_with_further_images_are_recognised_and_read_as_before(photos, place):
    more = folder(place / "more", {"": 6}, size=(4, 4))
    out = place / "further"
    tiny.run(config(photos, out, unlabeled=f"folder:{more}"))
    run = open_run(out)
    scores = evaluate(run, QUIET, data=f"folder:{photos}").assessment.scores
    assert scores.count == tiny.stored(out, "result.json")["test"]["count"]


def test_another_source_is_converted_to_the_form_of_the_run(finished, expected, place):
    other = folder(place / "other", {"a": 3, "c": 2}, size=(30, 20), colour=True)
    run = open_run(finished)
    scores = evaluate(run, QUIET, data=f"folder:{other}").assessment.scores
    assert scores.count == 5
    outliers = evaluate(run, QUIET, ood=f"folder:{other}", coverage=None)
    assert outliers.detection is not None


def test_the_config_of_a_run_repeats_it(finished, expected, place):
    from twostage_jax.config.layers import from_dict

    repeated = from_dict(tiny.stored(finished, "config.json"), "config.json")
    out = place / "again"
    tiny.run(dataclasses.replace(repeated, out=out))
    assert tiny.outcome(out) == expected


def test_a_stopped_run_resumes_with_the_same_images(expected, photos, place):
    stopped = tiny.cut(config(photos, place / "stopped", group_by="[0-9]{3}"), 5)
    tiny.resume(stopped)
    assert tiny.outcome(stopped) == expected
    with pytest.raises(ts.UserError, match="resume without --channels"):
        tiny.resume(stopped, config={"channels": 3})


def test_groups_are_on_one_side(finished, photos):
    dataset = ts.load(f"folder:{photos}", skip_broken=True, group_by="[0-9]{3}")
    sides = [set(split["group"].tolist()) for split in dataset.splits.values() if "label" in split]
    assert all(sides) and sum(map(len, sides)) == len(set().union(*sides))
    held_out = sides[1] | sides[2]
    assert held_out.isdisjoint(dataset.unlabelled["group"].tolist())
    labels = tiny.stored(finished, "result.json")["data"]
    assert labels["train"] == len(dataset.train["label"])


@pytest.fixture(scope="module")
def encoder(place):
    """Run of stage 1 on a folder without any label."""
    for index in range(12):
        picture(place / "plain" / f"{index}.png", index, (4, 4))
    out = place / "encoder"
    plain = tiny.config(f"folder:{place / 'plain'}", out, image_size=4, validation=None)
    tiny.run(plain, pretrain_only=True)
    return out


def test_stage_1_needs_no_label_and_a_head_takes_its_encoder(encoder, photos, place):
    assert tiny.stored(encoder, "manifest.json")["classes"] == []
    out = place / "head"
    # Larger images are brought into the form of the encoder.
    large = folder(place / "large", {"a": 8, "b": 8}, size=(20, 10), colour=True)
    tiny.run(ts.Config(data=f"folder:{large}", out=out, encoder_run=str(encoder)))
    assert tiny.stored(out, "result.json")["data"]["classes"] == 2
    assert tiny.stored(out, "config.json")["image_size"] == "4x4"


def test_one_class_is_enough_for_stage_1(place):
    single = folder(place / "single", {"only": 9}, size=(4, 4))
    out = place / "single-run"
    tiny.run(
        tiny.config(f"folder:{single}", out, image_size=4, validation=None), pretrain_only=True
    )
    assert (out / "manifest.json").is_file()


def test_an_objective_with_labels_needs_some(place, encoder):
    plain = tiny.config(
        f"folder:{place / 'plain'}",
        place / "none",
        image_size=4,
        validation=None,
        pretrain={"objective": "supervised"},
    )
    with pytest.raises(ts.UserError, match="trains on labels, and plain has none"):
        tiny.run(plain, pretrain_only=True)


def test_what_to_label_next_is_a_csv_that_can_be_trained_on(encoder, place):
    out = place / "next"
    run_study(NextStudy(from_=encoder, budget=8, out=out), QUIET)
    table = rows(out / "next.csv")
    assert list(table[0]) == ["path", "label", "index"] and len(table) == 8
    lines = ["path,label", *(f"{row['path']},{i % 2}" for i, row in enumerate(table))]
    (place / "plain" / "labels.csv").write_text("\n".join(lines))
    dataset = ts.load(
        f"csv:{place / 'plain' / 'labels.csv'}", unlabeled=f"folder:{place / 'plain'}"
    )
    counts = {name: len(split["image"]) for name, split in dataset.splits.items()}
    assert counts["unlabelled"] == 4 and sum(counts.values()) == 12
    # A source without any label takes the labels of the next round, and their classes, from a file.
    filled = place / "filled.csv"
    filled.write_text("\n".join(lines))
    again = place / "again-next"
    options = {"strategy": "margin", "labelled": str(filled), "budget": 2}
    run_study(NextStudy(from_=encoder, out=again, **options), QUIET)
    assert {row["path"] for row in rows(again / "next.csv")}.isdisjoint(x["path"] for x in table)
    with pytest.raises(ts.UserError, match="plain has no labels, and this study needs some"):
        run_study(SuspectStudy(from_=encoder, out=place / "none"), QUIET)


def test_suspects_have_the_paths_of_their_files(finished, photos, place):
    out = place / "suspects"
    run_study(SuspectStudy(from_=finished, out=out, neighbours=3), QUIET)
    table = rows(out / "suspects.csv")
    assert list(table[0])[:2] == ["path", "label"]
    dataset = ts.load(f"folder:{photos}", skip_broken=True, group_by="[0-9]{3}")
    assert {row["path"] for row in table} == set(dataset.train["path"].tolist())
    again = ts.load(f"csv:{out / 'suspects.csv'}", image_dir=photos)
    assert again.classes == ("a", "b", "c") and np.size(again.train["label"]) > 0
