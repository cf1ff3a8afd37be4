"""Every reader on inputs that nobody would write: a valid result or one sentence.

The same targets as `scripts/fuzz.py`, in short; the inputs are the same in every run.
"""

import gzip
import io
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scripts.fuzzing import targets as fuzz_targets

from scripts import fuzz
from twostage_jax.config.schema import Config, from_dict
from twostage_jax.data import idx, npz
from twostage_jax.data.tfds.records import read_array_records
from twostage_jax.errors import LONGEST, UserError, printable

FIXED = {"derandomize": True, "deadline": None, "database": None}
few = settings(max_examples=60, suppress_health_check=list(HealthCheck), **FIXED)
READERS = ("idx", "gzip", "npz", "tfds", "config", "command")

IMAGES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=4, max_side=5))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from([*vars(Config()), "epochs", "widths", "learning_rate", "objective"])


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_gives_a_result_or_one_sentence(name, tmp_path):
    target = fuzz_targets.TARGETS[name](tmp_path)
    begun = {outcome(target, seed) for seed in target.seeds}
    source = random.Random(0)
    count = {"command": 25, "tfds": 400}.get(name, 200)
    found = {outcome(target, fuzz.mutate(source, target.seeds)) for _ in range(count)}
    if name == "command":  # some of whose seeds name files that are not there
        assert "sentence" in found
    else:
        assert (begun, found) == ({"result"}, {"result", "sentence"})


@pytest.mark.parametrize("name", READERS)
@few
@given(data=st.binary(max_size=200))
@example(data=b"\x02one\ntwo\nthree")
@example(data=b"\x06one\ntwo\ntwo")
@example(data=b"--help")
@example(data=b"digits")
def test_bytes_of_any_kind_give_one_sentence(name, data, tmp_path_factory):
    found = outcome(fuzz_targets.TARGETS[name](tmp_path_factory.getbasetemp()), data)
    valid = {"tfds": three_names, "command": asks_for_help}.get(name, lambda data: False)
    assert found == ("result" if valid(data) else "sentence")


def three_names(data):
    """Whether the first byte names a file of class names and the others are three of them."""
    if not data or data[0] % 10 not in (2, 6):  # of 8 files and two parts of a record
        return False
    try:
        lines = [line.strip() for line in data[1:].decode().split("\n")]
    except UnicodeDecodeError:
        return False
    names = [line for line in lines if line]
    return len(names) == len(set(names)) == 3


def asks_for_help(data):
    """The only valid command without the name of one; names do not come about by chance."""
    return data.strip(b"\n").split(b"\n")[0] in (b"-h", b"--help")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("run", "result"),
        ("run --members 3", "result"),
        ("run --help", "result"),
        ("data digits", "result"),
        ("evaluate run", "result"),
        ("data", "sentence"),
        ("data digit", "sentence"),
        ("head", "sentence"),
        ("evaluate run --coverage 2", "sentence"),
        ("run --members 0", "sentence"),
        ("run --member 3", "sentence"),
        ("run \udcff", "sentence"),
        ("rum", "sentence"),
        ("--version", "sentence"),
    ],
)
def test_commands_are_valid_or_get_one_sentence(argv, expected, tmp_path):
    data = "\n".join(argv.split()).encode("utf-8", "surrogateescape")
    assert outcome(fuzz_targets.TARGETS["command"](tmp_path), data) == expected


def outcome(target, data):
    """What an input leads to; any other exception fails the test."""
    try:
        target.feed(data)
    except UserError as error:
        assert str(error).isprintable()
        return "sentence"
    except SystemExit as stop:  # after --help
        assert not stop.code
    return "result"


@few
@given(values=JSON | st.dictionaries(FIELDS, JSON, max_size=4))
def test_any_json_gives_a_config_or_one_sentence(values):
    nested = {"pretrain": values, "head": values}
    for given_values in (values, nested):
        try:
            assert isinstance(from_dict(given_values, "config.json"), Config)
        except UserError as error:
            assert str(error).isprintable()


@few
@given(array=IMAGES | hnp.arrays(np.uint8, st.integers(0, 40)), packed=st.booleans())
def test_an_array_survives_an_idx_file(array, packed, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "survives"
    content = fuzz_targets.idx_bytes(array)
    path.write_bytes(gzip.compress(content) if packed else content)
    np.testing.assert_array_equal(idx.read_array(path, gzipped=packed), array)


@few
@given(array=IMAGES, wide=st.sampled_from([np.uint8, np.int64, ">i2", np.float32, np.float64]))
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_array_survives_an_npz_file(save, array, wide, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "survives.npz"
    values = array.astype(wide) / 255 if np.dtype(wide).kind == "f" else array.astype(wide)
    label = np.arange(len(array))
    save(path, image=np.asfortranarray(values), label=label)
    found = npz.read(path).train
    np.testing.assert_array_equal(found["image"].reshape(array.shape), array)
    np.testing.assert_array_equal(found["label"], label)


@settings(max_examples=15, suppress_health_check=list(HealthCheck), **FIXED)
@given(records=st.lists(st.binary(max_size=70_000), min_size=1, max_size=8))
def test_records_survive_an_array_record_file(records, tmp_path_factory):
    from array_record.python import array_record_module

    path = tmp_path_factory.getbasetemp() / "survives.array_record"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    assert read_array_records(path, len(records)) == records
    with pytest.raises(UserError, match="are announced"):
        read_array_records(path, len(records) + 1)


@few
@given(
    text=st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zs"])),
    times=st.sampled_from([1, 10**2, 10**5]),
)
def test_any_text_is_shown_printable(text, times):
    assert printable(text).isprintable()
    shown = str(UserError(text * times))
    assert shown.isprintable() and shown.encode("utf-8") is not None
    assert len(shown) <= LONGEST


def test_members_put_together_and_padding_are_read_as_gzip_does(tmp_path):
    content = fuzz_targets.idx_bytes(np.arange(200, dtype=np.uint8))
    parts = gzip.compress(content[:90]) + b"\0" * 7 + gzip.compress(content[90:]) + b"\0" * 512
    (tmp_path / "a.gz").write_bytes(parts)
    assert gzip.open(io.BytesIO(parts)).read() == content
    np.testing.assert_array_equal(idx.read_array(tmp_path / "a.gz"), np.arange(200))
