"""The commands of the command line and their flags; the strings under the fields are their help."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import tyro

from twostage_jax.config.deploy import Export, Predict
from twostage_jax.config.fields import SWITCH, UNSET, flag
from twostage_jax.config.flags import FROM, Debug, Loading
from twostage_jax.config.groups import HeadConfig, PretrainConfig
from twostage_jax.config.reading import FilesConfig, ReadingConfig
from twostage_jax.config.reports import Report
from twostage_jax.config.schema import CommonConfig, Config, MembersConfig, RecipeConfig
from twostage_jax.config.serving import Serve
from twostage_jax.config.studies import STUDIES, Study


@dataclass(frozen=True)
class _Training(Loading):
    verbose: Annotated[bool, SWITCH] = False
    """Print every epoch, the parameter groups, and all figures of the result"""
    resume: Annotated[bool, SWITCH] = False
    """Resume the run in --out"""
    allow_changed: Annotated[bool, SWITCH] = False
    """Resume with other package versions or JAX settings, or with more epochs of the last stage"""
    checkpoint_every: Annotated[float, flag("MINUTES", "5")] = 5.0
    """Interval between checkpoints within an epoch.
    An epoch ends with a checkpoint if the last one is older than two seconds"""
    tensorboard: Annotated[bool, SWITCH] = False
    """Write TensorBoard files into the folder tensorboard of the run (extra: tensorboard)"""


@dataclass(frozen=True)
class _FromFile(_Training):
    config: Annotated[Path | None, flag("FILE", "none")] = None
    """Config file of an earlier run (config.json) to repeat; other flags override it"""


@dataclass(frozen=True, repr=False)
class Run(_FromFile, Config):
    """Train both stages, evaluate, and write a folder with the results."""


@dataclass(frozen=True, repr=False)
class Pretrain(_FromFile, RecipeConfig, CommonConfig):
    """Train stage 1 alone: an encoder, without labels."""

    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Stage 1: an encoder trained on images without labels"""


@dataclass(frozen=True, repr=False, kw_only=True)
class Head(_Training, MembersConfig):
    """Train stage 2 on an earlier run's encoder; that run's settings are the defaults."""

    from_: Annotated[Path | None, FROM] = None
    """Folder of the run that has the encoder; not needed with --resume"""
    head: HeadConfig = field(default_factory=HeadConfig)
    """Stage 2: a head on the frozen encoder"""


@dataclass(frozen=True, repr=False, kw_only=True)
class Evaluate(Loading, FilesConfig):
    """Measure a finished run on a split of its own data or of another source."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run"""
    split: Annotated[
        Literal["train", "validation", "test"] | None, flag("NAME", "test; all of another source")
    ] = None
    """Split of the data: train, validation or test"""
    data: Annotated[str, flag("SPEC", "the run's own")] = UNSET
    """Another source with images of the same shape.
    All its examples are scored, or its test split if it has several splits"""
    ood: Annotated[str, flag("SPEC", "none")] = UNSET
    """Out-of-distribution source with images of the same shape; its labels are ignored.
    If it has no test split, all its images are used"""
    coverage: Annotated[float, flag("FLOAT", "0.95")] = UNSET
    """Target coverage of the prediction sets, between 0 and 1"""
    save_predictions: Annotated[bool, SWITCH] = False
    """Write predictions-SPLIT.npz (and predictions-ood.npz) into the run's folder"""
    data_dir: Annotated[Path | None, flag("DIR", "the run's")] = None
    """Folder in which TensorFlow Datasets keeps its data"""


@dataclass(frozen=True, repr=False, kw_only=True)
class Data(Debug, ReadingConfig):
    """Describe a source: sizes, classes, duplicates across splits, fingerprint."""

    spec: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SPEC")]
    """Source: digits, mnist, tfds:NAME, idx:DIR, npz:FILE, folder:DIR or csv:FILE"""
    validation: Annotated[int, flag("INT", "a tenth, at most 5000")] = UNSET
    """Number of training examples set aside for validation"""
    data_dir: Annotated[Path | None, flag("DIR", "TFDS's own")] = None
    """Folder in which TensorFlow Datasets keeps its data"""


@dataclass(frozen=True, kw_only=True)
class Bench(Debug):
    """Measure speed side by side with PyTorch (extra: bench); see docs/benchmarks.md."""

    data: Annotated[str, flag("SPEC", "MNIST in ../shared/data/mnist, else digits")] = UNSET
    """Source: digits, mnist, tfds:NAME, idx:DIR or npz:FILE"""
    out: Annotated[Path | None, flag("DIR", "runs/bench-TIME")] = None
    """Folder for bench.json (every repetition) and bench.md (tables)"""
    quick: Annotated[bool, SWITCH] = False
    """Finish within three minutes on two cores: two repetitions of 2+2 epochs, few rows"""
    parity: Annotated[bool, SWITCH] = False
    """Compare the numbers of this package and PyTorch step by step, instead of their speed"""
    members: Annotated[bool, SWITCH] = False
    """Measure the cost of many members relative to one; an hour, or ten minutes with --quick"""
    device: Literal["cpu", "gpu", "tpu"] = "cpu"
    """Device for both programs"""
    repeats: Annotated[int, flag("INT", "3, or 2 with --quick")] = UNSET
    """Repetitions of every row, interleaved"""
    epochs: Annotated[int, flag("INT", "5, or 2 with --quick")] = UNSET
    """Epochs of each stage"""
    rows: Annotated[tuple[str, ...], flag("NAME...", "all")] = ()
    """Rows to measure, for instance torch-s1 ours"""


COMMANDS = {
    "run": Run,
    "pretrain": Pretrain,
    "head": Head,
    "evaluate": Evaluate,
    "predict": Predict,
    "report": Report,
    "export": Export,
    "serve": Serve,
    "data": Data,
    "bench": Bench,
    # The name of a study is two words: `twostage study labels`.
    **{f"study {name}": kind for name, kind in STUDIES.items()},
}
Training: TypeAlias = Run | Pretrain | Head
Command: TypeAlias = Training | Evaluate | Predict | Report | Export | Serve | Data | Bench | Study
