"""Checkpoints: strict on the way in, verified on the way out."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.store import sealed as record
from twostage_jax.store.checkpoint import Store, describe, open_store
from twostage_jax.store.layout import sealed
from twostage_jax.store.orbax import quiet
from twostage_jax.trees import digest

TREE = {"encoder": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.array([-0.0])}}
BOTH = {"params": TREE, "training": {"step": jnp.int32(3)}}
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


def largest(folder, step, tree="params"):
    files = folder.glob(f"{step}/{tree}/**/d/*")
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
    assert not isinstance(error.value, Corrupted)
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
    with pytest.raises(Corrupted, match=r"stage/3 is damaged: params/encoder/w changed"):
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
        except Corrupted as error:
            outcomes.add(str(error).partition("/3 ")[2])
    name = path.relative_to(folder / "3")
    assert outcomes == {f"is damaged: {name} changed since it was saved"}
    path.write_bytes(b"")
    with pytest.raises(Corrupted, match=f"is damaged: {name} changed"):
        Store(folder).load({"params": TREE})


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "removed", "pipe"])
def test_every_file_of_a_checkpoint_is_guarded(two, damage):
    """Of all files of the newest checkpoint, whatever happens to any: the older one is taken."""
    names = [path.relative_to(two) for path in two.glob("5/**/*") if path.is_file()]
    assert len(names) > 10
    for name in names:
        copy = shutil.copytree(two, two.with_name("copy"))
        path, whole = copy / name, (two / name).read_bytes()
        path.unlink()
        if damage == "pipe":
            os.mkfifo(path)
        elif damage == "flipped" and whole:
            middle = len(whole) // 2
            path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :])
        elif damage != "removed":
            path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
        said = []
        with open_store(copy) as store:
            found = store.load_newest(BOTH, said.append)
        untouched = path.is_file() and path.read_bytes() == whole
        assert (found.step, len(said)) == ((5, 0) if untouched else (3, 1)), name
        assert digest(found.trees["params"]) == digest(NEWER if untouched else TREE)
        shutil.rmtree(copy)


def seal(checkpoint, values):
    """Write another record into a checkpoint, sealed as ours are."""
    path = checkpoint / "checkpoint.json"
    record = json.loads(path.read_text()) | values
    path.write_text(json.dumps(sealed(record)))


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "values",
    [
        {"step": "5"},
        {"step": 5.0},
        {"step": True},
        {"facts": [1]},
        {"leaves": None},
        {"leaves": {"params": []}},
        {"leaves": {"params": {"a": 1}}},
        {"leaves": {"params": {"a": {}}}},
        {"files": []},
        b"",
        b"[]",
        b"\xff\xfe",
        b"1" * 5000,
        b'{"step": 1e999}',
        DEEP.encode(),
        f'{{"sha256": {DEEP}}}'.encode(),
    ],
    ids=lambda values: str(values)[:30],
)
def test_a_record_that_is_not_ours_is_damage_even_if_it_is_sealed(two, values):
    if isinstance(values, dict):
        seal(two / "5", values)
    else:
        (two / "5" / "checkpoint.json").write_bytes(values)
    said = []
    with open_store(two) as store:
        assert store.load_newest(BOTH, said.append).step == 3
    assert len(said) == 1 and "stage/5 is damaged: checkpoint.json" in said[0]


def test_facts_that_the_caller_does_not_know_are_damage(two):
    said = []
    with open_store(two) as store:
        loaded = store.load_newest(BOTH, said.append, lambda facts: facts["records"] == [1])
    assert loaded.step == 3
    assert "stage/5/checkpoint.json does not hold what a run writes there" in said[0]


def test_no_flipped_bit_of_the_record_goes_unnoticed(folder):
    path = folder / "3" / "checkpoint.json"
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        try:
            loaded = Store(folder).load({"params": TREE})
        except Corrupted:
            continue
        assert digest(loaded.trees["params"]) == digest(TREE)
        assert loaded.facts == {"records": [1]}


def test_a_checkpoint_under_another_number_is_not_taken(folder):
    (folder / "3").rename(folder / "4")
    with pytest.raises(Corrupted, match="checkpoint.json is not that of step 4"):
        Store(folder).load({"params": TREE})


def test_the_newest_whole_one_is_fallen_back_to(two):
    largest(two, 5).write_bytes(b"")
    said = []
    with open_store(two) as store:
        loaded = store.load_newest({"params": TREE}, said.append)
        assert (loaded.step, store.steps) == (3, [3])
    assert digest(loaded.trees["params"]) == digest(TREE)
    assert len(said) == 1 and "stage/5 is damaged: params/" in said[0] and "older one" in said[0]


TROUBLE = [
    (ValueError("PERMISSION_DENIED: x [os_error_code='13']"), "Permission denied"),
    (OSError(errno.ESTALE, os.strerror(errno.ESTALE)), os.strerror(errno.ESTALE)),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes"), "RESOURCE_EXHAUSTED: 9 bytes"),
    (RuntimeError("can't start new thread"), "can't start new thread"),
    (MemoryError(), "MemoryError"),
    (KeyError("a format that nobody has heard of"), "'a format"),
]


@pytest.mark.parametrize(("error", "reason"), TROUBLE, ids=lambda x: str(x)[:20])
@pytest.mark.parametrize("name", ["checkpoint.ocp.load_checkpointables", "sealed.digest_of_file"])
def test_trouble_is_no_damage_whatever_it_is(two, monkeypatch, name, error, reason):
    """Files that are as they were saved are never thrown away because they cannot be loaded."""

    def refused(*args):
        raise error

    monkeypatch.setattr(f"twostage_jax.store.{name}", refused)
    with open_store(two) as store:
        with pytest.raises(UserError, match=f"5 cannot be read: {reason}.*nothing was remo") as why:
            store.load_newest(BOTH, print)
        assert not isinstance(why.value, Corrupted)
        assert store.steps == [3, 5]
    monkeypatch.undo()
    assert Store(two).load(BOTH).step == 5


def test_a_folder_that_cannot_be_looked_into_is_not_taken_for_an_empty_one(two, monkeypatch):
    scan = os.scandir

    def refused(path):
        if str(path).endswith("5/params"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    with open_store(two) as store:
        with pytest.raises(UserError, match="5 cannot be read: Input/output error"):
            store.load_newest(BOTH, print)
        assert store.steps == [3, 5]


def test_only_what_is_asked_for_has_to_be_whole(folder):
    largest(folder, 3, "training").write_bytes(b"")
    assert digest(Store(folder).load({"params": TREE}).trees["params"]) == digest(TREE)
    with pytest.raises(Corrupted):
        Store(folder).load(BOTH)


def test_what_was_not_all_written_does_not_count(folder, monkeypatch):
    """On a full disk Orbax may call a checkpoint written that has no metadata."""
    from orbax.checkpoint import v1 as ocp

    written = ocp.save_checkpointables_async

    class WithoutMetadata:
        def __init__(self, path, trees):
            self.path, self.response = Path(path), written(path, trees)

        def result(self):
            self.response.result()
            (self.path / "_CHECKPOINT_METADATA").unlink()

    monkeypatch.setattr(
        "twostage_jax.store.checkpoint.ocp.save_checkpointables_async", WithoutMetadata
    )
    store = Store(folder)
    store.save(5, {"params": NEWER}, {})
    with pytest.raises(UserError, match="5: not all of it was written; .*stage/3 is whole"):
        store.wait()
    assert store.steps == [3]


def test_what_a_killed_process_has_left_is_removed(folder):
    for name in ("7.new.orbax-checkpoint-tmp", "7.new", "1.gone"):
        (folder / name / "d").mkdir(parents=True)
    (folder / "9.gone").write_text("")
    (folder / "8.new").symlink_to(folder / "3")
    others = ["notes", "notes.gone", "07.gone", "3.newer"]
    for name in others:
        (folder / name).mkdir()
    with open_store(folder) as store:
        assert store.steps == [3]
        assert store.load(BOTH).step == 3
    assert sorted(path.name for path in folder.iterdir()) == sorted(["3", *others])


def test_what_is_no_checkpoint_blocks_nothing(folder):
    """What only looks like ours is passed over, or replaced where it is in the way."""
    for name in ("900", "5", "5.gone", "900.gone"):
        (folder / name).write_text("")
    (folder / "007").mkdir()
    (folder / "8").symlink_to(folder / "nowhere")
    with open_store(folder) as store:
        assert store.steps == [3]
        assert store.load_newest(BOTH, print).step == 3
        (folder / "3.gone").write_text("")
        for step in (5, 8, 900):
            store.save(step, BOTH, {})
    assert Store(folder).steps == [8, 900]
    assert sorted(path.name for path in folder.iterdir()) == ["007", "8", "900"]
    assert digest(Store(folder).load(BOTH).trees) == digest(BOTH)


def test_a_link_to_a_damaged_checkpoint_is_removed_and_not_what_it_leads_to(folder, tmp_path):
    shutil.copytree(folder / "3", tmp_path / "elsewhere")
    (folder / "5").symlink_to(tmp_path / "elsewhere")
    with open_store(folder) as store:
        assert store.load_newest(BOTH, print).step == 3
    assert [path.name for path in folder.iterdir()] == ["3"]
    assert (tmp_path / "elsewhere" / "checkpoint.json").is_file()


@pytest.mark.parametrize("early", [True, False])
def test_a_folder_that_is_renamed_is_not_made_again(tmp_path, monkeypatch, early):
    """Before a save begins, or while Orbax is at it, which makes folders that are missing."""
    run, moved, save = tmp_path / "run", tmp_path / "moved", ocp.save_checkpointables_async
    run.mkdir()

    def moving(*args, **options):
        run.rename(moved)
        return save(*args, **options)

    with pytest.raises(UserError, match="run/head was renamed or removed"):  # noqa: SIM117
        with open_store(run / "head") as store:
            store.save(1, {"params": TREE}, {})
            store.wait()
            if early:
                run.rename(moved)
            else:
                monkeypatch.setattr(ocp, "save_checkpointables_async", moving)
            store.save(2, {"params": TREE}, {})
    assert not run.exists()
    assert Store(moved / "head").load({"params": TREE}).step == 1


def test_a_checkpoint_does_not_count_before_its_record_is_written(folder, monkeypatch):
    """Wherever a process is killed while it writes one, the older one is the newest."""

    def killed(*args):
        assert Store(folder).steps == [3]
        raise KeyboardInterrupt

    monkeypatch.setattr("twostage_jax.store.sealed.write", killed)
    store = Store(folder)
    store.save(5, BOTH, {})
    with pytest.raises(KeyboardInterrupt):
        store.wait()
    assert sorted(path.name for path in folder.iterdir()) == ["3", "5.new"]
    with open_store(folder) as store:
        assert store.load_newest(BOTH, print).step == 3
    assert [path.name for path in folder.iterdir()] == ["3"]


def test_records_of_many_members_are_read_back(folder, monkeypatch):
    """The bound for strangers' texts is none for the figures of a million members."""
    facts = {"records": ["x" * (65 * 2**20)]}
    with open_store(folder) as store:
        store.save(5, BOTH, facts)
        store.wait()
        assert store.load(BOTH).facts == facts
    monkeypatch.setattr(record, "LIMIT", 2**20)
    store = Store(folder)
    store.save(8, BOTH, facts)
    with pytest.raises(UserError, match="bytes, more than .*: train fewer members or epochs"):
        store.wait()
    assert store.steps == [3, 5]


def test_nothing_is_kept_from_others_while_training(tmp_path, caplog, monkeypatch):
    """Not even while a checkpoint is written, in another thread."""
    before = sys.unraisablehook
    monkeypatch.setattr(logging.getLogger("asyncio"), "filters", [])
    with open_store(tmp_path / "stage") as store, caplog.at_level(logging.INFO):
        for step in range(3):
            store.save(step, BOTH, {})
            for name in ("absl", "asyncio"):
                logging.getLogger(name).warning("step %d", step)
            store.wait()
            assert sys.unraisablehook is before
            assert not logging.getLogger("absl").filters
            assert not logging.getLogger("asyncio").filters
    said = [line.getMessage() for line in caplog.records if line.name in ("absl", "asyncio")]
    assert [line for line in said if line.startswith("step")] == [
        f"step {step}" for step in range(3) for _ in range(2)
    ]


def test_what_comes_late_of_a_failure_is_unheard(monkeypatch, caplog):
    """asyncio speaks of a write when it is collected, which may be long after it failed."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    late = logging.getLogger("asyncio")
    monkeypatch.setattr(late, "filters", [])
    with pytest.raises(OSError), quiet():
        raise OSError
    late.error("Future exception was never retrieved: no room in OCDBT")
    late.error("another")
    assert [line.getMessage() for line in caplog.records] == ["another"]
    assert not logging.getLogger("absl").filters


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    with open_store(tmp_path / "stage") as store:
        assert store.steps == []
        assert store.load_newest({"params": TREE}, print) is None
    with pytest.raises(Corrupted, match="no whole checkpoint"):
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


FULL = """
import gc, resource, sys
import numpy as np
from pathlib import Path
from twostage_jax.store.checkpoint import open_store
noise = np.random.default_rng(0).standard_normal((20, 60_000), np.float32)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # for this process the disk is full
try:
    with open_store(Path(sys.argv[1])) as store:
        store.save(0, {"params": {str(n): row for n, row in enumerate(noise)}}, {})
except ValueError as error:
    print(error)
gc.collect()
"""


def test_many_writes_that_fail_are_one_sentence(tmp_path):
    """Whatever Orbax, TensorStore and asyncio have to say of each of them."""
    argv = [sys.executable, "-c", FULL, str(tmp_path / "stage")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("cannot write the checkpoint") and done.stdout.count("\n") == 1
    assert os.strerror(errno.EFBIG) in done.stdout
    assert not Store(tmp_path / "stage").steps
