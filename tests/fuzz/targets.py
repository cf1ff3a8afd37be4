"""Readers of data, configs and commands as functions of bytes.

A target takes the bytes of a stranger and returns, or raises `UserError`; everything else is a
finding. Its seeds are valid inputs.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.fuzz.samples import (
    IMAGE,
    LABEL,
    example,
    frame,
    idx_bytes,
    npz_files,
    png,
    write_prepared,
)
from twostage_jax import cli
from twostage_jax.config.commands import Data, Evaluate, Head, Pretrain, Run
from twostage_jax.config.fields import check_coverage
from twostage_jax.config.layers import resolve, to_dict
from twostage_jax.config.schema import Config
from twostage_jax.config.studies import Study, check_study
from twostage_jax.data.sources import load
from twostage_jax.data.spec import check_spec
from twostage_jax.data.tfds.prepared import read_prepared


class Target(NamedTuple):
    """A reader: valid inputs, and the function that takes one input."""

    seeds: list[bytes]
    feed: Callable[[bytes], Any]


def idx_target(work: Path, packed: bool = False) -> Target:
    """The first byte selects the file of images or that of labels; the rest is its content."""
    names = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    valid = [idx_bytes(IMAGE), idx_bytes(LABEL)]
    if packed:
        names = [f"{name}.gz" for name in names]
        valid = [gzip.compress(content, mtime=0) for content in valid]

    def feed(data: bytes) -> None:
        selected = data[0] % 2 if data else 0
        for index, name in enumerate(names):
            (work / name).write_bytes(data[1:] if index == selected else valid[index])
        load(f"idx:{work}")

    return Target([bytes([index]) + content for index, content in enumerate(valid)], feed)


def gzip_target(work: Path) -> Target:
    """The same with compressed files."""
    return idx_target(work, packed=True)


def npz_target(work: Path) -> Target:
    """A NumPy archive."""

    def feed(data: bytes) -> None:
        (work / "a.npz").write_bytes(data)
        load(f"npz:{work / 'a.npz'}")

    return Target(npz_files(), feed)


def tfds_target(work: Path) -> Target:
    """The first byte selects a file of a prepared folder, or a part of a record."""
    records = [example(png(image), int(y)) for image, y in zip(IMAGE, LABEL, strict=True)]
    files: list[Path] = []
    for kind in ("tfrecord", "array_record"):
        write_prepared(work / kind, kind, records)
        files += sorted((work / kind).iterdir())
    valid = {path: path.read_bytes() for path in files}
    loose = work / "tfrecord" / "tiny-train.tfrecord-00000-of-00001"
    seeds = [bytes([index]) + valid[path] for index, path in enumerate(files)]
    seeds += [bytes([len(files)]) + records[0]]
    seeds += [bytes([len(files) + 1]) + png(IMAGE[0], kind) for kind in ("PNG", "JPEG")]

    def feed(data: bytes) -> None:
        selected = (data[0] if data else 0) % (len(files) + 2)
        content = data[1:]
        path = loose
        if selected < len(files):
            path = files[selected]
        else:
            # A whole record, or an image inside a valid record.
            first = content if selected == len(files) else example(content, 0)
            content = b"".join(map(frame, [first, *records[1:]]))
        path.write_bytes(content)
        try:
            read_prepared(path.parent, "tiny")
        finally:
            path.write_bytes(valid[path])

    return Target(seeds, feed)


def config_target(work: Path) -> Target:
    """A `config.json`, read by `--config`."""
    full = to_dict(resolve(Config(), (8, 8, 1), 10))
    swept = {"sweep": ["head.learning-rate=1e-4,1e-3"], "members": 3, "share": ["order"]}
    placed = {"mesh": "member=1,data=1", "data": "tfds:mnist", "data_dir": "somewhere"}
    numbers = {"labels": 20, "head": {"protocol": "knn", "set": {"k": 5}}}
    seeds = [json.dumps(values).encode() for values in (full, swept, placed, numbers)]

    def feed(data: bytes) -> None:
        (work / "config.json").write_bytes(data)
        config = cli.read_config_file(work / "config.json", False)
        to_dict(resolve(config, (8, 8, 1), 10))

    return Target(seeds, feed)


COMMANDS = (
    "run --data idx:. --pretrain.widths 8 4 --members 3 --mesh member=2,data=1",
    "run --sweep head.learning-rate=1e-4,1e-3 --noise 0.1 --share encoder order",
    "run --labels 100 --head.protocol ridge --head.set strength=1",
    "head --from run --head.epochs 3 --seed 1",
    "pretrain --pretrain.objective autoencoder --out new --validation 10",
    "evaluate run --coverage 0.9 --split validation --ood digits",
    "data digits --validation 100",
    "bench --quick --rows ours",
    "run --help",
)


def command_target(work: Path) -> Target:
    """Arguments of the command line, one in each line; nothing is trained."""

    def feed(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        command = cli.parse([part for part in text.split("\n") if part])
        if isinstance(command, Data):
            check_spec(command.spec)
        elif isinstance(command, Evaluate):
            if command.coverage is not None:
                check_coverage("--coverage", command.coverage)
        elif isinstance(command, Study):
            check_study(command)
        elif isinstance(command, Run | Pretrain | Head):
            cli.requested_config(command)

    return Target([line.replace(" ", "\n").encode() for line in COMMANDS], feed)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "idx": idx_target,
    "gzip": gzip_target,
    "npz": npz_target,
    "tfds": tfds_target,
    "config": config_target,
    "command": command_target,
}
