"""Read a folder that TensorFlow Datasets has prepared, without TFDS.

TFDS imports any module that `features.json` names, formats file names with the content of
`dataset_info.json`, and makes as many class names as it announces. A folder may come from a
stranger, so we read the few fields that we need ourselves and ignore all others.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from tensorflow_datasets.core.proto import dataset_info_pb2, feature_pb2
from tensorflow_datasets.proto import tf_example_pb2

from twostage_jax.data.images import decode
from twostage_jax.data.names import PARTS
from twostage_jax.data.pixels import Array
from twostage_jax.data.raw import EMNIST, Part, Raw, as_source
from twostage_jax.data.source import CLASS_LIMIT, Source
from twostage_jax.data.tfds.records import read_array_records, read_tfrecord
from twostage_jax.errors import UserError, shown
from twostage_jax.files import MIB, check_expanded, read_text

# protobuf makes these classes during the import, so a type checker does not see them.
DatasetInfo = vars(dataset_info_pb2)["DatasetInfo"]
Example = vars(tf_example_pb2)["Example"]
Feature = vars(feature_pb2)["Feature"]
FEATURES = "features.json"
INFO = "dataset_info.json"
LABELS = "label.labels.txt"
PACKAGE = "tensorflow_datasets.core.features"
# Not their subclasses: other code would read what those write.
DICT = f"{PACKAGE}.features_dict.FeaturesDict"
IMAGE = f"{PACKAGE}.image_feature.Image"
LABEL = f"{PACKAGE}.class_label_feature.ClassLabel"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
FORMATS = ("array_record", "tfrecord")
NAME_LIMIT = 255  # characters of a file name, in most file systems
SHARD_LIMIT = 2**16  # files of a split; the largest data sets of TFDS have some thousands
TEXT_LIMIT = 16 * MIB  # bytes of a text file that describes a data set
AGAIN = "it is corrupted, or another version of TFDS wrote it; prepare it again"
Shards = dict[Path, int]  # files of a split, and the number of records in each


def read_prepared(folder: Path, name: str) -> Source:
    """Read the image-classification data set in `folder`, which holds one version of it.

    Raises:
        UserError: another kind of data set, an unknown file format, or a folder that is corrupted
            or names files outside of itself.
    """
    features = _read_message(folder / FEATURES, Feature())
    check_features(features, name)
    image, label = (features.features_dict.features[key] for key in ("image", "label"))
    shape = tuple(None if size < 0 else size for size in image.image.shape.dimensions)
    classes = _read_class_names(folder, label.class_label.num_classes)
    kind, shards, unused = _read_info(folder)
    if not shards:
        raise UserError(f"tfds:{name} has no split called train: choose another data set")
    parts = {}
    for split, files in shards.items():
        where = f"tfds:{name}: {split}"
        examples = [_decode_example(record, folder) for record in _read_records(files, kind)]
        values = decode(examples, shape, len(classes), f"tfds:{name}")
        label = None if split == "unlabelled" else Array(values["label"], where)
        parts[split] = Part(Array(values["image"], where), label)
    short = name.partition(":")[0].replace("/", "-")
    notes = (EMNIST,) if short.startswith("emnist") else ()
    return as_source(Raw(short, parts, classes, unused, notes))


def _read_message(path: Path, message: Any) -> Any:
    """Read a JSON file into the protobuf message that TFDS wrote it from."""
    text = read_text(path, TEXT_LIMIT, regular=True)
    try:
        # protobuf checks the type of every field, and calls nothing that a file names.
        return json_format.Parse(text, message, ignore_unknown_fields=True)
    except Exception as error:  # each backend of protobuf has error types of its own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read {path}: {reason}; {AGAIN}") from error


def check_features(features: Any, name: str) -> None:
    """Check that a data set consists of 8-bit images and class labels.

    Args:
        features: `Feature`, as `FeatureConnector.to_proto` gives it.
        name: of the data set, for messages.

    Raises:
        UserError: other features, or a folder that an old version of TFDS wrote.
    """
    inner = features.features_dict.features
    names = sorted(inner)
    kinds = [inner[key].python_class_name for key in ("image", "label") if key in inner]
    image = inner["image"].image
    if (
        features.python_class_name != DICT
        or kinds != [IMAGE, LABEL]
        or image.dtype not in ("", "uint8")  # empty is TFDS's default, uint8
    ):
        raise UserError(
            f"tfds:{name} is not an image-classification data set of 8-bit images in the format "
            f"of TFDS 4.5 and later: its features are {', '.join(names) or 'none'}; choose one "
            "with image and label"
        )
    sizes = list(image.shape.dimensions)
    if len(sizes) != 3 or min(sizes) < -1 or not 1 <= sizes[2] <= 4:
        raise UserError(
            f"tfds:{name} has images of shape {sizes}: only [H, W, C] with 1 to 4 channels can be "
            "read"
        )


def _read_class_names(folder: Path, count: int) -> tuple[str, ...]:
    path = folder / LABELS
    if not 1 <= count <= CLASS_LIMIT:
        raise UserError(
            f"{folder} announces {count:,} classes: choose a data set with at most {CLASS_LIMIT:,}"
        )
    if not path.exists():
        return tuple(map(str, range(count)))
    lines = read_text(path, TEXT_LIMIT, regular=True).split("\n")
    names = tuple(line.strip() for line in lines if line.strip())
    different = len(set(names))
    if len(names) != count or different != count:
        raise UserError(
            f"{path} has {different} different names and {FEATURES} announces {count} classes: "
            "the numbers must agree; prepare it again"
        )
    return names


def _read_info(folder: Path) -> tuple[str, dict[str, Shards], tuple[str, ...]]:
    """Read the file format of a prepared data set, the shards of its splits, and unused splits."""
    info = _read_message(folder / INFO, DatasetInfo())
    kind = info.file_format or "tfrecord"
    if kind not in FORMATS:
        raise UserError(
            f"{folder} is prepared as {shown(kind)}: prepare it as array_record or tfrecord, in "
            "another --data-dir"
        )
    shards: dict[str, Shards] = {}
    unused = []
    for split in info.splits:
        part = PARTS.get(split.name)
        if part is None or part in shards:
            unused.append(f"split {shown(split.name)}")
            continue
        lengths = tuple(split.shard_lengths)
        fields = {"DATASET": info.name, "SPLIT": split.name, "FILEFORMAT": kind}
        template = split.filepath_template or TEMPLATE
        shards[part] = _find_shards(folder, lengths, template, fields)
    return kind, shards, tuple(unused)


def _find_shards(
    folder: Path, lengths: tuple[int, ...], template: str, fields: Mapping[str, str]
) -> Shards:
    path = folder / INFO
    if len(lengths) > SHARD_LIMIT:
        raise UserError(
            f"{path} has {len(lengths):,} files, but at most {SHARD_LIMIT:,} are possible: {AGAIN}"
        )
    if min(lengths, default=0) < 0 or not sum(lengths):
        raise UserError(
            f"the {fields['SPLIT']} split of {folder} is empty: choose another data set"
        )
    # Each field may occur many times in the template, so template and fields must be short.
    for text in (template, *fields.values()):
        if len(text) > NAME_LIMIT:
            raise UserError(
                f"{path} has {shown(text)} in the names of its files, but only text of at most "
                f"{NAME_LIMIT} characters is allowed: {AGAIN}"
            )
    names = dict(zip(_shard_names(template, fields, len(lengths)), lengths, strict=True))
    if len(names) != len(lengths):
        raise UserError(f"{path} names {len(lengths):,} files and some of them twice: {AGAIN}")
    return {_resolve(folder, name): length for name, length in names.items()}


def _shard_names(template: str, fields: Mapping[str, str], count: int) -> Iterator[str]:
    digits = max(5, len(str(count)))
    total = f"{count:0{digits}}"
    for index in range(count):
        number = f"{index:0{digits}}"
        numbered = {
            "SHARD_INDEX": number,
            "NUM_SHARDS": total,
            "SHARD_X_OF_Y": f"{number}-of-{total}",
        }
        name = template
        # Not `str.format`, which would look up attributes of the values.
        for field, value in {**fields, **numbered}.items():
            name = name.replace(f"{{{field}}}", value)
        yield name


def _resolve(folder: Path, text: str) -> Path:
    """Return the path of a file of the folder by the name that the folder's description gives."""
    path = Path(text)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{folder / INFO} names the file {text}, outside of its folder: {AGAIN}")
    try:
        if (folder / path).is_file():
            return folder / path
    except (OSError, ValueError):  # a name that is too long, or has a zero byte
        pass
    raise UserError(f"{folder} lacks the file {text}: prepare it again")


def _read_records(shards: Shards, kind: str) -> Iterator[bytes]:
    compressed = sum(path.stat().st_size for path in shards)
    expanded = 0
    for path, length in shards.items():
        if kind == "array_record":
            records = read_array_records(path, length)
        else:
            records = list(read_tfrecord(path))
        if len(records) != length:
            raise UserError(
                f"{path} has {len(records):,} records, but {length:,} are announced: prepare it "
                "again"
            )
        # Each file was compared with its own size; many small bombs would add up.
        expanded += sum(map(len, records))
        check_expanded(path.parent, expanded, compressed, "prepare it as tfrecord")
        yield from records


def _decode_example(record: bytes, folder: Path) -> tuple[bytes, int]:
    """Return the encoded image and the label of a record."""
    try:
        features = Example.FromString(record).features.feature
        (image,) = features["image"].bytes_list.value
        (label,) = features["label"].int64_list.value
        return image, label
    except Exception as error:  # each backend of protobuf has an error type of its own
        raise UserError(f"{folder} has a record without an image and a label: {AGAIN}") from error
