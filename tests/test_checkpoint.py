"""Checkpoints: strict on the way in, verified on the way out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twostage_jax.checkpoint import Store, describe, open_store
from twostage_jax.errors import Damaged, UserError
from twostage_jax.stage import digest

TREE = {"encoder": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.array([-0.0])}}
NEWER = jax.tree.map(lambda x: x + 1, TREE)


@pytest.fixture
def folder(tmp_path):
    with open_store(tmp_path / "stage") as store:
        store.save(3, {"params": TREE, "training": {"step": jnp.int32(3)}}, {"records": [1]})
    return tmp_path / "stage"


@pytest.fixture
def two(folder):
    with open_store(folder) as store:
        store.save(5, {"params": NEWER, "training": {"step": jnp.int32(5)}}, {"records": [1, 2]})
    return folder


def largest(folder, step):
    files = folder.glob(f"{step}/params/**/d/*")
    return max(files, key=lambda path: path.stat().st_size)


def test_what_is_saved_comes_back_bit_for_bit(folder):
    with open_store(folder) as store:
        assert store.steps == [3]
        loaded = store.load({"params": TREE})
    assert digest(loaded.trees["params"]) == digest(TREE)
    assert (loaded.step, set(loaded.trees), loaded.facts) == (3, {"params"}, {"records": [1]})


def test_facts_are_those_of_the_moment_of_saving(tmp_path):
    records = [1]
    with open_store(tmp_path / "stage") as store:
        for step in range(10):
            store.save(step, {"params": TREE}, {"records": records})
            records.append(step)  # while it is being written
            store.wait()
            assert store.load({"params": TREE}).facts["records"] == records[:-1]


def test_the_newest_two_are_kept(two):
    with open_store(two) as store:
        store.save(8, {"params": TREE}, {})
        store.wait()
        assert store.steps == [5, 8]
        assert digest(store.load({"params": TREE}, 5).trees["params"]) == digest(NEWER)
    assert sorted(path.name for path in two.iterdir()) == ["5", "8"]


def test_every_leaf_that_does_not_fit_is_listed(folder):
    expected = {
        "encoder": {"w": jnp.ones((3, 2)), "b": jnp.ones(1, jnp.int32)},
        "head": {"w": jnp.ones(1)},
    }
    with pytest.raises(UserError) as error:
        Store(folder).load({"params": expected})
    for phrase in (
        "params/head/w is missing",
        "params/encoder/w has shape [2, 3], expected [3, 2]",
        "params/encoder/b has dtype float32, expected int32",
    ):
        assert phrase in str(error.value)
    assert not isinstance(error.value, Damaged)
    with pytest.raises(UserError, match="encoder/w is unexpected"):
        Store(folder).load({"params": {"encoder": {"b": jnp.ones(1)}}})


def test_a_changed_array_is_named(folder, monkeypatch):
    store = Store(folder)
    read = store._read

    def flipped(*args):
        loaded = read(*args)
        loaded["params"]["encoder"]["w"] = loaded["params"]["encoder"]["w"].at[0, 0].set(1e-9)
        return loaded

    monkeypatch.setattr(store, "_read", flipped)
    with pytest.raises(Damaged, match=r"stage/3 is damaged: params/encoder/w changed"):
        store.load({"params": TREE})


def test_no_flipped_bit_on_disk_goes_unnoticed(folder):
    """Whatever bit of the file that holds the arrays is flipped, nothing wrong is loaded."""
    path = largest(folder, 3)
    whole, outcomes = path.read_bytes(), set()
    for position in range(0, len(whole), max(1, len(whole) // 40)):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        try:
            assert digest(Store(folder).load({"params": TREE}).trees["params"]) == digest(TREE)
        except Damaged as error:
            outcomes.add("is damaged" if "is damaged:" in str(error) else "cannot be read")
    assert outcomes
    path.write_bytes(b"")
    with pytest.raises(Damaged, match="damaged or not whole"):
        Store(folder).load({"params": TREE})


def test_no_flipped_bit_of_the_metadata_goes_unnoticed(folder):
    path = folder / "3" / "_CHECKPOINT_METADATA"
    whole = path.read_bytes()
    start = whole.index(b'"custom_metadata"')
    for position in range(start, len(whole), 7):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        try:
            loaded = Store(folder).load({"params": TREE})
        except Damaged:
            continue
        assert digest(loaded.trees["params"]) == digest(TREE)
        assert loaded.facts == {"records": [1]}


def test_a_checkpoint_under_another_number_is_not_taken(folder):
    (folder / "3").rename(folder / "4")
    with pytest.raises(Damaged, match="its metadata changed"):
        Store(folder).load({"params": TREE})


def test_the_newest_whole_one_is_fallen_back_to(two):
    largest(two, 5).write_bytes(b"")
    said = []
    with open_store(two) as store:
        loaded = store.load_newest({"params": TREE}, said.append)
        assert (loaded.step, store.steps) == (3, [3])
    assert digest(loaded.trees["params"]) == digest(TREE)
    assert len(said) == 1 and "stage/5 cannot be read" in said[0] and "older one" in said[0]


def test_what_cannot_be_read_for_another_reason_is_not_thrown_away(two, monkeypatch):
    def refused(*args):
        raise ValueError("PERMISSION_DENIED: Permission denied [OS error 13]")

    monkeypatch.setattr("twostage_jax.checkpoint.ocp.load_checkpointables", refused)
    with open_store(two) as store:
        with pytest.raises(UserError, match="5 cannot be read: Permission denied"):
            store.load_newest({"params": TREE}, print)
        assert store.steps == [3, 5]


def test_what_was_not_all_written_does_not_count(folder, monkeypatch):
    """On a full disk Orbax may call a checkpoint written that has no metadata."""
    from orbax.checkpoint import v1 as ocp

    written = ocp.save_checkpointables_async

    def without_metadata(path, trees, **options):
        return written(path, trees)

    monkeypatch.setattr("twostage_jax.checkpoint.ocp.save_checkpointables_async", without_metadata)
    store = Store(folder)
    store.save(5, {"params": NEWER}, {})
    with pytest.raises(UserError, match="5: not all of it was written; .*stage/3 is whole"):
        store.wait()
    assert store.steps == [3]


def test_what_a_killed_process_has_left_is_removed(folder):
    for name in ("7.orbax-checkpoint-tmp", "1.gone"):
        (folder / name / "d").mkdir(parents=True)
    (folder / "notes").mkdir()
    with open_store(folder) as store:
        assert store.steps == [3]
    assert sorted(path.name for path in folder.iterdir()) == ["3", "notes"]


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    with open_store(tmp_path / "stage") as store:
        assert store.steps == []
        assert store.load_newest({"params": TREE}, print) is None
    with pytest.raises(UserError, match="no whole checkpoint"):
        Store(tmp_path / "nowhere").load({"params": TREE})


def test_reading_writes_nothing(folder):
    before = sorted(path.name for path in folder.rglob("*"))
    Store(folder).load({"params": TREE})
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_describe_gives_shape_dtype_and_hash_by_path():
    table = describe({"a": {"b": np.zeros((2, 1), np.float32)}})
    assert list(table) == ["a/b"]
    assert table["a/b"]["shape"] == [2, 1]
    assert table["a/b"]["dtype"] == "float32"
    # sha256 of eight zero bytes
    assert table["a/b"]["sha256"].startswith("af5570f5a1810b7a")
