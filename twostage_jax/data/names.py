"""Meaning of the names of arrays and files: images or labels, and the split.

Names are compared word by word, in any case and order: `x_train`, `train_images`, `images.test`
and `emnist-letters-train-images-idx3-ubyte` are all understood.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from twostage_jax.errors import UserError

WORDS_OF_PARTS = {
    "train": ("train", "training", "tr"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "te", "t10k"),
    "unlabelled": ("unlabelled", "unlabeled"),
}
PARTS = {word: part for part, words in WORDS_OF_PARTS.items() for word in words}
# Each word for images goes with the word for labels at its side.
PAIRS = {
    "image": "label",
    "images": "labels",
    "img": "label",
    "imgs": "labels",
    "x": "y",
    "data": "target",
    "pixels": "labels",
    "inputs": "targets",
}
IMAGE_WORDS = tuple(PAIRS)
LABEL_WORDS = (*dict.fromkeys(PAIRS.values()), "lbl", "lbls")
KINDS = {word: "image" for word in IMAGE_WORDS}
KINDS |= {word: "label" for word in LABEL_WORDS}
KINDS |= {"weight": "weight", "weights": "weight"}
CLASS_NAMES = ("class_names", "classes", "label_names", "target_names", "categories")
GLUED = re.compile(
    rf"({'|'.join(KINDS)})({'|'.join(PARTS)})|({'|'.join(PARTS)})({'|'.join(KINDS)})"
)


class Meaning(NamedTuple):
    """Meaning of a name.

    Attributes:
        kind: `image`, `label`, `weight` or `classes`.
        part: `train`, `validation`, `test`, `unlabelled`, or `""` if the name has no such word.
        rest: the other words.
    """

    kind: str
    part: str
    rest: tuple[str, ...]


def parse(name: str) -> Meaning | None:
    """Return the meaning of a name; None if it has no word for images or labels.

    >>> parse("x_train"), parse("emnist-letters-test-images")
    (Meaning(kind='image', part='train', rest=()),
     Meaning(kind='image', part='test', rest=('emnist', 'letters')))
    """
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=^[XY])(?=[A-Z][a-z])", "_", name)
    words: list[str] = []
    for word in filter(None, re.split(r"[^a-z0-9]+", separated.lower())):
        glued = GLUED.fullmatch(word)
        words += filter(None, glued.groups()) if glued else [word]
    if "_".join(words) in CLASS_NAMES:
        return Meaning("classes", "", ())
    kinds = [KINDS[word] for word in words if word in KINDS]
    parts = [PARTS[word] for word in words if word in PARTS]
    if not kinds and parts == ["unlabelled"]:
        kinds = ["image"]
    if len(kinds) != 1 or len(parts) > 1:
        return None
    rest = tuple(word for word in words if word not in KINDS and word not in PARTS)
    return Meaning(kinds[0], parts[0] if parts else "", rest)


def partner(name: str) -> str:
    """Return the name of the labels that belong to images called `name`, or the other way round."""
    pairs = {**PAIRS, "X": "y"}
    for label, image in (("label", "image"), ("labels", "images"), ("y", "x"), ("target", "data")):
        pairs[label] = image
    pairs["targets"] = "inputs"
    for word in re.findall(r"[A-Za-z]+", name):
        if word in pairs:
            return re.sub(rf"(?<![A-Za-z]){word}(?![A-Za-z])", pairs[word], name, count=1)
    return f"the counterpart of {name}"


Slots = dict[str, dict[str, str]]  # part -> kind -> name


def assign(meanings: Mapping[str, Meaning], where: str) -> tuple[Slots, list[str]]:
    """Find the one array for each part and kind; return them and the names that are left over.

    A name without a split belongs to train.

    Raises:
        UserError: two names for one thing.
    """
    slots: dict[tuple[str, str], list[str]] = {}
    for name, meaning in meanings.items():
        slots.setdefault((meaning.part or "train", meaning.kind), []).append(name)
    chosen: Slots = {}
    unused = []
    for (part, kind), names in slots.items():
        # scikit-learn stores the images twice: as `images`, and as rows in `data`.
        kept = [name for name in names if name != "data"] if "images" in names else names
        if len(kept) > 1:
            raise UserError(
                f"{where} has {' and '.join(kept)}, and both names mean the {part} {kind}s: "
                "keep one of them"
            )
        unused += [name for name in names if name not in kept]
        chosen.setdefault(part, {})[kind] = kept[0]
    return chosen, unused


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Return the first names as a list in words."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
