"""Checkpoints: bit-equal when loaded, verified, and never lost to a kill or to a full disk."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.files import TEXT_LIMIT
from twostage_jax.store import orbax
from twostage_jax.store.checkpoint import Store, open_store
from twostage_jax.store.decoding import encode
from twostage_jax.store.epochs import CheckpointFacts, EpochRecord
from twostage_jax.store.records import describe_groups, seal
from twostage_jax.store.table import LIMIT, Table, read_table, write_table
from twostage_jax.trees import digest

PARAMS = {"encoder": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.array([-0.0])}}
NEWER = jax.tree.map(lambda x: x + 1, PARAMS)
BOTH = {"params": PARAMS, "training": {"step": jnp.int32(3)}}


def facts(epochs):
    records = (EpochRecord("head", epoch, 0.5, 1.0) for epoch in range(1, epochs + 1))
    return CheckpointFacts("sha256:c", "sha256:d", "head", 1, tuple(records))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Folder with the checkpoints 3 and 5; no test changes it."""
    folder = tmp_path_factory.mktemp("store") / "stage"
    with open_store(folder) as store:
        store.save(3, BOTH, facts(1))
        store.save(5, {**BOTH, "params": NEWER}, facts(2))
    return folder


@pytest.fixture
def two(original, tmp_path):
    return shutil.copytree(original, tmp_path / "stage")


@pytest.fixture
def folder(two):
    """Folder with the checkpoint 3."""
    shutil.rmtree(two / "5")
    return two


def largest(folder, step, tree="params"):
    files = folder.glob(f"{step}/{tree}/**/d/*")
    return max(files, key=lambda path: path.stat().st_size)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_arrays_and_facts_are_loaded_bit_for_bit_into_the_memory_of_the_host(two):
    before = sorted(two.rglob("*"))
    loaded = Store(two).load(BOTH)
    assert digest(loaded.trees) == digest({**BOTH, "params": NEWER})
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded.trees))
    assert (loaded.step, loaded.facts) == (5, facts(2))
    assert digest(Store(two).load({"params": PARAMS}, 3).trees["params"]) == digest(PARAMS)
    assert sorted(two.rglob("*")) == before
    assert describe_groups(NEWER)["encoder"].sha256 == digest(NEWER["encoder"])


def test_arrays_are_those_at_the_time_of_saving(tmp_path):
    array = np.zeros(3)
    with open_store(tmp_path / "stage") as store:
        for step in range(3):
            store.save(step, {"params": {"w": array}}, facts(step))
            array += 1
            loaded = store.load({"params": {"w": array}})
            assert loaded.facts == facts(step)
            assert loaded.trees["params"]["w"].tolist() == [step] * 3


def test_the_two_newest_checkpoints_are_kept_and_old_names_are_reused(two):
    with open_store(two) as store:
        store.save(8, BOTH, facts(0))
        store.wait()
        assert store.steps == [5, 8]
        store.save(8, {**BOTH, "params": NEWER}, facts(0))
    assert names(two) == ["5", "8"]
    assert digest(Store(two).load({"params": PARAMS}).trees["params"]) == digest(NEWER)


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    with open_store(tmp_path / "stage") as store:
        assert store.steps == []
        assert store.load_newest(BOTH, print) is None
    for use in (lambda store: store.load(BOTH), lambda store: store.check()):
        with pytest.raises(Corrupted, match="has no complete checkpoint"):
            use(Store(tmp_path / "nowhere"))


def test_every_array_that_does_not_fit_is_listed(folder):
    expected = {
        "encoder": {"w": jnp.ones((3, 2)), "b": jnp.ones(1, jnp.int32)},
        "head": {"w": jnp.ones(1)},
    }
    with pytest.raises(UserError) as error:
        Store(folder).load_newest({"params": expected}, print)
    for phrase in (
        "params/head/w is missing",
        "params/encoder/w has shape [2, 3], expected [3, 2]",
        "params/encoder/b has dtype float32, expected int32",
    ):
        assert phrase in str(error.value)
    assert not isinstance(error.value, Corrupted)
    with pytest.raises(UserError, match="encoder/w is unexpected"):
        Store(folder).load({"params": {"encoder": {"b": jnp.ones(1)}}})
    assert names(folder) == ["3"]


def test_an_array_that_changes_while_it_is_loaded_is_named(folder):
    def flipped(path, expected):
        loaded = orbax.load(path, expected)
        loaded["params"]["encoder"]["w"][0, 0] = 1e-9
        return loaded

    with pytest.raises(Corrupted, match="stage/3 is corrupted: params/encoder/w changed"):
        Store(folder, load=flipped).load(BOTH)


def test_any_flipped_bit_is_detected(folder):
    """In the file with the arrays and in the table: the same values are loaded, or nothing."""
    for path, stride in ((largest(folder, 3), 97), (folder / "3" / "checkpoint.json", 61)):
        original = path.read_bytes()
        errors = 0
        for position in range(0, len(original), stride):
            flipped = bytearray(original)
            flipped[position] ^= 1 << position % 8
            path.write_bytes(flipped)
            try:
                loaded = Store(folder).load(BOTH)
            except Corrupted as error:
                assert "corrupted" in str(error)
                errors += 1
                continue
            assert digest(loaded.trees) == digest(BOTH) and loaded.facts == facts(1)
        assert errors
        path.write_bytes(original)


@pytest.mark.parametrize("damage", ["flipped", "cut off", "removed", "pipe"])
def test_damage_to_any_file_is_detected_and_the_store_falls_back(two, damage):
    files = [path for path in two.glob("5/**/*") if path.is_file() and path.stat().st_size]
    assert len(files) > 10
    for path in files:
        original = path.read_bytes()
        path.unlink()
        if damage == "pipe":
            os.mkfifo(path)
        elif damage == "flipped":
            path.write_bytes(bytes([original[0] ^ 4]) + original[1:])
        elif damage == "cut off":
            path.write_bytes(original[: len(original) // 2])
        with pytest.raises(Corrupted, match="stage/5"):
            Store(two).load(BOTH)
        if path != files[-1]:
            path.unlink(missing_ok=True)
            path.write_bytes(original)
    notices = []
    with open_store(two) as store:
        loaded = store.load_newest(BOTH, notices.append)
    assert (loaded.step, len(notices), names(two)) == (3, 1, ["3"])
    assert "stage/5" in notices[0] and "falling back to an older one" in notices[0]
    assert digest(loaded.trees) == digest(BOTH)


DEEP = "[" * 100_000 + "]" * 100_000
FACTS = encode(facts(1))
RECORD = FACTS["records"][0]


@pytest.mark.parametrize(
    "change",
    [
        {"step": "5"},
        {"step": 5.0},
        {"step": True},
        {"step": 4},
        {"facts": [1]},
        {"facts": {**FACTS, "records": [1]}},
        {"facts": {**FACTS, "records": [{**RECORD, "epoch": 2}]}},
        {"facts": {**FACTS, "records": [{**RECORD, "loss": 10**400}]}},
        {"facts": {**FACTS, "member_count": 2}},
        {"facts": {**FACTS, "records": [{**RECORD, "members": {"loss": [0.5]}}]}},
        {"trees": None},
        {"trees": {"params": []}},
        {"trees": {"params": {"sha256": "", "leaves": {"a": {}}}}},
        {"files": []},
        {"more": 1},
        b"",
        b"[]",
        b"\xff\xfe",
        b"1" * 5000,
        b'{"step": 1e999}',
        DEEP.encode(),
        f'{{"sha256": {DEEP}}}'.encode(),
    ],
    ids=lambda change: str(change)[:30],
)
def test_a_malformed_table_counts_as_corrupted_even_with_a_valid_seal(two, change):
    path = two / "5" / "checkpoint.json"
    if isinstance(change, dict):
        path.write_text(json.dumps(seal(json.loads(path.read_text()) | change)))
    else:
        path.write_bytes(change)
    notices = []
    with open_store(two) as store:
        assert store.load_newest(BOTH, notices.append).step == 3
    assert len(notices) == 1 and "stage/5" in notices[0] and "checkpoint.json" in notices[0]


def test_a_renamed_checkpoint_is_rejected(folder):
    (folder / "3").rename(folder / "4")
    with pytest.raises(Corrupted, match=r"checkpoint.json belongs to step 3"):
        Store(folder).load(BOTH)


TROUBLE = [
    (ValueError("PERMISSION_DENIED: x [os_error_code='13']"), "Permission denied"),
    (OSError(errno.ESTALE, os.strerror(errno.ESTALE)), os.strerror(errno.ESTALE)),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes"), "RESOURCE_EXHAUSTED: 9 bytes"),
    (MemoryError(), "MemoryError"),
    (KeyError("an unknown format"), "'an unknown format'"),
]


@pytest.mark.parametrize(("error", "reason"), TROUBLE, ids=lambda x: str(x)[:20])
def test_a_read_error_never_removes_a_checkpoint(original, error, reason):
    def refused(path, expected):
        raise error

    store = Store(original, load=refused)
    with pytest.raises(UserError, match=f"5 cannot be read: {reason}.*nothing was removed") as why:
        store.load_newest(BOTH, print)
    assert not isinstance(why.value, Corrupted)
    assert store.steps == [3, 5]


@pytest.mark.parametrize("name", ["5", "5/params"])
def test_an_unreadable_folder_does_not_count_as_empty(original, monkeypatch, name):
    scan = os.scandir

    def refused(path):
        if str(path).endswith(name):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match="5 cannot be read: Input/output error"):
        Store(original).load_newest(BOTH, print)
    assert Store(original).steps == [3, 5]


def test_only_the_requested_trees_have_to_be_intact(folder):
    largest(folder, 3, "training").write_bytes(b"")
    assert digest(Store(folder).load({"params": PARAMS}).trees["params"]) == digest(PARAMS)
    for use in (lambda store: store.load(BOTH), lambda store: store.check()):
        with pytest.raises(Corrupted, match="training/.* has changed"):
            use(Store(folder))


def test_arrays_far_larger_than_their_files_are_refused(folder):
    size = 2**40
    table = read_table(folder / "3")
    leaf = {"shape": [size], "dtype": "float32", "sha256": ""}
    group = {"sha256": "", "leaves": {"w": leaf}}
    values = {**encode(table), "trees": {"params": group}}
    (folder / "3" / "checkpoint.json").write_text(json.dumps(seal(values)))
    shape = jax.ShapeDtypeStruct((size,), jnp.float32)
    with pytest.raises(UserError, match="announces 4,398,046,511,104, more than 100 times"):
        Store(folder).load({"params": {"w": shape}})


def full_disk(path, trees):
    path.mkdir()
    (path / "part").write_text("half of it")
    raise ValueError("RESOURCE_EXHAUSTED: No space left on device [OS error 28: ENOSPC]")


def without_metadata(path, trees):
    """On a full disk, Orbax may report success without having written the metadata."""
    orbax.save(path, trees)
    (path / orbax.METADATA).unlink()


@pytest.mark.parametrize(
    ("save", "reason"),
    [(full_disk, "No space left on device"), (without_metadata, "some files were not written")],
)
def test_a_full_disk_is_one_sentence_and_keeps_older_checkpoints(folder, save, reason):
    store = Store(folder, save=save)
    store.save(5, BOTH, facts(2))
    with pytest.raises(UserError, match=f"stage/5: {reason}.*stage/3 is intact; free disk space"):
        store.close()
    assert names(folder) == ["3"]


def test_a_killed_process_leaves_the_older_checkpoint(folder):
    """The new checkpoint becomes visible only when it is complete."""

    def killed(path, trees):
        orbax.save(path, trees)
        assert Store(folder).steps == [3]
        raise KeyboardInterrupt

    store = Store(folder, save=killed)
    store.save(5, BOTH, facts(2))
    with pytest.raises(KeyboardInterrupt):
        store.close()
    assert names(folder) == ["3", "5.new"]
    with open_store(folder) as store:
        assert store.load_newest(BOTH, print).step == 3
    assert names(folder) == ["3"]


def test_leftovers_are_removed_and_foreign_files_are_kept(folder):
    for name in ("7.new.orbax-checkpoint-tmp", "7.new", "1.gone"):
        (folder / name / "d").mkdir(parents=True)
    (folder / "9.gone").write_text("")
    (folder / "8.new").symlink_to(folder / "3")
    foreign = ["007", "07.gone", "3.newer", "notes", "notes.gone"]
    for name in foreign:
        (folder / name).mkdir()
    with open_store(folder) as store:
        assert store.steps == [3]
        assert store.load(BOTH).step == 3
    assert names(folder) == sorted(["3", *foreign])


def test_files_with_the_name_of_a_checkpoint_are_replaced(folder):
    for name in ("900", "5", "5.gone"):
        (folder / name).write_text("")
    (folder / "8").symlink_to(folder / "nowhere")
    with open_store(folder) as store:
        assert store.load_newest(BOTH, print).step == 3
        (folder / "3.gone").write_text("")
        for step in (5, 8, 900):
            store.save(step, BOTH, facts(1))
    assert names(folder) == ["8", "900"]
    assert digest(Store(folder).load(BOTH).trees) == digest(BOTH)


def test_the_target_of_a_link_is_never_removed(folder, tmp_path):
    shutil.copytree(folder / "3", tmp_path / "elsewhere")
    (folder / "5").symlink_to(tmp_path / "elsewhere")
    with open_store(folder) as store:
        assert store.load_newest(BOTH, print).step == 3
    assert names(folder) == ["3"]
    assert (tmp_path / "elsewhere" / "checkpoint.json").is_file()


@pytest.mark.parametrize("early", [True, False])
def test_a_renamed_folder_is_not_created_again(tmp_path, early):
    """The folder is renamed before a save, or while Orbax writes and creates missing folders."""
    run = tmp_path / "run"
    moved = tmp_path / "moved"
    run.mkdir()

    def moving(path, trees):
        if path.name == "2.new" and not early:
            run.rename(moved)
        orbax.save(path, trees)

    store = Store(run / "head", save=moving)
    store.clean()
    store.save(1, BOTH, facts(0))
    store.wait()
    if early:
        run.rename(moved)
    store.save(2, BOTH, facts(0))
    with pytest.raises(UserError, match="run/head was renamed or removed"):
        store.close()
    assert not run.exists()
    assert Store(moved / "head").load(BOTH).step == 1


def test_a_table_that_could_not_be_read_is_not_written(folder):
    assert LIMIT > 10 * TEXT_LIMIT  # figures of a million members are longer than texts
    with pytest.raises(UserError, match="more than the limit of 100: train fewer members"):
        write_table(folder / "3", Table(3, {}, facts(1), {}), limit=100)
    assert read_table(folder / "3").facts == facts(1)


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "params/_METADATA"])
def test_loading_imports_no_module_that_a_checkpoint_names(folder, tmp_path, monkeypatch, name):
    mark = tmp_path / "imported"
    (tmp_path / "cuckoo.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Egg: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = folder / "3" / name
    text = path.read_text()
    handler = "orbax.checkpoint.experimental.v1._src.handlers.pytree_handler.PyTreeHandler"
    for known in (handler, "np.ndarray", "jax.Array"):
        text = text.replace(known, "cuckoo.Egg")
    assert "cuckoo" in text
    path.write_text(text)
    try:
        orbax.load(folder / "3", BOTH)  # past our own checks
    except Exception as error:
        assert not isinstance(error, ImportError)
    assert not mark.exists() and "cuckoo" not in sys.modules


FULL = """
import gc, logging, resource, sys
import numpy as np
from pathlib import Path
from twostage_jax.store.checkpoint import open_store
from twostage_jax.store.epochs import CheckpointFacts
noise = np.random.default_rng(0).standard_normal((20, 60_000), np.float32)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as if the disk were full
try:
    with open_store(Path(sys.argv[1])) as store:
        trees = {"params": {str(n): row for n, row in enumerate(noise)}}
        store.save(0, trees, CheckpointFacts("", "", "head", 1, ()))
except ValueError as error:
    print(error)
gc.collect()
for name in ("absl", "asyncio"):
    logging.getLogger(name).warning("a message of others")
"""


def test_many_failed_writes_are_one_sentence_and_other_messages_are_shown(tmp_path):
    argv = [sys.executable, "-c", FULL, str(tmp_path / "stage")]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stderr.count("\n") == done.stderr.count("a message of others") == 2
    assert done.stdout.startswith("cannot write the checkpoint") and done.stdout.count("\n") == 1
    assert os.strerror(errno.EFBIG) in done.stdout
    assert not Store(tmp_path / "stage").steps
