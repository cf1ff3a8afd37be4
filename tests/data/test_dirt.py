"""Files with random damage: a source is read, or refused in one line, and nothing else happens."""

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import twostage_jax as ts
from tests.data.photos import load, picture
from twostage_jax.data.decode import BrokenImage, Form, decode
from twostage_jax.data.table import read_table

few = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def encoded(kind):
    stream = io.BytesIO()
    pixels = np.random.RandomState(0).randint(0, 256, (9, 7, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


FILES = {kind: encoded(kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")}


@few
@given(
    kind=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=9),
    cut=st.integers(0, 10**6),
)
def test_a_damaged_image_is_decoded_or_broken(kind, changes, cut):
    content = bytearray(FILES[kind])
    for place, value in changes:
        content[place % len(content)] = value
    content = content[: len(content) - cut % 3]
    try:
        pixels = decode(bytes(content), Form(8, 8, 3), limit=10**6)
    except BrokenImage as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("dirt")
    for index in range(6):
        picture(root / f"{index}.png", index)
    return root


@few
@given(content=st.binary(max_size=300))
def test_any_bytes_are_a_table_or_refused(place, content):
    path = place / "t.csv"
    path.write_bytes(content)
    try:
        table = read_table(path)
    except ts.UserError as error:
        assert "\n" not in str(error)
    else:
        assert len({len(row) for row in table.rows}) == 1


CELL = st.one_of(
    st.sampled_from(["0.png", "1", "path", "label", "", "..", "/", "a/../0.png", "\\", '"', "=0"]),
    st.text(max_size=6),
)


@few
@given(rows=st.lists(st.lists(CELL, min_size=1, max_size=4), min_size=1, max_size=8))
def test_any_cells_are_a_source_or_refused(place, rows):
    (place / "t.csv").write_bytes(
        "\n".join(";".join(row) for row in rows).encode("utf-8", "ignore")
    )
    try:
        load(f"csv:{place / 't.csv'}", validation=0)
    except ts.UserError as error:
        assert "\n" not in str(error)
