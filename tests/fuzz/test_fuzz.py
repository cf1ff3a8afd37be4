"""A short form of the campaign: every reader returns a valid result or one printable error.

The inputs are the same in every run.
"""

import collections
import gzip
import io
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.fuzz import campaign, targets
from tests.fuzz.child import NAMES, NEED_RUN, mutate
from twostage_jax.data import idx
from twostage_jax.data.tfds.records import read_array_records
from twostage_jax.errors import MESSAGE_LIMIT, UserError, printable

FIXED = {"derandomize": True, "deadline": None, "database": None}
# The campaign has millions of inputs; these few find a reader that no longer checks anything.
short = settings(max_examples=25, suppress_health_check=list(HealthCheck), **FIXED)
READERS = tuple(targets.TARGETS)

IMAGES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=4, max_side=5))


def outcome(target, data):
    """Return `result` or `error` for an input; any other exception fails the test."""
    try:
        target.feed(data)
    except UserError as error:
        assert str(error).isprintable()
        return "error"
    except SystemExit as stop:  # after --help
        assert not stop.code
    return "result"


def test_every_target_of_the_campaign_exists_and_the_table_needs_no_atheris():
    assert (*READERS, *NEED_RUN) == NAMES
    row = campaign.Row("run", inputs=2, findings=collections.Counter({"KeyError": 1}))
    assert "| run | 2 | 0 | mutation | KeyError (1) |" in campaign.table([row])


@pytest.mark.parametrize("name", READERS)
def test_seeds_are_valid_and_mutated_inputs_give_a_result_or_an_error(name, tmp_path):
    target = targets.TARGETS[name](tmp_path)
    seeds = {outcome(target, seed) for seed in target.seeds}
    source = random.Random(0)
    count = {"command": 25, "tfds": 400}.get(name, 200)
    mutated = {outcome(target, mutate(source, target.seeds)) for _ in range(count)}
    if name == "command":  # some seeds name files that do not exist
        assert "error" in mutated
    else:
        assert (seeds, mutated) == ({"result"}, {"result", "error"})


@pytest.mark.parametrize("name", READERS)
@short
@given(data=st.binary(max_size=200))
@example(data=b"\x02one\ntwo\nthree")
@example(data=b"\x06one\ntwo\ntwo")
@example(data=b"--help")
@example(data=b"digits")
def test_arbitrary_bytes_give_an_error(name, data, tmp_path_factory):
    target = targets.TARGETS[name](tmp_path_factory.getbasetemp())
    valid = (name == "tfds" and has_three_names(data)) or (
        name == "command" and asks_for_help(data)
    )
    assert outcome(target, data) == ("result" if valid else "error")


def has_three_names(data):
    """True if the first byte selects a file of class names and the rest has three of them."""
    if not data or data[0] % 10 not in (2, 6):  # eight files and two parts of a record
        return False
    try:
        lines = [line.strip() for line in data[1:].decode().split("\n")]
    except UnicodeDecodeError:
        return False
    names = [line for line in lines if line]
    return len(names) == len(set(names)) == 3


def asks_for_help(data):
    """True for the only valid input without a command; a command does not come about by chance."""
    return data.strip(b"\n").split(b"\n")[0] in (b"-h", b"--help")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run", "result"),
        ("run --members 3", "result"),
        ("run --labels 100 --head.protocol knn --head.set k=5", "result"),
        ("run --help", "result"),
        ("data digits", "result"),
        ("evaluate run", "result"),
        ("data", "error"),
        ("data digit", "error"),
        ("head", "error"),
        ("evaluate run --coverage 2", "error"),
        ("run --members 0", "error"),
        ("run --head.set k=many", "error"),
        ("run --member 3", "error"),
        ("run \udcff", "error"),
        ("rum", "error"),
        ("--version", "error"),
    ],
)
def test_a_command_is_valid_or_gives_one_error(line, expected, tmp_path):
    data = "\n".join(line.split()).encode("utf-8", "surrogateescape")
    assert outcome(targets.TARGETS["command"](tmp_path), data) == expected


@settings(max_examples=10, suppress_health_check=list(HealthCheck), **FIXED)
@given(records=st.lists(st.binary(max_size=70_000), min_size=1, max_size=8))
def test_records_survive_an_array_record_file(records, tmp_path_factory):
    from array_record.python import array_record_module

    path = tmp_path_factory.getbasetemp() / "survives.array_record"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    assert read_array_records(path, len(records)) == records
    with pytest.raises(UserError):
        read_array_records(path, len(records) + 1)


@short
@given(
    text=st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zs"])),
    times=st.sampled_from([1, 10**2, 10**5]),
)
def test_any_text_is_shown_printable(text, times):
    assert printable(text).isprintable()
    shown = str(UserError(text * times))
    assert shown.isprintable() and shown.encode("utf-8") is not None
    assert len(shown) <= MESSAGE_LIMIT


def test_padded_and_concatenated_gzip_files_are_read_as_gzip_reads_them_or_refused(tmp_path):
    content = targets.idx_bytes(np.arange(200, dtype=np.uint8))
    packed = gzip.compress(content[:90]) + b"\0" * 7 + gzip.compress(content[90:]) + b"\0" * 512
    (tmp_path / "a.gz").write_bytes(packed)
    assert gzip.open(io.BytesIO(packed)).read() == content
    try:
        array = idx.read_array(tmp_path / "a.gz")
    except UserError as error:
        assert str(error).isprintable()
    else:
        np.testing.assert_array_equal(array, np.arange(200))
