"""`twostage evaluate`: splits, other data, coverage, out-of-distribution sources, counted reads."""

import shutil

import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax import cli
from twostage_jax.errors import Corrupted
from twostage_jax.runs.evaluate import count_test_read, evaluate
from twostage_jax.runs.open import open_run
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.decoding import encode

QUIET = Terminal(quiet=True)


@pytest.fixture
def members(trio, tmp_path):
    return shutil.copytree(trio, tmp_path / "members")


def reads(folder):
    counts = {tiny.stored(folder, name)["test_reads"] for name in ("result.json", "manifest.json")}
    assert len(counts) == 1
    return counts.pop()


@pytest.mark.parametrize("name", ["complete", "members"])
def test_an_evaluation_equals_the_run_to_the_bit_and_is_counted(name, request):
    folder = request.getfixturevalue(name)
    record = tiny.stored(folder, "result.json")
    before = {split: predictions(folder, split) for split in ("validation", "test")}
    found = evaluate(open_run(folder), QUIET, save_predictions=True).assessment
    scores = encode(found.scores)
    assert {**scores, "reconstruction": record["test"]["reconstruction"]} == record["test"]
    assert encode(found.uncertainty) == record["uncertainty"]
    assert found.members == record["member_test"]
    assert reads(folder) == 2
    validation = evaluate(open_run(folder), QUIET, split="validation", save_predictions=True)
    assert validation.assessment.scores.nll == record["validation"]["nll"]
    # A fitted figure is not measured on the examples of its fit.
    assert validation.assessment.uncertainty.temperature is None
    assert validation.assessment.uncertainty.conformal is None
    train = evaluate(open_run(folder), QUIET, split="train").assessment.scores
    assert train.count == tiny.TRAIN
    assert reads(folder) == 2
    for split, arrays in before.items():
        for key, values in predictions(folder, split).items():
            np.testing.assert_array_equal(values, arrays[key])


def predictions(folder, split):
    with np.load(folder / f"predictions-{split}.npz") as saved:
        return dict(saved)


def test_the_command_prints_the_scores(complete, capsys):
    assert cli.main(["evaluate", str(complete), "--coverage", "0.9"]) == 0
    output = capsys.readouterr().out
    record = tiny.stored(complete, "result.json")
    assert f"{record['test']['accuracy']:.4f}" in output


def test_the_run_s_own_data_are_recognised_anywhere(complete, tmp_path):
    own = open_run(complete).config.data
    moved = tiny.write(tmp_path / "moved.npz")
    evaluate(open_run(complete), QUIET, data=moved, save_predictions=True)
    assert reads(complete) == 2
    with pytest.raises(ts.UserError, match="prediction sets are fitted on validation"):
        evaluate(open_run(complete), QUIET, data=moved, split="validation", coverage=0.9)
    # The same test split within other data is the same test.
    evaluate(open_run(complete), QUIET, data=tiny.write(tmp_path / "more.npz", more=3))
    assert reads(complete) == 3
    other = tiny.write(tmp_path / "other.npz", test_seed=2)
    found = evaluate(open_run(complete), QUIET, data=other, save_predictions=True)
    assert found.assessment.scores.count == tiny.TEST
    assert (complete / "predictions-other-test.npz").exists()
    assert reads(complete) == 3
    # The run cannot write this file again, so a corrupted one is removed.
    (complete / "predictions-other-test.npz").write_bytes(b"")
    terminal = Terminal(quiet=True)
    tiny.resume(complete, terminal)
    assert "it is removed" in terminal.notices[0]
    assert not (complete / "predictions-other-test.npz").exists()
    with pytest.raises(ts.UserError, match="in another order, so other examples would be tested"):
        evaluate(open_run(complete), QUIET, data=tiny.write(tmp_path / "turned.npz", order=-1))
    with pytest.raises(ts.UserError, match="is the run's own data: give another source to --ood"):
        evaluate(open_run(complete), QUIET, ood=own)
    with pytest.raises(ts.UserError, match="--data-dir goes with mnist and tfds:NAME"):
        evaluate(open_run(complete), QUIET, ood="digits", data_dir=tmp_path)


def test_data_that_do_not_fit_are_refused(complete, tmp_path):
    run = open_run(complete)
    arrays = {"image": np.zeros((40, 3, 3), np.uint8), "label": np.arange(40) % 2}
    np.savez(tmp_path / "small.npz", **arrays)
    for option in ("data", "ood"):
        with pytest.raises(ts.UserError, match="images 3×3×1, but .* was trained on 4×4×1"):
            evaluate(run, QUIET, **{option: f"npz:{tmp_path / 'small.npz'}"})
    arrays = {"image": np.zeros((40, 4, 4), np.uint8), "label": np.arange(40) % 4}
    np.savez(tmp_path / "many.npz", **arrays)
    with pytest.raises(ts.UserError, match="has the class '3', which the run was not trained on"):
        evaluate(run, QUIET, data=f"npz:{tmp_path / 'many.npz'}")
    with pytest.raises(ts.UserError, match="needs at least 999 validation examples"):
        evaluate(run, QUIET, coverage=0.999)
    assert reads(complete) <= 2


def test_all_examples_of_another_source_are_scored_against_the_classes_of_the_run(
    complete, tmp_path
):
    """A single class, a single image and a test split alone are sources, too."""
    run = open_run(complete)
    image = np.random.RandomState(3).randint(0, 255, (30, 4, 4)).astype(np.uint8)
    label = np.arange(30) % 3
    cases = {
        "all": {"image": image, "label": label},
        "two": {"image": image[label != 1], "label": label[label != 1]},
        "one": {"image": image[label == 2], "label": label[label == 2]},
        "single": {"image": image[:1], "label": label[:1]},
        "alone": {"x_test": image, "y_test": label},
    }
    for name, arrays in cases.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        pixels, truth = arrays.values()
        found = evaluate(
            run, QUIET, data=f"npz:{tmp_path / name}.npz", save_predictions=True
        ).assessment
        assert found.scores.count == len(truth)
        predicted = run.predictor.logits(pixels[..., None])[0].argmax(-1)
        assert found.scores.accuracy == pytest.approx((predicted == truth).mean())
        assert found.uncertainty.temperature is not None
        saved = predictions(complete, f"{name}-test")
        np.testing.assert_array_equal(saved["index"], np.arange(len(truth)))
        np.testing.assert_array_equal(saved["label"], truth)
        for count in np.bincount(truth, minlength=3):
            assert count or None in (found.scores.per_class_accuracy or [])
    assert reads(complete) == 1


def test_training_images_in_another_source_are_a_warning(complete, tmp_path, capsys):
    # With other images among them, they are not recognised as the run's own data.
    parts = [tiny.images(tiny.TRAIN + tiny.VALIDATION, 0), tiny.images(tiny.TEST, 2)]
    image, label = map(np.concatenate, zip(*parts, strict=True))
    np.savez(tmp_path / "mixed.npz", image=image, label=label)
    terminal = Terminal()
    mixed = evaluate(open_run(complete), terminal, data=f"npz:{tmp_path / 'mixed.npz'}").overlap
    assert mixed.counts == {"train": tiny.TRAIN, "validation": tiny.VALIDATION}
    assert mixed.without.count == tiny.TEST + tiny.VALIDATION
    assert f"{tiny.TRAIN} of {len(label)} images" in terminal.notices[-1]
    assert "new images    accuracy" in capsys.readouterr().out
    new = evaluate(open_run(complete), QUIET, data=tiny.write(tmp_path / "new.npz", test_seed=2))
    assert new.overlap.counts == {} and new.overlap.without is None


def test_another_source_is_scored_although_the_run_s_own_data_are_gone(tmp_path):
    own = tiny.write(tmp_path / "own.npz")
    folder = tmp_path / "run"
    tiny.run(tiny.config(own, folder))
    other = tiny.write(tmp_path / "other.npz", test_seed=2)
    (tmp_path / "own.npz").unlink()
    terminal = Terminal(quiet=True)
    found = evaluate(open_run(folder), terminal, data=other).assessment
    assert found.scores.count == tiny.TEST
    assert found.uncertainty.temperature is None
    assert "temperature and prediction sets are left out" in terminal.notices[0]
    with pytest.raises(ts.UserError, match="cannot read"):
        evaluate(open_run(folder), terminal, data=other, coverage=0.9)


def test_another_source_is_told_apart_by_every_score(members, tmp_path):
    noise = np.random.RandomState(0).randint(0, 255, (30, 4, 4)).astype(np.uint8)
    # A single class: labels of this source are ignored.
    np.savez(tmp_path / "ood.npz", image=noise, label=np.zeros(30, int))
    spec = f"npz:{tmp_path / 'ood.npz'}"
    found = evaluate(open_run(members), QUIET, ood=spec, save_predictions=True)
    assert found.detection is not None and "mahalanobis" in found.detection
    saved = np.load(members / "predictions-ood.npz")
    assert saved["inside_energy"].shape == (tiny.TEST,)
    assert saved["outside_energy"].shape == (30,)


def test_a_corrupted_count_of_reads_is_not_believed(complete, capsys):
    count_test_read(open_run(complete), QUIET)
    result = complete / "result.json"
    result.write_text(result.read_text().replace('"test_reads": 2', '"test_reads": 1'))
    with pytest.raises(Corrupted, match=r"result.json is corrupted"):
        open_run(complete)
    assert cli.main(["evaluate", str(complete)]) == 2
    assert f"repair it with twostage run --resume --out {complete}" in capsys.readouterr().err
    tiny.resume(complete)
    assert reads(complete) == 2


def test_other_images_are_read_in_the_scale_of_the_run(tmp_path, capsys):
    image, label = tiny.images(tiny.TRAIN, 0)
    image = image // 15
    np.savez(tmp_path / "a.npz", image=image, label=label)
    # The smallest run: its shapes are compiled for this test alone.
    options = {"pretrain": {"objective": "placeholder"}, "head": {"protocol": "knn"}}
    config = tiny.config(f"npz:{tmp_path / 'a.npz'}", tmp_path / "run", validation=0, **options)
    run = open_run(tiny.run(config).folder)
    dark = image.max((1, 2)) < image.max()
    np.savez(tmp_path / "dark.npz", image=image[dark], label=label[dark])
    evaluate(run, Terminal(), data=f"npz:{tmp_path / 'dark.npz'}", save_predictions=True)
    assert "in the scale of the run's own images" in " ".join(capsys.readouterr().out.split())
    with np.load(run.folder / "predictions-dark-test.npz") as saved:
        expected = run.probabilities(np.round(image[dark] * (255 / image.max())).astype(np.uint8))
        np.testing.assert_array_equal(saved["probability"], expected)
