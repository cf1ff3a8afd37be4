"""What `fuzz.py` and the tests feed: every reader of the library as a function of bytes.

A target takes bytes that stand for what a stranger gives and returns, or raises `UserError`;
anything else is a finding. Each begins from the seeds beside it, which are valid.
"""

import contextlib
import gzip
import importlib
import io
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from twostage_jax import cli
from twostage_jax.config import schema as configs
from twostage_jax.data.sources import load
from twostage_jax.data.tfds.prepared import read_prepared
from twostage_jax.runs.open import read_config, shape_of_images
from twostage_jax.show.tables import show_result
from twostage_jax.show.terminal import Terminal
from twostage_jax.store import checksums as sums
from twostage_jax.store import layout as folder
from twostage_jax.trees import digest

array_record: Any = importlib.import_module("array_record.python.array_record_module")
IMAGE = np.arange(12 * 5 * 4, dtype=np.uint8).reshape(12, 5, 4)
LABEL = np.arange(12, dtype=np.uint8) % 3


class Target(NamedTuple):
    """A reader: valid inputs to begin with, and what is called with each input.

    Attributes:
        seeds: valid inputs.
        feed: takes one input.
    """

    seeds: list[bytes]
    feed: Callable[[bytes], Any]


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file."""
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def idx_target(work: Path, packed: bool = False) -> Target:
    """The first byte says whether the rest is the file of the images or that of the labels."""
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    valid = [idx_bytes(array) for array in (IMAGE, LABEL)]
    if packed:
        names = tuple(f"{name}.gz" for name in names)
        valid = [gzip.compress(content, mtime=0) for content in valid]

    def feed(data: bytes) -> None:
        which = data[0] % 2 if data else 0
        for index, name in enumerate(names):
            (work / name).write_bytes(data[1:] if index == which else valid[index])
        load(f"idx:{work}")

    return Target([bytes([index]) + content for index, content in enumerate(valid)], feed)


def npz_target(work: Path) -> Target:
    """A NumPy archive."""
    seeds = []
    for save in (np.savez, np.savez_compressed):
        for dtype in (np.uint8, np.float32):
            buffer, scaled = io.BytesIO(), IMAGE / (1 if dtype == np.uint8 else 255)
            save(buffer, image=scaled.astype(dtype), label=LABEL)
            seeds.append(buffer.getvalue())
    buffer = io.BytesIO()
    np.savez(buffer, x_train=IMAGE, y_train=LABEL, x_test=IMAGE[:3], y_test=LABEL[:3])

    def feed(data: bytes) -> None:
        (work / "a.npz").write_bytes(data)
        load(f"npz:{work / 'a.npz'}")

    return Target([*seeds, buffer.getvalue()], feed)


def frame(record: bytes) -> bytes:
    """A record as a TFRecord file has it."""

    def masked(content: bytes) -> bytes:
        crc = google_crc32c.value(content)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    size = struct.pack("<Q", len(record))
    return size + masked(size) + record + masked(record)


def png(image: np.ndarray, kind: str = "PNG") -> bytes:
    """An image as a PNG or JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def example(image: bytes, label: int) -> bytes:
    """An example as TFDS serializes it."""
    made = vars(tf_example_pb2)["Example"]()
    made.features.feature["image"].bytes_list.value.append(image)
    made.features.feature["label"].int64_list.value.append(label)
    return made.SerializeToString()


def write_prepared(folder: Path, kind: str, records: list[bytes]) -> None:
    """A folder as TFDS prepares one of 5×4 images in three classes."""
    folder.mkdir(parents=True, exist_ok=True)
    core = "tensorflow_datasets.core.features"
    image = {"dtype": "uint8", "shape": {"dimensions": ["5", "4", "1"]}}
    features = {
        "image": {"image": image, "pythonClassName": f"{core}.image_feature.Image"},
        "label": {
            "classLabel": {"numClasses": "3"},
            "pythonClassName": f"{core}.class_label_feature.ClassLabel",
        },
    }
    top = {
        "featuresDict": {"features": features},
        "pythonClassName": f"{core}.features_dict.FeaturesDict",
    }
    split = {"name": "train", "numBytes": "9", "shardLengths": [str(len(records))]}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": kind, "splits": [split]}
    (folder / "features.json").write_text(json.dumps(top))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "label.labels.txt").write_text("one\ntwo\nthree\n")
    path = folder / f"tiny-train.{kind}-00000-of-00001"
    if kind == "tfrecord":
        path.write_bytes(b"".join(map(frame, records)))
        return
    writer = array_record.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def tfds_target(work: Path) -> Target:
    """The first byte says which file of a prepared folder, or what part of a record, it is."""
    records = [example(png(image), int(y)) for image, y in zip(IMAGE, LABEL, strict=True)]
    seeds: list[bytes] = []
    files = []
    for kind in ("tfrecord", "array_record"):
        write_prepared(work / kind, kind, records)
        files += sorted(path for path in (work / kind).iterdir())
    valid = {path: path.read_bytes() for path in files}
    loose = work / "tfrecord" / "tiny-train.tfrecord-00000-of-00001"
    seeds = [bytes([index]) + valid[path] for index, path in enumerate(files)]
    seeds += [bytes([len(files)]) + records[0]]
    seeds += [bytes([len(files) + 1]) + png(IMAGE[0], kind) for kind in ("PNG", "JPEG")]

    def feed(data: bytes) -> None:
        which, rest = (data[0] if data else 0) % (len(files) + 2), data[1:]
        path, content = loose, rest
        if which < len(files):
            path = files[which]
        else:
            first = rest if which == len(files) else example(rest, 0)
            content = b"".join(map(frame, [first, *records[1:]]))
        path.write_bytes(content)
        try:
            read_prepared(path.parent, "tiny")
        finally:
            path.write_bytes(valid[path])

    return Target(seeds, feed)


def config_target(work: Path) -> Target:
    """A `config.json`, as `--config` reads it."""
    full = configs.resolve(configs.Config(), (8, 8, 1), 10)
    swept = {"sweep": ["head.learning-rate=1e-4,1e-3"], "members": 3, "share": ["order"]}
    placed = {"mesh": "member=1,data=1", "data": "tfds:mnist", "data_dir": "somewhere"}
    seeds = [json.dumps(values).encode() for values in (configs.to_dict(full), swept, placed)]

    def feed(data: bytes) -> None:
        (work / "config.json").write_bytes(data)
        found = cli._read_config(work / "config.json", False)
        configs.to_dict(configs.resolve(found, (8, 8, 1), 10))

    return Target(seeds, feed)


def command_target(work: Path) -> Target:
    """Arguments of the command line, one in a line; nothing is trained."""
    texts = [
        "run\n--data\nidx:.\n--pretrain.widths\n8\n4\n--members\n3\n--mesh\nmember=2,data=1",
        "run\n--sweep\nhead.learning-rate=1e-4,1e-3\n--noise\n0.1\n--share\nencoder\norder",
        "head\n--from\nrun\n--head.epochs\n3\n--seed\n1",
        "pretrain\n--pretrain.objective\nautoencoder\n--out\nnew\n--validation\n10",
        "evaluate\nrun\n--coverage\n0.9\n--split\nvalidation\n--ood\ndigits",
        "data\ndigits\n--validation\n100",
        "bench\n--quick\n--rows\nours",
        "run\n--help",
    ]

    def feed(data: bytes) -> None:
        argv = [part for part in data.decode("utf-8", "surrogateescape").split("\n") if part]
        command = cli.parse(argv)
        if hasattr(command, "resume"):
            cli._config(command)
        elif isinstance(command, cli.Data):
            cli.check_spec(command.spec)
        elif isinstance(command, cli.Evaluate):
            cli.check_coverage(command.coverage)

    return Target([text.encode() for text in texts], feed)


def manifest_target(work: Path, run: Path) -> Target:
    """The first byte says which JSON file of a run it is, and whether a stranger sealed it.

    What then still opens is evaluated, on validation.
    """
    from twostage_jax.runs.evaluate import judge
    from twostage_jax.runs.open import open_run

    names = (folder.MANIFEST, folder.RESULT, folder.CONFIG)
    shutil.copytree(run, work / "run")
    valid = {path: path.read_bytes() for path in (work / "run").iterdir() if path.is_file()}
    seeds = [bytes([n]) + valid[work / "run" / names[n % 3]] for n in range(2 * len(names))]

    def feed(data: bytes) -> None:
        first = data[0] if data else 0
        name = names[first % len(names)]
        (work / "run" / name).write_bytes(data[1:])
        try:
            if first // len(names) % 2:
                _seal(work / "run", name, data[1:])
            read_config(work / "run")
            shape_of_images(work / "run", folder.read_json(work / "run", folder.MANIFEST))
            folder.chunks(work / "run")
            opened = open_run(work / "run")
            judge(opened, Terminal(quiet=True), split="validation")
            with folder.meant(work / "run" / folder.RESULT):
                show_result(opened.record, work, Terminal(quiet=True))
        finally:
            for path, content in valid.items():
                path.write_bytes(content)

    return Target(seeds, feed)


def _seal(run: Path, name: str, data: bytes) -> None:
    """A stranger can seal what they have written, and compute its checksum."""
    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(data)
        if isinstance(values, dict):
            sums.finish(run, {name: folder.packed(name, values)})


def metrics_target(work: Path, run: Path) -> Target:
    """A `metrics.jsonl`: whatever it holds is seen, and put right by what the checkpoints say."""
    shutil.copytree(run, work / "run")
    valid = (run / folder.METRICS).read_bytes()
    records = [json.loads(line) for line in valid.splitlines()]

    def feed(data: bytes) -> None:
        path = work / "run" / folder.METRICS
        path.write_bytes(data)
        try:
            sums.check(work / "run")
            assert data == valid
        finally:
            folder.write_metrics(work / "run", records)
            assert path.read_bytes() == valid

    return Target([valid], feed)


def run_target(work: Path, run: Path) -> Target:
    """The first byte says which file of a run's folder it is, checkpoints included."""
    from twostage_jax.runs.open import open_run

    # Checkpoints name their arrays by random numbers: in the order of size, then.
    found = [path for path in run.rglob("*") if path.is_file() and path.stat().st_size]
    names = sorted(found, key=lambda path: (str(path.parent), path.stat().st_size))[:256]
    valid = [path.read_bytes() for path in names]
    seeds = [bytes([index]) + content for index, content in enumerate(valid)]

    whole = digest(open_run(run).trained.params)

    def feed(data: bytes) -> None:
        own = work / "run"
        shutil.rmtree(own, ignore_errors=True)
        shutil.copytree(run, own)
        which = (data[0] if data else 0) % len(names)
        (own / names[which].relative_to(run)).write_bytes(data[1:])
        assert digest(open_run(own).trained.params) == whole

    return Target(seeds, feed)


def make_run(out: Path) -> Path:
    """The smallest run there is, for the targets that read one."""
    from twostage_jax.runs.run import run

    stage: dict[str, Any] = {"epochs": 1, "widths": (4,), "batch_size": 512}
    settings = configs.PretrainConfig(**stage), configs.HeadConfig(**stage)
    wanted = configs.Config(out=out, pretrain=settings[0], head=settings[1])
    return run(wanted, terminal=Terminal(quiet=True)).folder


TARGETS: dict[str, Callable[..., Target]] = {
    "idx": idx_target,
    "gzip": lambda work: idx_target(work, packed=True),
    "npz": npz_target,
    "tfds": tfds_target,
    "config": config_target,
    "command": command_target,
    "manifest": manifest_target,
    "metrics": metrics_target,
    "run": run_target,
}
NEED_RUN = ("manifest", "metrics", "run")
