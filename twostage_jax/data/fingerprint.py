"""Digests that identify examples, splits and data sets."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from twostage_jax.data.split import Split


def fingerprint(splits: Sequence[Mapping[str, np.ndarray]], ordered: bool = False) -> str:
    """Compute `sha256:…` over the image shape and the example digests of each split.

    Args:
        splits: `image`, optionally `label`, and optionally the `digest` of each example.
        ordered: True to let the order of the examples count. By default their digests are sorted,
            because TFDS shuffles what it prepares: the same examples then have one fingerprint.
    """
    total = hashlib.sha256()
    for split in splits:
        total.update(str(split["image"].shape).encode())
        digests = split["digest"] if "digest" in split else example_digests(split)
        if not ordered:
            digests = np.sort(digests)
        total.update(digests.tobytes())
    return f"sha256:{total.hexdigest()}"


def example_digests(split: Mapping[str, np.ndarray]) -> np.ndarray:
    """Compute the SHA-256 of each example, 32 bytes `[N]`, over its image and label if it has one.

    The label is hashed as four little-endian bytes behind those of the image.
    """
    labels = [b""] * len(split["image"])
    if "label" in split:  # unlabelled images have none
        labels = [int(label).to_bytes(4, "little") for label in split["label"]]
    digests = [
        hashlib.sha256(image.tobytes() + label).digest()
        for image, label in zip(split["image"], labels, strict=True)
    ]
    return np.frombuffer(b"".join(digests), "S32")


def duplicates(splits: Mapping[str, Split]) -> dict[str, int]:
    """Count, for each pair of splits, the images of the later one that the earlier one has too.

    Keys are `"train and test"` and so on. Images are compared byte for byte, labels are ignored.
    """
    images = {name: [x.tobytes() for x in split["image"]] for name, split in splits.items()}
    names = list(images)
    counts = {}
    for position, earlier in enumerate(names):
        seen = set(images[earlier])  # bytes of whole images, so a hit is no collision
        for later in names[position + 1 :]:
            counts[f"{earlier} and {later}"] = sum(image in seen for image in images[later])
    return counts
