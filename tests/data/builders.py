"""Files that the readers of the data room take, made from tiny arrays."""

import gzip
import importlib
import io
import json
import struct

import google_crc32c
import numpy as np
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def arrays(count=60, classes=3, seed=0):
    """Random images `[N, 5, 4]` and labels `[N]`, both uint8."""
    image = np.random.RandomState(seed).randint(0, 256, (count, 5, 4)).astype(np.uint8)
    return image, (np.arange(count) % classes).astype(np.uint8)


def split(count, seed=0, classes=3):
    """Random examples of 3×2 pixels as a split."""
    image = np.random.RandomState(seed).randint(0, 256, (count, 3, 2, 1)).astype(np.uint8)
    return {"image": image, "label": np.arange(count, dtype=np.int32) % classes}


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write_idx(folder, parts=("train", "test"), gz=False, dotted=False):
    """The files of an `idx:` source, 60 examples in each split."""
    for seed, part in enumerate(parts):
        for name, array in zip(NAMES[part], arrays(seed=seed), strict=True):
            name = name.replace("-idx", ".idx") if dotted else name
            content = idx_bytes(array)
            path = folder / (f"{name}.gz" if gz else name)
            path.write_bytes(gzip.compress(content) if gz else content)
    return folder


def write_npz(path, **values):
    np.savez(path, **values)
    return f"npz:{path}"


def png(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def example(image, label):
    """An encoded image and its label as a serialised `tf.train.Example`."""
    message = vars(tf_example_pb2)["Example"]()
    message.features.feature["image"].bytes_list.value.append(image)
    message.features.feature["label"].int64_list.value.append(label)
    return message.SerializeToString()


def frame(record):
    """A record with its length and checksums, as in a TFRecord file."""
    size = struct.pack("<Q", len(record))
    return size + _masked_crc(size) + record + _masked_crc(record)


def _masked_crc(content):
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def write_array_record(path, records):
    module = importlib.import_module("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def write_prepared(folder, kind="tfrecord", records=None, change=None):
    """A prepared folder of 5×4 images in three classes; `change(info, split)` edits its info."""
    if records is None:
        records = [example(png(arrays(1)[0][0]), 0)]
    folder.mkdir(parents=True, exist_ok=True)
    core = "tensorflow_datasets.core.features"
    image = {
        "image": {"dtype": "uint8", "shape": {"dimensions": ["5", "4", "1"]}},
        "pythonClassName": f"{core}.image_feature.Image",
    }
    label = {
        "classLabel": {"numClasses": "3"},
        "pythonClassName": f"{core}.class_label_feature.ClassLabel",
    }
    features = {
        "featuresDict": {"features": {"image": image, "label": label}},
        "pythonClassName": f"{core}.features_dict.FeaturesDict",
    }
    part = {"name": "train", "numBytes": "9", "shardLengths": [str(len(records))]}
    part["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": kind, "splits": [part]}
    if change:
        change(info, part)
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "label.labels.txt").write_text("one\ntwo\nthree\n")
    path = folder / f"tiny-train.{kind}-00000-of-00001"
    if kind == "tfrecord":
        path.write_bytes(b"".join(map(frame, records)))
    else:
        write_array_record(path, records)
    return folder
