"""`ts.open_run`: predictions, features, reconstructions and modules of verified runs."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax.store.checksums import write_files
from twostage_jax.store.layout import MANIFEST, RESULT
from twostage_jax.store.records import manifest_bytes, read_manifest


@pytest.fixture(scope="module")
def test(data):
    return ts.load(data, tiny.VALIDATION).test


@pytest.fixture(scope="module")
def finished(done):
    return ts.open_run(str(done))


@pytest.fixture(scope="module")
def pretrained(shared, data):
    return shared("pretrained", lambda out: tiny.run(tiny.config(data, out), pretrain_only=True))


@pytest.fixture(scope="module")
def sweep(shared, data):
    """Two members at two points of stage 1 and two of stage 2: eight trials, four encoders."""
    points = {"pretrain.learning-rate": (0.01, 0.02), "head.learning-rate": (0.01, 0.1)}
    return shared("grid", lambda out: tiny.run(tiny.config(data, out, members=2, sweep=points)))


def saved(folder, name="test"):
    with np.load(folder / f"predictions-{name}.npz") as arrays:
        return dict(arrays)


def test_predictions_are_those_of_the_run(finished, done, test):
    probability = finished.probabilities(test["image"])
    np.testing.assert_array_equal(probability, saved(done)["probability"])
    predicted = finished.predict(test["image"])
    assert predicted.dtype == np.int32 and predicted.shape == (tiny.TEST,)
    assert (predicted == test["label"]).mean() == finished.result["test"]["accuracy"]
    assert finished.classes == ("0", "1", "2")
    assert finished.config.pretrain.epochs == 2


def test_every_form_of_an_image_gives_the_same_prediction(finished, test):
    image = test["image"]
    expected = finished.probabilities(image)
    torch = pytest.importorskip("torch")
    forms = {
        "floats": image / 255,
        "float32": np.float32(image) / 255,
        "float16": (image / 255).astype(np.float16),
        "bfloat16": jnp.asarray(image / 255, jnp.bfloat16),
        "int64": image.astype(np.int64),
        "one channel": image[..., 0],
        "a list": list(image),
        "jax": jnp.asarray(image),
        "torch": torch.from_numpy(image),
        "with a gradient": torch.tensor(image / 255, requires_grad=True),
        "a rounding above 1": np.float32(image) / np.float32(254.9999),
    }
    for name, images in forms.items():
        tolerance = 0.05 if "16" in name else 1e-5
        np.testing.assert_allclose(
            finished.probabilities(images), expected, atol=tolerance, err_msg=name
        )
    np.testing.assert_allclose(finished.probabilities(image[3]), expected[3:4], atol=1e-6)
    np.testing.assert_allclose(finished.probabilities(image[3, ..., 0]), expected[3:4], atol=1e-6)
    assert finished.probabilities(image[:0]).shape == (0, tiny.CLASSES)
    assert finished.predict(np.zeros((2, 4, 4), bool)).shape == (2,)


FLOATS = np.linspace(0, 1, 16).reshape(1, 4, 4, 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (FLOATS * 2 - 1, r"floats from -1 to 1: .*\(images \+ 1\) / 2"),
        (FLOATS * 255, "floats from 0 to 255: .*images / 255"),
        (FLOATS * 16, "floats from 0 to 16: .*images / 16"),
        (FLOATS - 3, "floats from -3 to -2: .*undo the normalisation"),
        (FLOATS * np.nan, "not finite"),
        (np.full((1, 4, 4, 1), np.inf), "not finite"),
        (np.full((1, 4, 4, 1), 256), "integers from 256 to 256"),
        (np.full((1, 4, 4, 1), -1), "integers from -1 to -1"),
        (np.full((1, 4, 4, 1), 16, np.uint8), "their scale is uncertain: .*images / 16"),
        (np.zeros((1, 4, 4, 1), complex), "images are complex128"),
        (np.zeros((5, 3, 4, 1)), "images are 5×3×4×1, but .* was trained on 4×4×1: give"),
        (np.zeros((5, 1, 4, 4)), "move the channels to the end"),
        (np.zeros((5, 16)), r"images.reshape\(-1, 4, 4, 1\)"),
        (np.float32(1), "images are a single number"),
        ([[1], [1, 2]], "cannot convert list to an array"),
        ({"image": FLOATS}, "give an array, for instance the entry 'image' of a split"),
        ("digit.png", "give an array"),
        (None, "give an array"),
    ],
)
def test_other_images_are_refused_in_one_sentence(finished, images, message):
    with pytest.raises(ts.UserError, match=message):
        finished.predict(images)


def test_modules_and_groups_compute_what_the_run_computes(finished, test):
    assert sorted(finished.params) == ["decoder", "encoder", "head"]
    image = ts.as_image(test["image"])
    params = finished.params
    features = finished.encoder.apply(params["encoder"], image)
    np.testing.assert_allclose(finished.features(test["image"]), features, atol=1e-5)
    assert finished.features(test["image"]).shape == (tiny.TEST, 4)
    logits = finished.head.apply(params["head"], features)
    np.testing.assert_array_equal(logits.argmax(-1), finished.predict(test["image"]))
    decoded = finished.decoder.apply(params["decoder"], features).reshape(image.shape)
    reconstruction = finished.reconstruct(test["image"])
    np.testing.assert_allclose(reconstruction, np.clip((decoded + 1) / 2, 0, 1), atol=1e-5)
    assert reconstruction.dtype == np.float32
    # A reconstruction has the scale of an input.
    assert finished.predict(reconstruction).shape == (tiny.TEST,)
    scores = ts.evaluate(ts.make_logits(finished.encoder, finished.head), params, test)
    assert float(scores["accuracy"]) == pytest.approx(finished.result["test"]["accuracy"])


def test_dark_images_of_a_source_have_features(finished):
    dark = np.full((2, 4, 4, 1), 9, np.uint8)
    with pytest.raises(ts.UserError, match="their scale is uncertain"):
        finished.features(dark)
    expected = finished.features(dark / np.float32(255))
    np.testing.assert_allclose(finished.features(dark, decoded=True), expected, atol=1e-5)


def test_members_predict_as_an_ensemble_and_have_features_each(trio, test):
    run = ts.open_run(trio)
    expected = saved(trio)["probability"].mean(0, dtype=np.float64)
    np.testing.assert_allclose(run.probabilities(test["image"]), expected, atol=1e-7)
    assert run.features(test["image"]).shape == (3, tiny.TEST, 4)
    assert run.reconstruct(test["image"]).shape == (3, tiny.TEST, 4, 4, 1)
    params = jax.tree.map(lambda leaf: leaf[1], run.params)
    second = run.encoder.apply(params["encoder"], ts.as_image(test["image"]))
    np.testing.assert_allclose(run.features(test["image"])[1], second, atol=1e-5)


def test_the_chosen_point_of_a_sweep_has_its_own_encoders_and_decoders(sweep, test):
    run = ts.open_run(sweep)
    features = run.features(test["image"])
    image = ts.as_image(test["image"])
    assert features.shape == (2, tiny.TEST, 4)
    for member in range(2):
        params = jax.tree.map(lambda leaf, row=member: leaf[row], run.params)
        np.testing.assert_allclose(
            features[member], run.encoder.apply(params["encoder"], image), atol=1e-5
        )
        decoded = run.decoder.apply(params["decoder"], features[member]).reshape(image.shape)
        np.testing.assert_allclose(
            run.reconstruct(test["image"])[member], np.clip((decoded + 1) / 2, 0, 1), atol=1e-5
        )


@pytest.mark.parametrize("name", ["pretrained", "unfinished"])
def test_stage_1_alone_has_features_and_no_head(name, request, done, test):
    run = ts.open_run(request.getfixturevalue(name))
    both = ts.open_run(done)
    np.testing.assert_allclose(run.features(test["image"]), both.features(test["image"]), atol=1e-6)
    np.testing.assert_allclose(
        run.reconstruct(test["image"]), both.reconstruct(test["image"]), atol=1e-6
    )
    assert run.head is None and sorted(run.params) == ["decoder", "encoder"]
    assert not dict(run.result)
    for method in (run.predict, run.probabilities):
        with pytest.raises(ts.UserError, match="has no head, .* twostage head --from"):
            method(test["image"])
    assert "stage 2" in repr(run)


def test_a_new_head_finds_the_decoder_of_its_encoder_s_run(done, data, tmp_path, test):
    source = shutil.copytree(done, tmp_path / "source")
    config = tiny.config(data, tmp_path / "knn", head={"protocol": "knn"})
    config = dataclasses.replace(config, encoder_run=str(source), pretrain=ts.PretrainConfig())
    tiny.run(config)
    run = ts.open_run(tmp_path / "knn")
    logits = run.head.logits(run.params["head"], run.features(test["image"]))
    np.testing.assert_array_equal(logits.argmax(-1), run.predict(test["image"]))
    assert run.reconstruct(test["image"]).shape == (tiny.TEST, 4, 4, 1)
    shutil.rmtree(source)
    alone = ts.open_run(tmp_path / "knn")
    np.testing.assert_array_equal(alone.predict(test["image"]), run.predict(test["image"]))
    assert alone.decoder is None and sorted(alone.params) == ["encoder", "head"]
    with pytest.raises(ts.UserError, match="cannot reconstruct images: its decoder is in the run"):
        alone.reconstruct(test["image"])


def test_missing_and_corrupted_runs_are_refused(copy, complete, tmp_path, monkeypatch):
    with pytest.raises(ts.UserError, match="is not a run folder"):
        ts.open_run(tmp_path)
    with pytest.raises(ts.UserError, match="the run is None: give the path of its folder"):
        ts.open_run(None)
    shutil.rmtree(copy / "pretrain")
    with pytest.raises(ts.UserError, match="has no stage pretrain"):
        ts.open_run(copy)
    monkeypatch.setenv("HOME", str(complete.parent))
    assert ts.open_run(f"~/{complete.name}").folder == complete
    newest = max((complete / "pretrain").iterdir(), key=lambda step: int(step.name))
    arrays = [path for path in (newest / "params").rglob("*") if path.is_file()]
    largest = max(arrays, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[-1] ^= 1
    largest.write_bytes(content)
    with pytest.raises(ts.UserError, match="corrupted"):
        ts.open_run(complete)


def test_a_run_of_an_older_version_opens_with_the_defaults_of_its_preset(finished, complete):
    manifest = read_manifest(complete)
    stage_1 = dict(manifest.config["pretrain"])
    for name in ("beta2", "watch"):
        del stage_1[name]
    older = dataclasses.replace(manifest, config={**manifest.config, "pretrain": stage_1})
    write_files(complete, {MANIFEST: manifest_bytes(older)})
    assert ts.open_run(complete).config == finished.config
    assert finished.config.pretrain.watch == "off"


def test_printing_takes_at_most_fifteen_lines(finished, trio, pretrained):
    result = finished.result
    for value in (finished, ts.open_run(trio), ts.open_run(pretrained), result, finished.config):
        assert 1 <= repr(value).count("\n") + 1 <= 15
        assert value._repr_html_().startswith("<table>")
    for text in (repr(finished), repr(result), finished._repr_html_()):
        assert f"accuracy {result['test']['accuracy']:.4f}" in text


def test_notebooks_escape_untrusted_names(finished):
    evil = dataclasses.replace(finished.manifest, classes=["<script>", "\x1b[2J", "c"])
    run = dataclasses.replace(finished, manifest=evil)
    assert "<script>" not in run._repr_html_() and "&lt;script&gt;" in run._repr_html_()
    assert "\x1b" not in repr(run)


def test_a_result_is_the_mapping_of_its_record(finished):
    result = finished.result
    assert result["data"]["classes"] == tiny.CLASSES
    assert set(result) == set(result.record) and result
    assert isinstance(result.folder, Path) and (result.folder / RESULT).exists()
