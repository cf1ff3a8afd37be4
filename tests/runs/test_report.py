"""`report.html`: written by runs, rebuilt from the folder alone, and while a run trains."""

import json
import shutil

import numpy as np
import pytest

from tests import tiny
from twostage_jax.cli import main
from twostage_jax.data.npz import read_archive
from twostage_jax.runs import preview
from twostage_jax.runs.material import principal_plane
from twostage_jax.runs.open import open_run
from twostage_jax.runs.preview import read_progress
from twostage_jax.store.checksums import check, corrupted_outputs

ARRAYS = {
    "reconstruction_image", "map_point", "neighbour_image", "reliability", "mistake_image",
    "uncertain_image", "progress_image",
}  # fmt: skip
SECTIONS = (
    "result training features neighbours confusion classes calibration mistakes epochs frozen"
    " environment repeat"
).split()


def write_study(folder, encoder, complete=True, headline="With 9 labels this is the answer."):
    folder.mkdir()
    entry = {"arm": "frozen:knn", "labels": 9, "mean": 0.1, "low": 0.05, "high": 0.2}
    results = {
        "headline": headline,
        "arms": ["frozen:knn"],
        "counts": [9],
        "controls": {"frozen:knn": []},
        "selection": "nothing was chosen",
        "table": [entry],
    }
    content = {"study": "labels", "settings": {}, "encoder": encoder, "complete": complete}
    (folder / "study.json").write_text(json.dumps({**content, "results": results}))
    return folder


def encoder_of(folder):
    return tiny.stored(folder, "manifest.json")["groups"]["encoder"]["sha256"]


def test_a_run_leaves_a_page_and_its_arrays(done):
    text = (done / "report.html").read_text()
    for section in SECTIONS:
        assert f'<section id="{section}"' in text, section
    arrays = read_archive(done / "report.npz")
    assert arrays.keys() >= ARRAYS
    assert arrays["map_point"].shape == (tiny.TEST, 2)
    assert arrays["reliability"][0, :, 0].sum() == tiny.TEST
    assert str(done / "config.json") in text


def test_a_page_is_rebuilt_to_the_byte_without_the_data(complete, capsys):
    (complete / "report.html").unlink()
    assert main(["report", str(complete)]) == 0
    first = (complete / "report.html").read_bytes()
    assert f"page {complete}/report.html" in capsys.readouterr().out
    (complete / "report.html").write_bytes(b"")
    assert main(["report", str(complete)]) == 0
    assert (complete / "report.html").read_bytes() == first
    check(complete)
    assert not list(corrupted_outputs(complete))


def test_the_page_of_a_run_is_that_of_the_command(done, tmp_path):
    path = tmp_path / "page.html"
    assert main(["report", str(done), "--out", str(path)]) == 0
    assert path.read_bytes() == (done / "report.html").read_bytes()


def test_neighbours_are_those_of_the_features(done, data):
    import twostage_jax as ts

    arrays = read_archive(done / "report.npz")
    run, dataset = open_run(done), ts.load(data, tiny.VALIDATION)
    features = [run.features(split["image"]) for split in (dataset.test, dataset.train)]
    test, train = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in features)
    for query, label, near in zip(
        arrays["neighbour_image"],
        arrays["neighbour_label"],
        arrays["neighbour_near_image"],
        strict=True,
    ):
        row = next(i for i, x in enumerate(dataset.test["image"]) if (x == query).all())
        assert dataset.test["label"][row] == label
        nearest = np.argsort(-(test[row] @ train.T), kind="stable")[: len(near)]
        np.testing.assert_array_equal(dataset.train["image"][nearest], near)


def test_the_plane_is_that_of_the_largest_variances():
    random = np.random.RandomState(0)
    features = random.randn(50, 4) * [1, 5, 0.1, 3]
    points, shares = principal_plane(features)
    variances = np.linalg.svd(features - features.mean(0))[1] ** 2
    np.testing.assert_allclose(shares, variances[:2] / variances.sum())
    np.testing.assert_allclose((points**2).sum(0), variances[:2], rtol=1e-5)


def test_the_study_with_the_encoder_of_the_run_answers_first(complete, tmp_path, capsys):
    encoder = encoder_of(complete)
    write_study(tmp_path / "other", "sha256:another", headline="Another encoder.")
    write_study(tmp_path / "stopped", encoder, complete=False, headline="Not complete.")
    assert main(["report", str(complete)]) == 0
    assert 'id="study"' not in (complete / "report.html").read_text()
    study = write_study(tmp_path / "study", encoder)
    assert main(["report", str(complete)]) == 0
    text = (complete / "report.html").read_text()
    assert '<p class="answer">With 9 labels this is the answer.</p>' in text
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(study, tmp_path / "elsewhere" / "study")
    assert main(["report", str(complete), "--study", str(moved)]) == 0
    assert "this is the answer" in (complete / "report.html").read_text()
    broken = write_study(tmp_path / "broken", encoder)
    values = json.loads((broken / "study.json").read_text())
    values["results"]["table"] = [{"arm": "frozen:knn"}]
    (broken / "study.json").write_text(json.dumps(values))
    for wrong, words in (
        ("other", "used another encoder"),
        ("stopped", "not a complete study"),
        ("broken", "is corrupted"),
    ):
        assert main(["report", str(complete), "--study", str(tmp_path / wrong)]) == 2
        assert words in capsys.readouterr().err


def test_several_runs_are_compared(done, trio, tmp_path, capsys):
    path = tmp_path / "comparison.html"
    assert main(["report", str(done), str(trio), "--out", str(path)]) == 0
    output = capsys.readouterr().out
    assert done.name in output and trio.name in output
    assert "highest test accuracy of 2 runs" in path.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "report"),
        (["{done}", "{done}"], "got a run twice"),
        (["{tmp}"], "is not a run folder"),
        (["{done}", "{unfinished}"], "has no result to compare"),
        (["{done}", "{trio}", "--study", "{tmp}"], "--study goes with one run"),
        (["{done}", "--study", "{tmp}"], "is not the folder of a study"),
    ],
)
def test_mistakes_are_one_line(words, message, done, trio, unfinished, tmp_path, capsys):
    places = {"done": done, "trio": trio, "unfinished": unfinished, "tmp": tmp_path}
    assert main(["report", *(word.format(**places) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_corrupted_file_of_the_page_is_named(complete, capsys):
    (complete / "report.npz").write_bytes(b"PK\x03\x04 not an archive")
    assert main(["report", str(complete)]) == 2
    assert "report.npz" in capsys.readouterr().err
    # A run of an older version has none.
    (complete / "report.npz").unlink()
    assert main(["report", str(complete)]) == 0
    assert "has no report.npz" in capsys.readouterr().out
    assert 'id="confusion"' in (complete / "report.html").read_text()


def test_files_that_were_left_out_are_listed(complete):
    (complete / "broken.csv").write_text("path,reason\n<b>x</b>,'=cmd()\n")
    assert main(["report", str(complete)]) == 0
    text = (complete / "report.html").read_text()
    assert "1 file could not be read" in text and "&lt;b&gt;x&lt;/b&gt;" in text


def test_copies_across_splits_are_shown(tmp_path):
    image, label = tiny.images(tiny.TRAIN + tiny.VALIDATION, 0)
    test = tiny.images(tiny.TEST, 1)
    test[0][:3] = image[:3]
    path = tmp_path / "copies.npz"
    np.savez(path, x_train=image, y_train=label, x_test=test[0], y_test=test[1])
    config = tiny.config(f"npz:{path}", tmp_path / "run")
    tiny.run(config, draw=True)
    arrays = read_archive(config.out / "report.npz")
    np.testing.assert_array_equal(arrays["duplicate_image"], arrays["duplicate_copy"])
    assert len(arrays["duplicate_image"]) == 3
    text = (config.out / "report.html").read_text()
    assert "3 identical" in text and "duplicates.csv" in text


def test_the_same_images_are_predicted_after_each_epoch(done):
    lines = read_progress(done)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[0]["index"] == lines[1]["index"] and len(lines[0]["index"]) == 12
    assert lines[0]["loss"] == tiny.metrics(done)[2]["loss"]
    # The predictions after the last epoch are those of the run.
    with np.load(done / "predictions-validation.npz") as saved:
        order = saved["index"].tolist()
        rows = [order.index(index) for index in lines[-1]["index"]]
        probability = saved["probability"][rows]
        assert saved["label"][rows].tolist() == lines[-1]["label"]
    assert probability.argmax(-1).tolist() == lines[-1]["predicted"]
    np.testing.assert_allclose(probability.max(-1), lines[-1]["probability"], atol=1e-5)


def test_a_run_that_trains_has_a_page(data, tmp_path, monkeypatch):
    """Also one that is resumed, whose earlier epochs are kept once."""
    monkeypatch.setattr(preview, "BETWEEN_PAGES", 0.0)
    config = tiny.config(data, tmp_path / "run", head={"epochs": 3})
    with pytest.raises(KeyboardInterrupt):
        tiny.ts.run(
            config,
            terminal=tiny.Terminal(quiet=True),
            seams=tiny.stopped_after(4 * tiny.STEPS + 1),
        )
    text = (config.out / "report.html").read_text()
    assert "Stage 2 is in training: epoch 2 of 3, validation accuracy" in text
    assert '<section id="epochs"' in text and 'id="confusion"' not in text
    assert [line["epoch"] for line in read_progress(config.out)] == [1, 2]
    with (config.out / "progress.jsonl").open("a") as file:
        file.write('{"epoch": 3, "predic')
    changed = shutil.copytree(config.out, tmp_path / "changed")
    tiny.resume(config.out)
    assert [line["epoch"] for line in read_progress(config.out)] == [1, 2, 3]
    # A class that does not exist leaves the section out, and stops nothing.
    text = (changed / "progress.jsonl").read_text()
    (changed / "progress.jsonl").write_text(text.replace('"predicted": [', '"predicted": [9'))
    tiny.resume(changed, draw=True)
    assert "progress_image" not in read_archive(changed / "report.npz")


def test_a_pretrained_encoder_has_a_page(data, tmp_path):
    config = tiny.config(data, tmp_path / "run")
    tiny.run(config, draw=True, pretrain_only=True)
    text = (config.out / "report.html").read_text()
    assert "An encoder was pretrained (autoencoder, 2 epochs)" in text
    assert '<section id="features"' in text and 'id="calibration"' not in text
    assert main(["report", str(config.out)]) == 0
    assert (config.out / "report.html").read_text() == text
