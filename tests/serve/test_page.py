"""The page in a browser: files, drawings, limits, and labels by keyboard."""

import csv
import dataclasses
import time

import numpy as np
import pytest
from PIL import Image

from twostage_jax.serve.app import FILE_LIMIT, make_app
from twostage_jax.serve.label_file import LabelFile
from twostage_jax.serve.labelling import Labelling
from twostage_jax.serve.pictures import encode_picture
from twostage_jax.serve.pool import Pool

SIZES = [(390, 844), (1280, 900)]
CLASS = "document.querySelector('.card:not(.failed) .class')?.textContent"
CLASSES = "[...document.querySelectorAll('.card .class')].map((node) => node.textContent)"
NEAREST = "document.querySelectorAll('.nearest img').length"


@pytest.fixture
def address(live, assessor):
    return live(lambda port: make_app("<b>digits</b>", port, assessor, None))


@pytest.fixture
def quiet(page):
    """The page; at the end, nothing was reported and nothing came from elsewhere."""
    yield page
    assert page.errors == []
    origin = page.evaluate("location.origin")
    assert page.requests and all(url.startswith(origin) for url in page.requests)


def open_trial(page, address):
    page.open(f"{address}/")
    page.wait_for("!document.querySelector('#try').hidden")


def write(path, image):
    Image.fromarray(image[..., 0]).save(path)
    return path


def test_dropped_and_chosen_files_are_classified_in_their_order(address, quiet, digits, tmp_path):
    page = quiet
    files = [write(tmp_path / f"{k}.png", digits.test["image"][k]) for k in range(3)]
    expected = [str(label) for label in digits.test["label"][:3]]
    open_trial(page, address)
    assert page.text("#name") == "<b>digits</b>"
    page.drop_files("#drop", files)
    page.wait_for(f"{NEAREST} == 3 * 8")
    assert page.evaluate(CLASSES) == expected
    assert page.text(".card .source") == "0.png"
    page.choose_files("#files", files[:1])
    page.wait_for(f"{NEAREST} == 4 * 8")
    assert page.evaluate(CLASSES) == [expected[0], *expected]


@pytest.mark.parametrize(
    ("digit", "stroke"),
    [
        ("0", [(0.5 + 0.25 * np.sin(a), 0.5 - 0.35 * np.cos(a)) for a in np.linspace(0, 6.4, 40)]),
        ("7", [(0.25, 0.15), (0.75, 0.15), (0.45, 0.85)]),
    ],
)
def test_a_drawn_digit_is_classified(address, quiet, digit, stroke):
    page = quiet
    open_trial(page, address)
    box = page.evaluate(
        "(() => { const box = document.querySelector('#canvas').getBoundingClientRect();"
        "return [box.x, box.y, box.width] })()"
    )
    left, top, side = box
    page.drag([(left + side * x, top + side * y) for x, y in stroke])
    page.wait_for(f"{NEAREST} == 8")
    assert page.evaluate(CLASS) == digit
    page.click("#clear")
    assert page.evaluate("document.querySelector('#clear').disabled")


def test_a_png_of_200_megapixels_is_refused_and_names_are_text(address, quiet, tmp_path):
    page = quiet
    large = tmp_path / "<img src=x onerror=alert(1)>.png"
    Image.new("1", (20_000, 10_000)).save(large)
    open_trial(page, address)
    page.drop_files("#drop", [large])
    page.wait_for("!!document.querySelector('.failed')")
    assert "200 megapixels, and the limit is 100" in page.text(".failed .verdict")
    assert page.text(".failed .source") == large.name
    assert page.evaluate("document.querySelectorAll('.failed img[src=x]').length") == 0


def test_more_files_than_allowed_are_refused(address, quiet, digits, tmp_path):
    page = quiet
    image = digits.test["image"][0]
    files = [write(tmp_path / f"{k}.png", image) for k in range(FILE_LIMIT + 1)]
    open_trial(page, address)
    page.drop_files("#drop", files)
    page.wait_for("!!document.querySelector('.failed')")
    assert "at most 50 images are accepted at a time" in page.text(".failed .verdict")


def test_a_pasted_image_is_classified(address, quiet):
    page = quiet
    open_trial(page, address)
    page.evaluate(
        """new Promise((done) => {
          const canvas = document.createElement("canvas");
          canvas.width = canvas.height = 8;
          canvas.getContext("2d").fillRect(0, 0, 8, 8);
          canvas.toBlob((blob) => {
            const data = new DataTransfer();
            data.items.add(new File([blob], "image.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
            done();
          });
        })"""
    )
    page.wait_for(f"{NEAREST} == 8")


@pytest.fixture
def labelling(digits, tmp_path):
    images = digits.train["image"][:8]
    keys = [str(row) for row in range(8)]
    pool = Pool(
        "index", keys, keys, lambda i: encode_picture(images[i]), [3, 1, 4, 0, 5, 2, 6, 7], {}
    )
    file = LabelFile(tmp_path / "labels.csv", "index", keys, digits.classes, {})
    return Labelling(pool, digits.classes, file)


def shown(page):
    """Wait until the current image is there, and return its name."""
    page.wait_for("document.querySelector('#frame img')?.naturalWidth > 0")
    return page.text("#subject")


def test_five_images_are_labelled_by_keyboard(live, assessor, labelling, quiet, tmp_path):
    page = quiet
    address = live(lambda port: make_app("digits", port, assessor, labelling))
    page.open(f"{address}/label")
    assert shown(page) == "3"
    begin = time.monotonic()
    # Five labels, one of them corrected, one image skipped and one not sure.
    keys = [
        ("7", "1"),
        ("ArrowRight", "4"),
        ("2", "0"),
        ("Backspace", "4"),
        ("9", "0"),
        ("?", "5"),
        ("0", "2"),
        ("5", "6"),
        ("1", "7"),
    ]
    for key, following in keys:
        page.press(key)
        page.wait_for(f"document.querySelector('#subject').textContent == '{following}'")
        assert shown(page) == following
    # 30 images a minute leave two seconds for each.
    assert time.monotonic() - begin < 5 * 2
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = {row["index"]: row["label"] or row["note"] for row in csv.DictReader(file)}
    expected = {"3": "7", "4": "9", "0": "not sure", "5": "0", "2": "5", "6": "1"}
    assert rows == {str(row): expected.get(str(row), "") for row in range(8)}
    assert "5 labelled, 1 not sure, 2 left, 1 of them skipped" in page.text("#counts")


def test_the_end_of_the_images_is_said_and_can_be_undone(live, labelling, quiet):
    page = quiet
    address = live(lambda port: make_app("digits", port, None, labelling))
    page.open(f"{address}/label")
    for left in range(8):
        shown(page)
        page.press("3")
        page.wait_for(f"document.querySelector('#counts').textContent.includes('{7 - left} left')")
    assert page.text("#subject") == "All 8 images are done."
    page.press("ArrowLeft")
    page.wait_for("document.querySelector('#subject').textContent == '7'")


def test_with_many_classes_a_part_of_the_name_is_typed(live, digits, quiet, tmp_path):
    page = quiet
    classes = [f"breed {k}" for k in range(50)]
    images = digits.train["image"]
    pool = Pool(
        "index", list("012"), list("012"), lambda i: encode_picture(images[i]), [0, 1, 2], {}
    )
    file = LabelFile(tmp_path / "a.csv", "index", pool.keys, classes, {})
    address = live(lambda port: make_app("a", port, None, Labelling(pool, classes, file)))
    page.open(f"{address}/label")
    for number, following in (("17", "1"), ("8", "2")):
        shown(page)
        for key in (*number, "Enter"):
            page.press(key)
        page.wait_for(f"document.querySelector('#subject').textContent == '{following}'")
    page.press("ArrowLeft")
    page.wait_for("document.querySelector('#subject').textContent == '1'")
    assert file.answers == {0: 17}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_both_pages_fit_the_window_and_can_be_read(
    live, assessor, labelling, quiet, digits, tmp_path, size, scheme
):
    page = quiet
    page.set_window(*size, phone=size[0] < 500)
    page.set_scheme(scheme)
    address = live(lambda port: make_app("digits", port, assessor, labelling))
    open_trial(page, address)
    page.drop_files("#drop", [write(tmp_path / f"{'long name ' * 9}.png", digits.test["image"][0])])
    page.wait_for(f"{NEAREST} == 8")
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    assert contrast(page, ".verdict", ".card") > 4.5
    page.open(f"{address}/label")
    shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    # Image and classes are visible together, so that nobody scrolls between them.
    bottom = "document.querySelector('.actions').getBoundingClientRect().bottom"
    assert page.evaluate(bottom) <= size[1]
    assert contrast(page, "#counts", "body") > 4.5


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_long_names_of_classes_fit_the_window(live, assessor, quiet, digits, tmp_path, size):
    page = quiet
    name = "AnUnbrokenNameOfAClassThatIsLongAndDiffersFromTheOthersAtItsVeryEndOnly"
    classes = tuple(f"{name}{k}" for k in range(10))
    settings = assessor.model.settings._replace(classes=classes, set_threshold=1.0)
    model = dataclasses.replace(assessor.model, settings=settings)
    pool = Pool("index", ["0"], ["0"], lambda i: encode_picture(digits.train["image"][0]), [0], {})
    file = LabelFile(tmp_path / "a.csv", "index", pool.keys, classes, {})
    named = dataclasses.replace(assessor, model=model)
    address = live(lambda port: make_app("a", port, named, Labelling(pool, classes, file)))
    page.set_window(*size, phone=size[0] < 500)
    open_trial(page, address)
    page.drop_files("#drop", [write(tmp_path / "0.png", digits.test["image"][0])])
    page.wait_for(f"{NEAREST} == 8")
    assert "also possible" in page.text(".verdict")
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    page.open(f"{address}/label")
    shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    # The end of each name can be read.
    names = "[...document.querySelectorAll('#classes .name')]"
    assert page.evaluate(
        f"{names}.every(x => x.scrollWidth <= x.clientWidth && x.scrollHeight <= x.clientHeight)"
    )


def test_the_focus_is_visible_and_reaches_everything(address, quiet):
    page = quiet
    open_trial(page, address)
    page.press("Tab")
    page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    style = "getComputedStyle(document.querySelector('.button')).outlineStyle"
    assert page.evaluate(style) == "solid"


def contrast(page, text, ground):
    """Contrast of WCAG 2 between the colours of two elements."""
    luminance = []
    for selector, name in ((text, "color"), (ground, "backgroundColor")):
        value = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{name}")
        channels = np.array([int(x) for x in value.strip("rgb()").split(",")[:3]]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        luminance.append(linear @ [0.2126, 0.7152, 0.0722])
    return (max(luminance) + 0.05) / (min(luminance) + 0.05)
