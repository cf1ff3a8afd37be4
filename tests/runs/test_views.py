import json

import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax.runs.views import choose_augmentation, measure_images

AGREEMENT = {
    "pretrain": {"objective": "tests.runs.test_views:agreement", "epochs": 1},
    "head": {"protocol": "ridge"},
}


def agreement(encoder, decoder, augment):
    """Denoising of views: the smallest objective that takes them."""
    plain = ts.autoencoder(encoder, decoder)

    def loss(params, key, batch):
        return plain.loss(params, key, {**batch, "image": augment(key, batch["image"])})

    return ts.Stage(plain.init, loss)


def rectangles(count, size, channels, thin, ground=0):
    """Outlines or filled rectangles on a plain ground."""
    random = np.random.default_rng(0)
    image = np.full((count, size, size, channels), ground, np.uint8)
    for picture in image:
        row, column = random.integers(2, size // 3, 2)
        part = picture[row : row + size // 2, column : column + size // 2]
        part[:] = 255 - ground
        if thin:
            part[2:-2, 2:-2] = ground
    return image


def texture(count, size, channels):
    """Smooth random images without a plain ground."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, size // 4, size // 4, channels), np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)


CASES = {
    "outlines": (rectangles(40, 28, 1, True), "handwriting", "thin strokes"),
    "dark outlines": (rectangles(40, 28, 1, True, 255), "handwriting", "thin strokes"),
    "large outlines": (rectangles(40, 56, 1, True), "handwriting", "thin strokes"),
    "silhouettes": (rectangles(40, 28, 1, False), "objects", "filled shapes"),
    "large silhouettes": (rectangles(40, 56, 1, False), "objects", "filled shapes"),
    "textures": (texture(40, 28, 1), "objects", "no thin strokes"),
    "large textures": (texture(40, 56, 1), "photographs", "without a plain ground"),
    "colours": (texture(40, 28, 3), "photographs", "colours"),
    "small outlines": (rectangles(40, 28, 1, True)[:, 6:11, 6:11], "none", "unrelated|fit"),
    "equal images": (np.zeros((3, 28, 28, 1), np.uint8), "objects", "filled"),
}


@pytest.mark.parametrize("case", CASES)
def test_images_choose_their_family_without_labels(case):
    images, name, reason = CASES[case]
    choice = choose_augmentation(images)
    assert choice.name == name, choice
    assert any(part in choice.reason for part in reason.split("|")), choice.reason


def test_bundled_digits_are_handwriting_and_shuffled_pixels_are_not():
    images = ts.load("digits").train["image"]
    assert choose_augmentation(images).name == "handwriting"
    order = np.random.default_rng(0).permutation(64)
    shuffled = images.reshape(-1, 64)[:, order].reshape(images.shape)
    assert choose_augmentation(shuffled).name == "none"
    assert choose_augmentation(images, seed=3) == choose_augmentation(images, seed=3)


def test_figures_have_their_meaning():
    # Squares of 14×14, of which the border is two pixels wide.
    figures = measure_images(rectangles(10, 28, 1, False))
    np.testing.assert_allclose(figures["filled"], (10 / 14) ** 2, rtol=1e-5)
    np.testing.assert_allclose(figures["ground"], 1 - 14**2 / 28**2, rtol=1e-5)


def test_weak_evidence_is_said():
    # Squares of 7×7 keep 9 of 49 pixels, which is close to the limit for strokes.
    images = np.zeros((9, 28, 28, 1), np.uint8)
    images[:, 8:15, 8:15] = 255
    choice = choose_augmentation(images)
    assert choice.name == "objects" and choice.reason.endswith("weak (filled near the limit)")
    images[:, 8:20, 8:20] = 255
    assert "weak" not in choose_augmentation(images).reason


@pytest.fixture(scope="module")
def lined(tmp_path_factory):
    """A data set of outlines with two classes, and a run on it that chose its augmentation."""
    folder = tmp_path_factory.mktemp("views")
    images = rectangles(64, 12, 1, True)[..., 0]
    label = (np.arange(64) % 2).astype(np.int32)
    np.savez(
        folder / "data.npz", x_train=images, y_train=label, x_test=images[:9], y_test=label[:9]
    )
    data = f"npz:{folder / 'data.npz'}"
    lines = []
    tiny.run(config(data, folder / "run"), terminal=Lines(lines), pretrain_only=True)
    return data, folder / "run", lines


class Lines(tiny.Terminal):
    """A terminal that keeps its lines."""

    def __init__(self, lines):
        super().__init__(quiet=True)
        self.lines = lines

    def line(self, text="", hang=0, bold=False):
        self.lines.append(text)


def config(data, out, **options):
    return tiny.config(data, out, **{**AGREEMENT, "validation": 16, **options})


def test_a_run_chooses_once_says_why_and_records_it(lined):
    _, folder, lines = lined
    said = [line for line in lines if line.startswith("augmentation: handwriting, chosen because")]
    assert len(said) == 1 and said[0].endswith("--augment NAME overrides")
    assert tiny.stored(folder, "config.json")["augment"] == "handwriting"
    manifest = tiny.stored(folder, "manifest.json")
    record = manifest["augmentation"]
    assert record["name"] == "handwriting" and "thin strokes" in record["reason"]
    assert set(record["figures"]) == {"similarity", "ground", "filled"}
    assert manifest["pretrain"]["augmentation"] == record


def test_the_config_of_a_run_that_chose_repeats_its_bits(lined, tmp_path):
    data, folder, _ = lined
    values = json.loads((folder / "config.json").read_text())
    values["out"] = tmp_path / "again"
    tiny.run(ts.Config(**values), pretrain_only=True)
    first, again = (tiny.stored(x, "manifest.json") for x in (folder, tmp_path / "again"))
    assert first["groups"]["encoder"] == again["groups"]["encoder"]


MISTAKES = {
    "no effect on autoencoder": {"augment": "objects", "pretrain": {"objective": "autoencoder"}},
    "unknown augmentation 'digits'": {"augment": "digits"},
    "augment-strength is 3": {"augment_strength": 3},
    "cannot import 'nothing:views'": {"augment": "nothing:views"},
    "returned .* for images": {"augment": "tests.runs.test_views:crop"},
    "no effect on the function": {
        "augment": "tests.runs.test_views:darken",
        "augment_strength": 0.5,
    },
    "is int: give ts.Views": {"augment": "tests.runs.test_views:NUMBER"},
    "12×12": {"augment": "tests.runs.test_views:FINE"},
}
NUMBER = 3
FINE = ts.Views(elastic=0.1, grid=20)


def crop(key, image):
    return image[:, 1:]


def darken(key, image):
    return image - 0.1


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_one_line(message, lined, tmp_path):
    with pytest.raises(ts.UserError, match=message):
        tiny.run(config(lined[0], tmp_path / "run", **MISTAKES[message]))
    assert not (tmp_path / "run").exists()


def test_a_function_of_the_user_is_an_augmentation(lined, tmp_path):
    own = config(lined[0], tmp_path / "run", augment="tests.runs.test_views:darken")
    tiny.run(own, pretrain_only=True)
    record = tiny.stored(tmp_path / "run", "manifest.json")["augmentation"]
    assert record == {"name": "tests.runs.test_views:darken", "reason": "given", "figures": {}}
