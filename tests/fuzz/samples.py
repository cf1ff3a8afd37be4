"""Small valid files of every format that the package reads."""

import importlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

array_record: Any = importlib.import_module("array_record.python.array_record_module")
IMAGE = np.arange(12 * 5 * 4, dtype=np.uint8).reshape(12, 5, 4)
LABEL = np.arange(12, dtype=np.uint8) % 3


def idx_bytes(array: np.ndarray) -> bytes:
    """Write an array of bytes as an IDX file."""
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def npz_files() -> list[bytes]:
    """Write the images as NumPy archives, compressed or not, with several namings."""
    files = []
    for save in (np.savez, np.savez_compressed):
        for image in (IMAGE, (IMAGE / 255).astype(np.float32)):
            buffer = io.BytesIO()
            save(buffer, image=image, label=LABEL)
            files.append(buffer.getvalue())
    text = np.array(["a", "b", "c"])
    several = {"x_train": IMAGE, "y_train": LABEL, "x_test": IMAGE[:3], "y_test": LABEL[:3]}
    rows = IMAGE[:, :4].reshape(12, 16)
    named = {"data": rows, "target": np.eye(3)[LABEL], "class_names": text}
    more = {
        "images": IMAGE > 9,
        "labels": text[LABEL],
        "weight": LABEL < 2,
        "unlabelled": IMAGE > 8,
    }
    for values in (several, named, more, {"arr_0": IMAGE // 15, "arr_1": LABEL + 1}):
        buffer = io.BytesIO()
        np.savez(buffer, **values)
        files.append(buffer.getvalue())
    return files


def frame(record: bytes) -> bytes:
    """Frame a record as in a TFRecord file."""
    size = struct.pack("<Q", len(record))
    return size + _masked_crc(size) + record + _masked_crc(record)


def _masked_crc(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def png(image: np.ndarray, kind: str = "PNG") -> bytes:
    """Write an image as a PNG or JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def example(image: bytes, label: int) -> bytes:
    """Serialise an example as TFDS does."""
    message = vars(tf_example_pb2)["Example"]()
    message.features.feature["image"].bytes_list.value.append(image)
    message.features.feature["label"].int64_list.value.append(label)
    return message.SerializeToString()


def write_prepared(folder: Path, kind: str, records: list[bytes]) -> None:
    """Write a folder as TFDS prepares it, with 5×4 images in three classes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.json").write_text(json.dumps(_features()))
    (folder / "dataset_info.json").write_text(json.dumps(_info(kind, len(records))))
    (folder / "label.labels.txt").write_text("one\ntwo\nthree\n")
    path = folder / f"tiny-train.{kind}-00000-of-00001"
    if kind == "tfrecord":
        path.write_bytes(b"".join(map(frame, records)))
    else:
        write_array_record(path, records)


def write_array_record(path: Path, records: list[bytes]) -> None:
    """Write records as an `array_record` file."""
    writer = array_record.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def _features() -> dict[str, Any]:
    core = "tensorflow_datasets.core.features"
    image = {"dtype": "uint8", "shape": {"dimensions": ["5", "4", "1"]}}
    features = {
        "image": {"image": image, "pythonClassName": f"{core}.image_feature.Image"},
        "label": {
            "classLabel": {"numClasses": "3"},
            "pythonClassName": f"{core}.class_label_feature.ClassLabel",
        },
    }
    return {
        "featuresDict": {"features": features},
        "pythonClassName": f"{core}.features_dict.FeaturesDict",
    }


def _info(kind: str, count: int) -> dict[str, Any]:
    split = {
        "name": "train",
        "numBytes": "9",
        "shardLengths": [str(count)],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    return {"name": "tiny", "version": "1.0.0", "fileFormat": kind, "splits": [split]}
