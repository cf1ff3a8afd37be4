"""Find the prepared folder of a TFDS data set, or let TFDS prepare it.

TFDS prepares data sets of four IDX files with our own builder and all others with its own. Most of
those need TensorFlow during the preparation.
"""

import contextlib
import io
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import requests
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import dataset_builder, download, read_only_builder, registered
from tensorflow_datasets.core.utils import error_utils

from twostage_jax.data import idx
from twostage_jax.data.source import Source
from twostage_jax.data.tfds.prepared import check_features, read_prepared
from twostage_jax.errors import UserError, did_you_mean
from twostage_jax.files import MIB, open_regular, read_json, read_text
from twostage_jax.signals import interrupt_as_exception

IDX_SETS = {
    "mnist": tfds.image_classification.MNIST,
    "fashion_mnist": tfds.image_classification.FashionMNIST,
    "kmnist": tfds.image_classification.KMNIST,
}
NETWORK_SECONDS = 4.0
Reachable = Callable[[str], bool]


def is_reachable(url: str, seconds: float = NETWORK_SECONDS) -> bool:
    """Return True if the host of `url` answers within about `seconds`."""
    answers = []

    def ask() -> None:
        with contextlib.suppress(requests.RequestException):
            answers.append(requests.head(url, timeout=seconds))

    # A thread, because no time limit of requests covers the DNS look-up.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(1.25 * seconds)
    return bool(answers)


def read(
    name: str, data_dir: str | Path | None = None, reachable: Reachable = is_reachable
) -> Source:
    """Read the data set `name` from `data_dir`, and prepare it first if necessary.

    Args:
        name: name of the data set, with a config or a version.
        data_dir: folder of TFDS's data; by default `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
        reachable: test of a URL before a download.

    Raises:
        UserError: an unknown data set, one that is not image classification, no network for the
            download, checksums that differ, or no TensorFlow where TFDS needs it.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)  # hides advice such as to install OpenCV
    tfds.disable_progress_bar()
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = _find_prepared(name, root)
    if folder is None:
        builder = _make_builder(name, root)
        features = builder.info.features or tfds.features.FeaturesDict({})
        # Before the download, because gigabytes of another kind of data are useless.
        check_features(features.to_proto(), name)
        prepare(builder, name, root, reachable)
        folder = Path(builder.data_dir)
    return read_prepared(folder, name)


def _find_prepared(name: str, root: Path) -> Path | None:
    """Return the folder below `root` in which TFDS has prepared `name`, or None."""
    metadata = root / re.split("[/:]", name)[0] / ".config" / "metadata.json"
    if metadata.exists():  # refuse a pipe here, because TFDS would wait for it
        read_json(metadata, MIB, regular=True)
    try:
        with error_utils.record_error_context():
            folder = read_only_builder._find_builder_dir(name, data_dir=str(root))
    except Exception as error:  # for example a corrupted list of configs, or no permission
        raise UserError(
            f"cannot look for tfds:{name} in {root}: {_first_line(error)}; give another --data-dir"
        ) from error
    return Path(folder) if folder else None


def _make_builder(name: str, root: Path) -> dataset_builder.DatasetBuilder:
    if name in IDX_SETS:
        return _idx_builder(name)(data_dir=str(root), file_format="array_record")
    try:
        return tfds.builder(name, data_dir=str(root), file_format="array_record")
    except registered.DatasetNotFoundError as error:
        names = tfds.list_builders(with_community_datasets=False)
        raise UserError(
            f"TensorFlow Datasets has no data set {name!r}: {did_you_mean(name, names, limit=6)}"
        ) from error
    except Exception as error:  # the builder's own code may raise anything
        raise UserError(
            f"TensorFlow Datasets cannot open {name!r}: {_first_line(error)}; choose another data "
            "set"
        ) from error


def _idx_builder(name: str) -> Callable[..., dataset_builder.DatasetBuilder]:
    """Make a TFDS builder of `name` that reads IDX files and writes PNGs without TensorFlow.

    The prepared folder is the standard one, with the examples in TFDS's own order.
    """
    stock = IDX_SETS[name]

    def split_generators(
        self: dataset_builder.GeneratorBasedBuilder, dl_manager: download.DownloadManager
    ) -> dict[str, object]:
        urls = {
            split: [f"{stock.URL}{file}.gz" for file in files] for split, files in idx.FILES.items()
        }
        paths = dl_manager.download(urls)  # in parallel; typed as if there were one URL
        return {split: self._generate_examples(*files) for split, files in paths.items()}  # pyright: ignore

    def generate_examples(
        self: dataset_builder.GeneratorBasedBuilder, images: str, labels: str
    ) -> Iterator[tuple[int, dict[str, object]]]:
        arrays = [idx.read_array(Path(path)) for path in (images, labels)]
        for index, (image, label) in enumerate(zip(*arrays, strict=True)):
            yield index, {"image": Image.fromarray(image), "label": int(label)}

    methods = {"_split_generators": split_generators, "_generate_examples": generate_examples}
    # Under the stock builder's name and module, TFDS uses its checksums and its metadata.
    identity = {"name": name, "__module__": stock.__module__}
    with registered.skip_registration():
        return type(stock.__name__, (stock,), identity | methods)


def prepare(
    builder: dataset_builder.DatasetBuilder, name: str, root: Path, reachable: Reachable
) -> None:
    """Let TFDS download and prepare a data set in a temporary folder, which it renames at the end.

    Raises:
        UserError: as `read`.
    """
    files = {url: info.filename for url, info in (builder.url_infos or {}).items()}
    manual = manual_folder(root, [file for file in files.values() if file])
    missing = []
    for url, file in files.items():
        if file and (manual / file).exists():
            open_regular(manual / file).close()  # refuse a pipe, because TFDS would wait for it
        else:
            missing.append(url)
    _check_network(name, root, missing, reachable)
    config = tfds.download.DownloadConfig(
        manual_dir=manual, try_download_gcs=False, force_checksums_validation=name in IDX_SETS
    )
    quiet = io.StringIO()  # without TensorFlow, TFDS prints a banner before it raises
    try:
        with (
            interrupt_as_exception(),  # so that TFDS can remove its temporary folder
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
        ):
            builder.download_and_prepare(download_config=config)
    except UserError:
        raise
    except Exception as error:
        raise UserError(_failure(error, name, root)) from error


def manual_folder(root: Path, files: Sequence[str]) -> Path:
    """Return TFDS's manual folder below `root`, or `root` itself if all files are in it."""
    if files and all((root / file).is_file() for file in files):
        return root
    return root / "downloads" / "manual"


def _check_network(name: str, root: Path, urls: Sequence[str], reachable: Reachable) -> None:
    # TFDS retries for minutes before it gives up; a user does not wait that long.
    records = (root / "downloads").rglob("*.INFO.json")
    downloaded = [read_text(path, regular=True) for path in records]
    missing = [url for url in urls if not any(url in text for text in downloaded)]
    if not missing or reachable(missing[0]):
        return
    raise UserError(
        f"tfds:{name} is not prepared in {root} and {missing[0]} cannot be reached: put its files "
        f"into {root / 'downloads' / 'manual'}, name a prepared folder with --data-dir, or use "
        "idx:DIR, npz:FILE or digits"
    )


def _failure(error: BaseException, name: str, root: Path) -> str:
    cause: BaseException | None = error
    while cause is not None and "No module named 'tensorflow" not in str(cause):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return (
            f"TensorFlow Datasets needs TensorFlow to prepare {name!r}: pip install tensorflow and "
            "run again; downloads are kept, and TensorFlow can be uninstalled afterwards"
        )
    return (
        f"TensorFlow Datasets could not prepare {name!r} in {root}: {_first_line(error)}; choose "
        "another data set or --data-dir"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300] or type(error).__name__
