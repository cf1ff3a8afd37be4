"""Records: every JSON file is checked against its types, and written as users know it."""

import dataclasses
import json
import os
from dataclasses import dataclass

import numpy as np
import pytest

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.store import records
from twostage_jax.store.decoding import decode, encode
from twostage_jax.store.epochs import (
    CheckpointFacts,
    EpochRecord,
    append_epoch,
    epochs_bytes,
    last_loss,
    write_epochs,
)
from twostage_jax.store.records import (
    DataRecord,
    FrozenRecord,
    MachineRecord,
    Manifest,
    PreprocessingRecord,
    PretrainRecord,
    describe_groups,
    json_bytes,
    read_manifest,
    read_result,
    seal,
    write_manifest,
)

MANIFEST = Manifest(
    schema=1,
    config={"data": "digits", "head": {"epochs": 2}},
    groups=describe_groups({"encoder": {"w": np.ones((2, 3), np.float32)}}),
    preprocessing=PreprocessingRecord(("uint8", 8, 8, 1), "(x / 255 - 0.5) / 0.5"),
    classes=["0", "1"],
    data=DataRecord("digits", "sha256:a", "sha256:b", {"train": "sha256:c"}),
    chunks={"head": 2},
    versions={"jax": "0.10.2"},
    machine=MachineRecord("cpu", 1, 2),
    allowed=[],
    save_predictions=False,
    test_reads=0,
)


@dataclass(frozen=True)
class Inner:
    value: float
    name: str = "x"


@dataclass(frozen=True)
class Outer:
    number: int
    flag: bool
    inner: Inner
    figures: list[float | None]
    sizes: tuple[int, ...]
    by_name: dict[str, list[Inner]]
    anything: object
    pair: tuple[str, int]
    text: str | None = None


GOOD = {
    "number": 1,
    "flag": True,
    "inner": {"value": 1},
    "figures": [0.5, None, 2],
    "sizes": [1, 2],
    "by_name": {"a": [{"value": 0.5, "name": "y"}]},
    "anything": {"deep": [1, "x", None]},
    "pair": ["uint8", 8],
}


def test_decode_builds_the_record_and_encode_returns_its_values():
    record = decode(Outer, GOOD, "a.json")
    assert record == Outer(
        number=1,
        flag=True,
        inner=Inner(1.0),
        figures=[0.5, None, 2.0],
        sizes=(1, 2),
        by_name={"a": [Inner(0.5, "y")]},
        anything={"deep": [1, "x", None]},
        pair=("uint8", 8),
    )
    assert type(record.inner.value) is float and type(record.figures[2]) is float
    assert encode(record) == {**GOOD, "inner": {"value": 1.0, "name": "x"}}
    assert encode(dataclasses.replace(record, text="t"))["text"] == "t"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"number": True}, "field 'number' is True, expected an integer"),
        ({"number": 1.0}, "field 'number' is 1.0, expected an integer"),
        ({"number": 2**63}, "expected an integer of 64 bits"),
        ({"flag": 1}, "field 'flag' is 1, expected true or false"),
        ({"inner": None}, "field 'inner' is None, expected an object"),
        ({"inner": {"value": True}}, "field 'inner.value' is True, expected a finite number"),
        ({"inner": {"value": float("nan")}}, "field 'inner.value' is nan"),
        ({"inner": {"value": 10**400}}, "field 'inner.value' is 1000"),
        ({"inner": {"value": 10**5000}}, "is a int that is too large to print"),
        ({"inner": {}}, "field 'inner.value' is missing"),
        ({"inner": {"value": 1, "more": 1}}, "field 'inner.more' is unknown"),
        ({"figures": [0.5, "x"]}, "field 'figures.1' is 'x', expected a finite number"),
        ({"figures": {}}, "field 'figures' is {}, expected a list"),
        ({"sizes": [None]}, "field 'sizes.0' is None"),
        ({"by_name": {"a": [{"value": 1, "name": 2}]}}, "field 'by_name.a.0.name' is 2, expect"),
        ({"by_name": []}, "field 'by_name' is [], expected an object"),
        ({"pair": ["uint8"]}, "field 'pair' is ['uint8'], expected a list of 2 values"),
        ({"text": 1}, "field 'text' is 1, expected a text"),
    ],
)
def test_decode_names_the_file_and_the_field(change, problem):
    with pytest.raises(Corrupted) as error:
        decode(Outer, GOOD | change, "a.json")
    assert str(error.value).startswith("a.json is corrupted: ") and problem in str(error.value)
    with pytest.raises(Corrupted, match=r"the content is \[\], expected an object"):
        decode(Outer, [], "a.json")


def test_a_type_that_json_cannot_hold_is_our_own_mistake():
    @dataclass(frozen=True)
    class Odd:
        value: complex

    with pytest.raises(TypeError, match="use the types that"):
        decode(Odd, {"value": 1}, "a.json")


def test_a_manifest_is_read_back_and_leaves_out_what_is_not_known_yet(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    values = json.loads((tmp_path / "manifest.json").read_text())
    assert not {"pretrain", "encoder", "frozen"} & values.keys()
    assert values["preprocessing"]["image"] == ["uint8", 8, 8, 1]
    assert read_manifest(tmp_path).preprocessing.image_shape == (8, 8, 1)
    finished = dataclasses.replace(
        MANIFEST,
        pretrain=PretrainRecord("autoencoder", 0, None),
        encoder="sha256:e",
        frozen=FrozenRecord(["encoder"], "sha256:e", "sha256:e", True),
    )
    write_manifest(tmp_path, finished)
    assert read_manifest(tmp_path) == finished
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json"]


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("data", {}, "field 'data.fingerprint' is missing"),
        ("data/parts", {"train": 1}, "field 'data.parts.train' is 1"),
        ("classes", [[1], [2]], "field 'classes.0' is"),
        ("allowed", [1], "field 'allowed.0' is 1"),
        ("test_reads", True, "field 'test_reads' is True"),
        ("config", [], "field 'config' is []"),
        ("groups", {"head": 3}, "field 'groups.head' is 3"),
        ("preprocessing/image", ["uint8", 0, 8, 1], "every size of an image is at least 1"),
        ("preprocessing/image", [1, 2], "expected a list of 4 values"),
        ("chunks", {"head": 0}, "chunks are at least 1"),
        ("frozen", {"unchanged": True}, "field 'frozen.after' is missing"),
    ],
)
def test_a_malformed_manifest_is_rejected_even_with_a_valid_seal(tmp_path, path, value, problem):
    values = json.loads(records.manifest_bytes(MANIFEST))
    *parents, name = path.split("/")
    inner = values
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    (tmp_path / "manifest.json").write_text(json.dumps(seal(values)))
    with pytest.raises(Corrupted) as error:
        read_manifest(tmp_path)
    text = str(error.value)
    assert text.startswith(f"{tmp_path}/manifest.json is corrupted: ")
    assert problem in text and text.endswith("; restore it from a copy")


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b'{"sha256": 1e999}', DEEP, b'{"sha256": %b}' % DEEP]
)
def test_a_manifest_of_other_content_is_corrupted(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(Corrupted, match=r"manifest.json.*; restore it from a copy"):
        read_manifest(tmp_path)


def test_any_flipped_bit_of_a_manifest_is_detected(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    original = path.read_bytes()
    errors = 0
    positions = range(0, len(original), 9)
    for position in positions:
        flipped = bytearray(original)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            assert read_manifest(tmp_path) == MANIFEST
        except Corrupted:
            errors += 1
    assert errors > len(positions) // 2


def test_a_folder_without_a_manifest_is_not_a_run(tmp_path):
    for make in (lambda path: None, os.mkfifo):
        make(tmp_path / "manifest.json")
        with pytest.raises(UserError, match="is not a run folder, it has no manifest.json: give"):
            read_manifest(tmp_path)


def test_a_result_is_read_as_the_dataclass_of_the_caller(tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(json_bytes({"value": 0.5}))
    assert read_result(tmp_path, Inner) == Inner(0.5)
    for content in (b'{"value": "x"}', b"{", b'{"value": NaN}'):
        path.write_bytes(content)
        with pytest.raises(Corrupted, match="result.json"):
            read_result(tmp_path, Inner)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Corrupted, match=r"result.json: it is a pipe"):
        read_result(tmp_path, Inner)


ALONE = EpochRecord("pretrain", 1, 0.25, 1.5)
MEMBERS = EpochRecord(
    "head", 2, 0.5, 2.0, {"accuracy": 0.75, "nll": None}, {"loss": [0.25, None, 0.75]}
)
MEASURED = EpochRecord("head", 3, 0.5, 2.0, validation={"loss": 0.75, "accuracy": None})


def test_the_lines_of_the_metrics_are_those_that_users_read(tmp_path):
    lines = (
        '{"stage": "pretrain", "epoch": 1, "loss": 0.25, "seconds": 1.5}\n'
        '{"stage": "head", "epoch": 2, "accuracy": 0.75, "loss": 0.5, "nll": null, '
        '"members": {"loss": [0.25, null, 0.75]}, "seconds": 2.0}\n'
    )
    assert epochs_bytes([ALONE, MEMBERS]).decode() == lines
    assert MEASURED.line == (
        '{"stage": "head", "epoch": 3, "loss": 0.5, "validation": {"loss": 0.75, "accuracy": null},'
        ' "seconds": 2.0}\n'
    )
    for record in (ALONE, MEMBERS, MEASURED):
        assert decode(EpochRecord, encode(record), "line") == record
    write_epochs(tmp_path, [])
    assert not (tmp_path / "metrics.jsonl").exists()
    append_epoch(tmp_path, ALONE)
    append_epoch(tmp_path, MEMBERS)
    assert (tmp_path / "metrics.jsonl").read_text() == lines
    for content in (b"", b"nonsense\n", lines.encode() * 2):
        (tmp_path / "metrics.jsonl").write_bytes(content)
        write_epochs(tmp_path, [ALONE, MEMBERS])
        assert (tmp_path / "metrics.jsonl").read_text() == lines


def test_a_metric_cannot_hide_a_field():
    for name in ("epoch", "validation", "validation_loss"):
        with pytest.raises(UserError, match=f"a metric cannot have the name '{name}': rename it"):
            EpochRecord("head", 1, 0.5, 1.0, {name: 1.0})
    with pytest.raises(ValueError, match="epoch 1 has validation figures without a loss"):
        EpochRecord("head", 1, 0.5, 1.0, validation={"accuracy": 1.0})


def test_facts_have_figures_of_all_members_and_epochs():
    first = dataclasses.replace(MEMBERS, epoch=1)
    without_loss = dataclasses.replace(first, members={"accuracy": [0.5, 0.5, 0.5]})
    # The figures of the members on validation are missing.
    half = dataclasses.replace(first, validation={"loss": 0.5})
    CheckpointFacts("", "", "head", 3, (first, MEMBERS))
    CheckpointFacts("", "", "head", 1, (ALONE,))
    for count, epochs, problem in (
        (3, (MEMBERS,), "not numbered"),
        (2, (first,), "epoch 1 has no figures of 2 members"),
        (1, (first,), "no figures of 1 members"),
        (3, (ALONE,), "no figures of 3 members"),
        (3, (without_loss,), "no figures of 3 members"),
        (3, (half,), "no figures of 3 members"),
    ):
        with pytest.raises(ValueError, match=problem):
            CheckpointFacts("", "", "head", count, epochs)


def test_the_last_loss_is_a_mean_over_finite_members():
    assert last_loss([]) is None
    assert last_loss([ALONE], [0]) == 0.25
    assert last_loss([ALONE, MEMBERS]) == 0.5
    assert last_loss([ALONE, MEMBERS], [0, 1]) == 0.25
    assert last_loss([ALONE, MEMBERS], [1]) is None
