"""Answers of the page about images, and its limits."""

import base64
import io
import threading

import numpy as np
import pytest
from PIL import Image

from tests.serve.conftest import PORT, make_client
from twostage_jax.runs.model import Assessment
from twostage_jax.serve import app
from twostage_jax.serve.app import make_app
from twostage_jax.serve.assessor import Assessor
from twostage_jax.serve.neighbours import NO_IMAGES, Neighbours


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels_of(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def test_an_image_gets_class_probabilities_and_set(client, digits, model):
    image = digits.test["image"][0]
    answer = client.post("/api/assess", content=png(image[..., 0])).json()
    expected = model.assess(image[None])
    assert answer["probabilities"] == pytest.approx(expected.probability[0], abs=1e-6)
    assert answer["class"] == expected.probability[0].argmax() == digits.test["label"][0]
    assert answer["set"] == np.flatnonzero(expected.sets[0]).tolist()
    assert answer["rejected"] is None and answer["seen"] is None
    assert np.array_equal(pixels_of(answer["preview"]), image[..., 0])


def test_a_photograph_is_fitted_and_shown_as_the_model_sees_it(client, digits):
    photograph = np.kron(digits.test["image"][0][..., 0], np.ones((100, 100), np.uint8))
    answer = client.post("/api/assess", content=png(photograph)).json()
    assert answer["class"] == digits.test["label"][0]
    assert pixels_of(answer["seen"]).shape == (8, 8)
    assert max(pixels_of(answer["preview"]).shape) == 512


def test_rejections_reach_the_page(model, assessor, monkeypatch):
    class Rejecting:
        classes, image_shape, fit = model.classes, model.image_shape, model.fit

        def assess(self, images, decoded=False):
            answer = model.assess(images, decoded)
            return Assessment(answer.probability, np.array([True]), np.array([2.5]), answer.sets)

    client = make_client(
        make_app("a", PORT, Assessor(Rejecting(), assessor.neighbours, threading.Lock()), None)
    )
    answer = client.post("/api/assess", content=png(np.eye(8, dtype=np.uint8) * 255)).json()
    assert answer["rejected"] is True and answer["score"] == 2.5


def test_the_nearest_training_image_of_a_training_image_is_itself(client, digits):
    image = digits.train["image"][7]
    answer = client.post("/api/nearest", content=png(image[..., 0])).json()
    first = answer["images"][0]
    assert (first["index"], first["class"]) == (7, digits.train["label"][7])
    assert first["similarity"] == pytest.approx(1, abs=1e-5)
    similarities = [image["similarity"] for image in answer["images"]]
    assert similarities == sorted(similarities, reverse=True)
    shown = np.asarray(Image.open(io.BytesIO(client.get("/train/7").content)))
    assert np.array_equal(shown, image[..., 0])
    assert client.get(f"/train/{len(digits.train['image'])}").status_code == 404


def test_a_model_file_has_no_training_images_and_the_page_says_so(model):
    neighbours = Neighbours(model.passes.features, model.quick.features, None)
    neighbours.prepare()
    client = make_client(make_app("a", PORT, Assessor(model, neighbours, threading.Lock()), None))
    answer = client.post("/api/nearest", content=png(np.eye(8, dtype=np.uint8) * 255)).json()
    assert answer == {"reason": NO_IMAGES, "images": []}
    assert client.get("/train/0").status_code == 404


@pytest.mark.parametrize("dark", [False, True])
def test_a_drawing_has_the_ink_of_the_training_images(model, digits, dark):
    train = {**digits.train}
    if dark:
        train["image"] = 255 - train["image"]
    neighbours = Neighbours(model.passes.features, model.quick.features, train)
    client = make_client(make_app("a", PORT, Assessor(model, neighbours, threading.Lock()), None))
    drawing = np.full((280, 280), 255, np.uint8)
    drawing[40:240, 130:150] = 0
    seen = pixels_of(client.post("/api/assess?drawing", content=png(drawing)).json()["seen"])
    assert (seen[:, 0] == (255 if dark else 0)).all()
    assert seen.shape == (8, 8)


def test_a_png_of_200_megapixels_is_refused_before_it_is_decoded(client, monkeypatch):
    def decoded(*arguments):
        raise AssertionError("it was decoded")

    file = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(file, "PNG")
    assert len(file.getvalue()) < 100_000
    monkeypatch.setattr(Image.Image, "load", decoded)
    for path in ("/api/assess", "/api/nearest", "/api/assess?drawing"):
        error = client.post(path, content=file.getvalue()).json()["error"]
        assert "200 megapixels, and the limit is 100" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<script>alert(1)</script>", "it is not a JPEG"),
        (png(np.zeros((9, 9), np.uint8))[:45], "it is corrupted"),
    ],
    ids=["empty", "text", "truncated"],
)
def test_a_broken_file_gets_its_reason(client, content, message):
    answer = client.post("/api/assess", content=content)
    assert answer.status_code == 200 and message in answer.json()["error"]


def test_a_file_above_the_limit_is_not_read_to_its_end(client, monkeypatch):
    monkeypatch.setattr(app, "BYTE_LIMIT", 1000)
    assert client.post("/api/assess", content=bytes(1001)).status_code == 413
    read = []

    def pieces():
        for number in range(1000):
            read.append(number)
            yield bytes(100)

    # Without an announced length, it is cut off while it arrives.
    assert client.post("/api/assess", content=pieces()).status_code == 413


def test_the_page_knows_names_limits_and_what_happens_to_a_drawing(client):
    page = client.get("/api/page").json()
    assert page["model"]["classes"] == list("0123456789")
    assert "8×8" in page["model"]["drawing"] and page["label"] is False
    assert page["limits"] == {"bytes": 2**25, "files": 50, "megapixels": 100}


def test_a_run_without_a_head_has_no_page_to_try(client):
    client = make_client(make_app("a", PORT, None, None))
    assert client.get("/api/page").json()["model"] is None
    assert client.post("/api/assess", content=b"").status_code == 404
