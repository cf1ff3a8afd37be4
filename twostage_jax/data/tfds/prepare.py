"""TensorFlow Datasets, without TensorFlow wherever that can be done.

A prepared folder is read as it is, by `prepared`. What is not prepared, TFDS prepares: through our
own builder for the sets that come as four IDX files, through its own for the others, most of which
need TensorFlow to be installed while they are being prepared.
"""

import contextlib
import io
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import read_only_builder, registered
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.core.utils import error_utils

from twostage_jax.data import idx
from twostage_jax.data.dataset import Source
from twostage_jax.data.tfds.prepared import read_prepared
from twostage_jax.errors import UserError, did_you_mean
from twostage_jax.files import MIB, open_regular, read_json, read_text
from twostage_jax.signals import interrupt_as_exception

IDX_SETS = {
    "mnist": tfds.image_classification.MNIST,
    "fashion_mnist": tfds.image_classification.FashionMNIST,
    "kmnist": tfds.image_classification.KMNIST,
}
NETWORK_SECONDS = 4.0


def read(name: str, data_dir: str | Path | None = None) -> Source:
    """The data set `name` from `data_dir` (by default TFDS's own folder), prepared if need be.

    Raises:
        UserError: an unknown set, one that is no image classification, no network to download
            with, checksums that disagree, or TensorFlow missing where TFDS needs it.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)  # advice to install OpenCV, and the like
    tfds.disable_progress_bar()
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = _prepared(name, root)
    if folder is None:
        builder = _builder(name, root)
        _check_features(builder.info.features, name)
        _prepare(builder, name, root)
        folder = Path(builder.data_dir)
    return read_prepared(folder, name)


def _check_features(features: Any, name: str) -> None:
    names = list(features) if isinstance(features, tfds.features.FeaturesDict) else []
    good = (
        {"image", "label"} <= set(names)
        and isinstance(features["image"], tfds.features.Image)
        and features["image"].np_dtype == np.uint8
        and isinstance(features["label"], tfds.features.ClassLabel)
    )
    if not good:
        raise UserError(
            f"tfds:{name} is no image-classification set of 8-bit images: its features are "
            f"{', '.join(names) or features}, and image and label are needed"
        )


def _prepared(name: str, root: Path) -> Path | None:
    """The folder of `name` below `root`, where there is one that TFDS has prepared."""
    metadata = root / re.split("[/:]", name)[0] / ".config" / "metadata.json"
    if metadata.exists():  # TFDS would wait for a pipe
        read_json(metadata, MIB, regular=True)
    try:
        with error_utils.record_error_context():
            found = read_only_builder._find_builder_dir(name, data_dir=str(root))
    except Exception as error:  # a damaged description of configs, a folder without permission
        raise UserError(f"cannot look for tfds:{name} in {root}: {_first_line(error)}") from error
    return None if found is None else Path(found)


def _builder(name: str, root: Path) -> Any:
    options: dict[str, Any] = {"data_dir": str(root), "file_format": "array_record"}
    if name in IDX_SETS:
        return _idx_builder(name)(**options)
    try:
        return tfds.builder(name, **options)
    except registered.DatasetNotFoundError as error:
        names = tfds.list_builders(with_community_datasets=False)
        raise UserError(
            f"TensorFlow Datasets has no set {name!r}: {did_you_mean(name, names, limit=6)}"
        ) from error
    except Exception as error:  # the set's own code, which may raise anything
        raise UserError(
            f"TensorFlow Datasets cannot open {name!r}: {_first_line(error)}"
        ) from error


def _idx_builder(name: str) -> Any:
    """TFDS's builder of `name`, reading the files and writing the PNGs without TensorFlow.

    The prepared folder is the standard one, in TFDS's own order.
    """
    stock = IDX_SETS[name]

    def split_generators(self: Any, dl_manager: Any) -> dict[str, Any]:
        urls = {
            part: [f"{stock.URL}{file}.gz" for file in files] for part, files in idx.FILES.items()
        }
        paths = dl_manager.download(urls)
        return {part: self._generate_examples(*files) for part, files in paths.items()}

    def generate_examples(self: Any, images: Any, labels: Any) -> Iterator[Any]:
        # A cached download has no .gz at its end, but is one.
        arrays = (idx.read_array(Path(path), gzipped=True) for path in (images, labels))
        for index, (image, label) in enumerate(zip(*arrays, strict=True)):
            yield index, {"image": Image.fromarray(image), "label": int(label)}

    methods = {"_split_generators": split_generators, "_generate_examples": generate_examples}
    identity = {"name": name, "__module__": stock.__module__}
    with registered.skip_registration():
        return type(stock.__name__, (stock,), identity | methods)


def _prepare(builder: Any, name: str, root: Path) -> None:
    """Let TFDS download and prepare, in a folder of its own that it renames when all is well."""
    prefix = IDX_SETS[name].URL if name in IDX_SETS else None
    infos = checksums.get_all_url_infos() if prefix else builder.url_infos or {}
    files = {url: info.filename for url, info in infos.items() if url.startswith(prefix or "")}
    manual = _manual_folder(root, [file for file in files.values() if file])
    there = {url: manual / file for url, file in files.items() if file and (manual / file).exists()}
    for path in there.values():
        open_regular(path).close()  # TFDS would wait for a pipe
    absent = [url for url in files if url not in there]
    _check_network(name, root, absent)
    config = tfds.download.DownloadConfig(
        manual_dir=manual, try_download_gcs=False, force_checksums_validation=bool(prefix)
    )
    quiet = io.StringIO()  # without TensorFlow, TFDS prints a banner before it raises
    try:
        # `raised`, so that TFDS removes what it has begun.
        with (
            interrupt_as_exception(),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
        ):
            builder.download_and_prepare(download_config=config)
    except UserError:
        raise
    except Exception as error:
        raise UserError(_why_not(error, name, root)) from error


def _manual_folder(root: Path, files: Sequence[str]) -> Path:
    """TFDS's manual folder below `root`, or `root` itself where the files lie there."""
    own = root / "downloads" / "manual"
    return root if files and all((root / file).is_file() for file in files) else own


def _check_network(name: str, root: Path, urls: Sequence[str]) -> None:
    # TFDS retries for minutes before it gives up; we ask once, in the time a user will wait.
    found = (root / "downloads").rglob("*.INFO.json")
    infos = [read_text(path, regular=True) for path in found]
    missing = [url for url in urls if not any(url in info for info in infos)]
    if not missing or _reachable(missing[0]):
        return
    raise UserError(
        f"tfds:{name} is not prepared in {root} and {missing[0]} cannot be reached: put its files "
        f"into {root / 'downloads' / 'manual'}, name a prepared folder with --data-dir, or use "
        "idx:DIR, npz:FILE or digits"
    )


def _reachable(url: str) -> bool:
    answers = []

    def ask() -> None:
        with contextlib.suppress(requests.RequestException):
            answers.append(requests.head(url, timeout=NETWORK_SECONDS))

    # A thread, because no time limit of requests covers the look-up of the name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(NETWORK_SECONDS + 1)
    return bool(answers)


def _why_not(error: BaseException, name: str, root: Path) -> str:
    cause: BaseException | None = error
    while cause is not None and "No module named 'tensorflow" not in str(cause):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return (
            f"TensorFlow Datasets needs TensorFlow to prepare {name!r}: pip install tensorflow, "
            "run this once, and it can go again; what was downloaded is kept"
        )
    return f"TensorFlow Datasets could not prepare {name!r} in {root}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300] or type(error).__name__
