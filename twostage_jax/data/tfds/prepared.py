"""A folder that TensorFlow Datasets has prepared, read without TFDS.

TFDS imports whatever module `features.json` names, formats file names with what
`dataset_info.json` says, and makes as many class names as it is told. A folder may come from a
stranger, so the little there is to know is read here: what is not named here is never used.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tensorflow_datasets.proto import tf_example_pb2

from twostage_jax.data.dataset import MOST_CLASSES, Source
from twostage_jax.data.images import decode
from twostage_jax.data.tfds.records import read_array_records, read_tfrecord
from twostage_jax.errors import UserError, shown
from twostage_jax.files import MIB, check_expanded, read_json, read_text

FEATURES, INFO, LABELS = "features.json", "dataset_info.json", "label.labels.txt"
_OF_TFDS = "tensorflow_datasets.core.features."
DICT = f"{_OF_TFDS}features_dict.FeaturesDict"
IMAGE = f"{_OF_TFDS}image_feature.Image"
LABEL = f"{_OF_TFDS}class_label_feature.ClassLabel"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_EXAMPLE: Any = vars(tf_example_pb2)["Example"]  # made by protobuf when it is imported
LONGEST_NAME = 255  # of a file, in most file systems
MOST_SHARDS = 2**16  # a file each; the largest sets of TFDS have some thousands
SMALL = 16 * MIB  # of a text file that describes a set
DAMAGED = "it is damaged, or written by another version of TFDS; prepare it again"


class Features(NamedTuple):
    """Declared shape `(H, W, C)` of the images, None where it is open, and the class names."""

    shape: tuple[int | None, ...]
    classes: tuple[str, ...]


class Part(NamedTuple):
    """The files of a split, and how many records each has."""

    paths: tuple[Path, ...]
    lengths: tuple[int, ...]


def read_prepared(folder: Path, name: str) -> Source:
    """The image-classification set in `folder`, which belongs to one version of it.

    Raises:
        UserError: another kind of set, a format that is not read, a folder that is damaged or names
            files outside of it.
    """
    features = read_features(folder, name)
    kind, parts = read_info(folder)
    if "train" not in parts:
        raise UserError(f"tfds:{name} has no split called train: choose another set")
    splits = []
    for part in ("train", "test"):
        if part in parts:
            examples = [_example(record, folder) for record in _records(parts[part], kind)]
            splits.append(decode(examples, features.shape, len(features.classes), f"tfds:{name}"))
    short = name.partition(":")[0].replace("/", "-")
    return Source(short, splits[0], splits[1] if len(splits) == 2 else None, features.classes)


def read_features(folder: Path, name: str) -> Features:
    """What `features.json` and the file with the class names say.

    Raises:
        UserError: features that are no images and class labels, or a damaged file.
    """
    path = folder / FEATURES
    top = read_json(path, SMALL, regular=True)
    of = _get(_get(top, "featuresDict", {}), "features", {})
    if not isinstance(of, dict) or _get(top, "pythonClassName") != DICT:
        raise UserError(f"{path} is not what TFDS 4.5 and later write: {DAMAGED}")
    image, label = of.get("image"), of.get("label")
    kinds = (_get(image, "pythonClassName"), _get(label, "pythonClassName"))
    inner = _get(image, "image", {})
    if kinds != (IMAGE, LABEL) or _get(inner, "dtype", "uint8") != "uint8":
        raise UserError(
            f"tfds:{name} is no image-classification set of 8-bit images: its features are "
            f"{', '.join(of) or 'none'}, and image and label of TFDS's own kinds are needed"
        )
    dimensions = _get(_get(inner, "shape", {}), "dimensions", [])
    sizes = [_whole(x, -1, path) for x in (dimensions if isinstance(dimensions, list) else [])]
    if len(sizes) != 3 or sizes[2] not in (1, 2, 3, 4):
        raise UserError(
            f"{path} has images of shape {sizes}: [H, W, C] with 1 to 4 channels is read"
        )
    count = _whole(_get(_get(label, "classLabel", {}), "numClasses"), 1, path)
    shape = tuple(None if size < 0 else size for size in sizes)
    return Features(shape, _class_names(folder, count))


def _class_names(folder: Path, count: int) -> tuple[str, ...]:
    path = folder / LABELS
    if count > MOST_CLASSES:
        raise UserError(f"{folder} announces {count:,} classes: at most {MOST_CLASSES:,} are read")
    if not path.exists():
        return tuple(map(str, range(count)))
    lines = read_text(path, SMALL, regular=True).split("\n")
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != count or len(set(names)) != count:
        raise UserError(
            f"{path} has {len(set(names))} different names and {FEATURES} {count} classes: they "
            "must agree; prepare it again"
        )
    return names


def read_info(folder: Path) -> tuple[str, dict[str, Part]]:
    """The format of the files of a prepared set, and its splits.

    Raises:
        UserError: a damaged file, a format that is not read, a name that leads out of `folder`.
    """
    path = folder / INFO
    info = read_json(path, SMALL, regular=True)
    kind = _get(info, "fileFormat", "tfrecord")
    if kind not in ("array_record", "tfrecord"):
        raise UserError(
            f"{folder} is prepared as {str(kind)[:40]}: prepare it as array_record or tfrecord, in "
            "another --data-dir"
        )
    splits, parts = _get(info, "splits", []), {}
    for split in splits if isinstance(splits, list) else []:
        if (name := _get(split, "name")) in ("train", "test"):
            parts[name] = _part(folder, info, kind, split)
    return kind, parts


def _part(folder: Path, info: Any, kind: str, split: Any) -> Part:
    path = folder / INFO
    found = _get(split, "shardLengths", [])
    found = found if isinstance(found, list) else []
    if len(found) > MOST_SHARDS:
        raise UserError(f"{path} has {len(found):,} files, the most is {MOST_SHARDS:,}: {DAMAGED}")
    lengths = tuple(_whole(x, 0, path) for x in found)
    if not sum(lengths):
        raise UserError(f"the {split['name']} part of {folder} is empty: it needs examples")
    fixed = {"DATASET": _get(info, "name", ""), "SPLIT": split["name"], "FILEFORMAT": kind}
    template = _get(split, "filepathTemplate", "") or TEMPLATE
    # A dict, which keeps the order and each name once.
    paths = dict.fromkeys(_files(folder, template, fixed, len(lengths)))
    if len(paths) != len(lengths):
        raise UserError(f"{path} names {len(lengths):,} files and some of them twice: {DAMAGED}")
    return Part(tuple(paths), lengths)


def _files(folder: Path, template: Any, fixed: Mapping[str, Any], count: int) -> Iterator[Path]:
    """The files of a split, whose names the folder's own description makes up.

    Each name in braces may become a long text, so what is expanded is short and so is the result.
    """
    for text in (template, *fixed.values()):
        if not isinstance(text, str) or len(text) > LONGEST_NAME:
            raise UserError(
                f"{folder / INFO} has {shown(text)} in the names of its files, and text of at most "
                f"{LONGEST_NAME} characters is expected: {DAMAGED}"
            )
    digits = max(5, len(str(count)))
    for index in range(count):
        number, total, text = f"{index:0{digits}}", f"{count:0{digits}}", template
        own = {
            "SHARD_INDEX": number,
            "NUM_SHARDS": total,
            "SHARD_X_OF_Y": f"{number}-of-{total}",
        }
        # Not `format`, which would look up attributes of what it is given.
        for key, value in {**fixed, **own}.items():
            text = text.replace(f"{{{key}}}", value)
        yield _inside(folder, text)


def _inside(folder: Path, text: str) -> Path:
    """A file of the folder, by the name that the folder's own description gives it."""
    path = Path(text)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{folder / INFO} names the file {text}, outside of its folder: {DAMAGED}")
    try:
        if (folder / path).is_file():
            return folder / path
    except (OSError, ValueError):  # a name that is too long, or has a zero byte
        pass
    raise UserError(f"{folder} lacks the file {text}: prepare it again")


def _records(part: Part, kind: str) -> Iterator[bytes]:
    packed, expanded = sum(path.stat().st_size for path in part.paths), 0
    for path, length in zip(part.paths, part.lengths, strict=True):
        if kind == "array_record":
            found = read_array_records(path, length)
        else:
            found = list(read_tfrecord(path))
        if len(found) != length:
            raise UserError(
                f"{path} has {len(found):,} records and {length:,} are announced: prepare it again"
            )
        # Each file was held to its own size, of which many small ones would make much.
        expanded += sum(map(len, found))
        check_expanded(path.parent, expanded, packed, "prepare it as tfrecord")
        yield from found


def _example(record: bytes, folder: Path) -> tuple[bytes, int]:
    """The encoded image and the label of a record."""
    try:
        features = _EXAMPLE.FromString(record).features.feature
        (image,) = features["image"].bytes_list.value
        (label,) = features["label"].int64_list.value
        return image, label
    except Exception as error:  # protobuf has an error of its own for each of its backends
        raise UserError(f"{folder} has a record without an image and a label: {DAMAGED}") from error


def _get(values: Any, name: str, default: Any = None) -> Any:
    return values.get(name, default) if isinstance(values, dict) else default


def _whole(value: Any, least: int, path: Path) -> int:
    """A whole number, which JSON written by protobuf has as text."""
    text = str(value)
    if isinstance(value, bool) or len(text) > 19 or not text.removeprefix("-").isdecimal():
        raise UserError(f"{path} has {text[:40]!r} for a whole number: {DAMAGED}")
    if int(text) < least:
        raise UserError(f"{path} has {text} where at least {least} is expected: {DAMAGED}")
    return int(text)
