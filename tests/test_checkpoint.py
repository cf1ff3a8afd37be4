"""Checkpoints: strict on the way in, verified on the way out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twostage_jax.checkpoint import describe, open_store
from twostage_jax.errors import UserError
from twostage_jax.stage import digest

TREE = {"encoder": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.array([-0.0])}}


@pytest.fixture
def folder(tmp_path):
    with open_store(tmp_path / "stage") as store:
        store.save(3, {"params": TREE, "training": {"step": jnp.int32(3)}})
    return tmp_path / "stage"


def test_what_is_saved_comes_back_bit_for_bit(folder):
    with open_store(folder) as store:
        assert store.latest == 3
        loaded = store.load({"params": TREE})
    assert digest(loaded["params"]) == digest(TREE)
    assert set(loaded) == {"params"}


def test_the_newest_is_kept(folder):
    newer = jax.tree.map(lambda x: x + 1, TREE)
    with open_store(folder) as store:
        store.save(5, {"params": newer, "training": {"step": jnp.int32(5)}})
        assert digest(store.load({"params": TREE})["params"]) == digest(newer)
    assert [path.name for path in folder.iterdir()] == ["5"]


def test_every_leaf_that_does_not_fit_is_listed(folder):
    expected = {
        "encoder": {"w": jnp.ones((3, 2)), "b": jnp.ones(1, jnp.int32)},
        "head": {"w": jnp.ones(1)},
    }
    with open_store(folder) as store, pytest.raises(UserError) as error:
        store.load({"params": expected})
    for phrase in (
        "params/head/w is missing",
        "params/encoder/w has shape [2, 3], expected [3, 2]",
        "params/encoder/b has dtype float32, expected int32",
    ):
        assert phrase in str(error.value)
    with open_store(folder) as store, pytest.raises(UserError, match="encoder/w is unexpected"):
        store.load({"params": {"encoder": {"b": jnp.ones(1)}}})


def test_a_changed_array_is_named(folder, monkeypatch):
    with open_store(folder) as store:
        read = store._read

        def flipped(*args):
            loaded = read(*args)
            loaded["params"]["encoder"]["w"] = loaded["params"]["encoder"]["w"].at[0, 0].set(1e-9)
            return loaded

        monkeypatch.setattr(store, "_read", flipped)
        with pytest.raises(UserError, match=r"3 is damaged: params/encoder/w changed"):
            store.load({"params": TREE})


def test_no_flipped_bit_on_disk_goes_unnoticed(folder):
    """Whatever bit of the file that holds the arrays is flipped, nothing wrong is loaded."""
    largest = max(folder.glob("3/params/**/d/*"), key=lambda path: path.stat().st_size)
    whole, outcomes = largest.read_bytes(), set()
    for position in range(0, len(whole), max(1, len(whole) // 40)):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        largest.write_bytes(broken)
        with open_store(folder) as store:
            try:
                assert digest(store.load({"params": TREE})["params"]) == digest(TREE)
            except UserError as error:
                outcomes.add("is damaged" if "is damaged:" in str(error) else "cannot be read")
    assert outcomes
    largest.write_bytes(b"")
    with open_store(folder) as store, pytest.raises(UserError, match="damaged or not whole"):
        store.load({"params": TREE})


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    with open_store(tmp_path / "stage") as store:
        assert store.latest is None
        with pytest.raises(UserError, match="no whole checkpoint"):
            store.load({"params": TREE})


def test_describe_gives_shape_dtype_and_hash_by_path():
    table = describe({"a": {"b": np.zeros((2, 1), np.float32)}})
    assert list(table) == ["a/b"]
    assert table["a/b"]["shape"] == [2, 1]
    assert table["a/b"]["dtype"] == "float32"
    # sha256 of eight zero bytes
    assert table["a/b"]["sha256"].startswith("af5570f5a1810b7a")
