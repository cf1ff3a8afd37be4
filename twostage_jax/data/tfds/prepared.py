"""Read a folder that TensorFlow Datasets has prepared, without TFDS.

TFDS imports any module that `features.json` names, formats file names with the content of
`dataset_info.json`, and makes as many class names as it announces. A folder may come from a
stranger, so we read the few fields that we need ourselves and ignore all others.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tensorflow_datasets.proto import tf_example_pb2

from twostage_jax.data.dataset import CLASS_LIMIT, Source
from twostage_jax.data.images import decode
from twostage_jax.data.tfds.records import read_array_records, read_tfrecord
from twostage_jax.errors import UserError, shown
from twostage_jax.files import MIB, check_expanded, read_json, read_text

FEATURES = "features.json"
INFO = "dataset_info.json"
LABELS = "label.labels.txt"
PACKAGE = "tensorflow_datasets.core.features"
DICT = f"{PACKAGE}.features_dict.FeaturesDict"
IMAGE = f"{PACKAGE}.image_feature.Image"
LABEL = f"{PACKAGE}.class_label_feature.ClassLabel"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
FORMATS = ("array_record", "tfrecord")
Example = vars(tf_example_pb2)["Example"]  # protobuf makes this class during the import
NAME_LIMIT = 255  # characters of a file name, in most file systems
SHARD_LIMIT = 2**16  # files of a split; the largest data sets of TFDS have some thousands
TEXT_LIMIT = 16 * MIB  # bytes of a text file that describes a data set
AGAIN = "it is corrupted, or another version of TFDS wrote it; prepare it again"


class Features(NamedTuple):
    """Declared image shape `(H, W, C)`, None for an open axis, and the class names."""

    shape: tuple[int | None, ...]
    classes: tuple[str, ...]


class Shards(NamedTuple):
    """Files of a split, and the number of records in each."""

    paths: tuple[Path, ...]
    lengths: tuple[int, ...]


def read_prepared(folder: Path, name: str) -> Source:
    """Read the image-classification data set in `folder`, which holds one version of it.

    Raises:
        UserError: another kind of data set, an unknown file format, or a folder that is corrupted
            or names files outside of itself.
    """
    features = read_features(folder, name)
    kind, shards = read_info(folder)
    if "train" not in shards:
        raise UserError(f"tfds:{name} has no split called train: choose another data set")
    splits = {}
    for split in ("train", "test"):
        if split in shards:
            examples = [_decode_example(x, folder) for x in _read_records(shards[split], kind)]
            count = len(features.classes)
            splits[split] = decode(examples, features.shape, count, f"tfds:{name}")
    short = name.partition(":")[0].replace("/", "-")
    return Source(short, splits["train"], splits.get("test"), features.classes)


def read_features(folder: Path, name: str) -> Features:
    """Read image shape and class names from `features.json` and the file of class names.

    Raises:
        UserError: features other than images and class labels, or a corrupted file.
    """
    path = folder / FEATURES
    top = read_json(path, TEXT_LIMIT, regular=True)
    features = _get(_get(top, "featuresDict"), "features")
    if not isinstance(features, dict) or _get(top, "pythonClassName") != DICT:
        raise UserError(f"{path} is not in the format of TFDS 4.5 and later: {AGAIN}")
    image = features.get("image")
    label = features.get("label")
    kinds = (_get(image, "pythonClassName"), _get(label, "pythonClassName"))
    if kinds != (IMAGE, LABEL) or _get(_get(image, "image"), "dtype", "uint8") != "uint8":
        raise UserError(
            f"tfds:{name} is not an image-classification data set of 8-bit images: its features "
            f"are {', '.join(features) or 'none'}; choose one with image and label of TFDS's kinds"
        )
    count = _whole(_get(_get(label, "classLabel"), "numClasses"), 1, path)
    return Features(_read_shape(image, path), _read_class_names(folder, count))


def _read_shape(image: object, path: Path) -> tuple[int | None, ...]:
    dimensions = _get(_get(_get(image, "image"), "shape"), "dimensions")
    sizes = [_whole(size, -1, path) for size in _as_list(dimensions)]
    if len(sizes) != 3 or sizes[2] not in (1, 2, 3, 4):
        raise UserError(
            f"{path} has images of shape {sizes}: only [H, W, C] with 1 to 4 channels can be read"
        )
    return tuple(None if size < 0 else size for size in sizes)


def _read_class_names(folder: Path, count: int) -> tuple[str, ...]:
    path = folder / LABELS
    if count > CLASS_LIMIT:
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


def read_info(folder: Path) -> tuple[str, dict[str, Shards]]:
    """Read the file format of a prepared data set and the shards of its train and test split.

    Raises:
        UserError: a corrupted file, an unknown format, or a file name outside of `folder`.
    """
    info = read_json(folder / INFO, TEXT_LIMIT, regular=True)
    kind = _get(info, "fileFormat", "tfrecord")
    if kind not in FORMATS:
        raise UserError(
            f"{folder} is prepared as {shown(kind)}: prepare it as array_record or tfrecord, in "
            "another --data-dir"
        )
    shards = {}
    for split in _as_list(_get(info, "splits")):
        name = _get(split, "name")
        if name in ("train", "test"):
            fields = {"DATASET": _get(info, "name", ""), "SPLIT": name, "FILEFORMAT": kind}
            shards[name] = _find_shards(folder, split, fields)
    return str(kind), shards


def _find_shards(folder: Path, split: object, fields: Mapping[str, object]) -> Shards:
    path = folder / INFO
    lengths = _as_list(_get(split, "shardLengths"))
    if len(lengths) > SHARD_LIMIT:
        raise UserError(
            f"{path} has {len(lengths):,} files, but at most {SHARD_LIMIT:,} are possible: {AGAIN}"
        )
    lengths = tuple(_whole(length, 0, path) for length in lengths)
    if not sum(lengths):
        raise UserError(
            f"the {fields['SPLIT']} split of {folder} is empty: choose another data set"
        )
    template = _get(split, "filepathTemplate") or TEMPLATE
    # A dict keeps the order, and each name once.
    paths = dict.fromkeys(_shard_paths(folder, template, fields, len(lengths)))
    if len(paths) != len(lengths):
        raise UserError(f"{path} names {len(lengths):,} files and some of them twice: {AGAIN}")
    return Shards(tuple(paths), lengths)


def _shard_paths(
    folder: Path, template: object, fields: Mapping[str, object], count: int
) -> Iterator[Path]:
    """Yield the files of a split, named by the template in the folder's own description."""
    # Each field may occur many times in the template, so template and fields must be short.
    template = _short(template, folder)
    texts = {field: _short(value, folder) for field, value in fields.items()}
    digits = max(5, len(str(count)))
    total = f"{count:0{digits}}"
    for index in range(count):
        number = f"{index:0{digits}}"
        numbered = {
            "SHARD_INDEX": number,
            "NUM_SHARDS": total,
            "SHARD_X_OF_Y": f"{number}-of-{total}",
        }
        text = template
        # Not `str.format`, which would look up attributes of the values.
        for field, value in {**texts, **numbered}.items():
            text = text.replace(f"{{{field}}}", value)
        yield _resolve(folder, text)


def _short(value: object, folder: Path) -> str:
    if isinstance(value, str) and len(value) <= NAME_LIMIT:
        return value
    raise UserError(
        f"{folder / INFO} has {shown(value)} in the names of its files, but only text of at most "
        f"{NAME_LIMIT} characters is allowed: {AGAIN}"
    )


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
    compressed = sum(path.stat().st_size for path in shards.paths)
    expanded = 0
    for path, length in zip(shards.paths, shards.lengths, strict=True):
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


def _get(values: object, name: str, default: object = None) -> object:
    """Return a field of a JSON object, or `default` if `values` is another value or lacks it."""
    return values.get(name, default) if isinstance(values, dict) else default


def _as_list(value: object) -> list[object]:
    """Return a JSON array, or an empty list for any other value."""
    return value if isinstance(value, list) else []


def _whole(value: object, least: int, path: Path) -> int:
    """Convert a whole number, which protobuf writes to JSON as text."""
    text = str(value)
    # At most 19 characters, because Python takes quadratic time for long numbers.
    if isinstance(value, bool) or len(text) > 19 or not text.removeprefix("-").isdecimal():
        raise UserError(f"{path} has {shown(text[:40])} instead of a whole number: {AGAIN}")
    number = int(text)
    if number < least:
        raise UserError(f"{path} has {number}, but at least {least} is necessary: {AGAIN}")
    return number
