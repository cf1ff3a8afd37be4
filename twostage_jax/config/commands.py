"""The commands of the command line and their flags; the strings under the fields are their help."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from twostage_jax.config.schema import (
    UNSET,
    CommonConfig,
    HeadConfig,
    MembersConfig,
    PretrainConfig,
    by_preset,
    flag,
)

_Cache = Annotated[str | None, flag("DIR", "default: twostage_jax in the user's cache folder")]


@dataclass(frozen=True)
class _Training:
    resume: bool = False
    """go on with the run in --out"""
    allow_changed: bool = False
    """resume although packages have other versions, or with more epochs of what was trained last"""
    checkpoint_every: Annotated[float, flag("MINUTES", "default: 5")] = 5.0
    """save the state in the middle of an epoch too, after so many minutes"""
    trust_code: bool = False
    """let the config of an earlier run import the encoder or objective that it names"""
    compile_cache: _Cache = None
    """where compiled programs are kept for the next start; off for nowhere"""
    debug: bool = False
    """show the traceback of a mistake"""


@dataclass(frozen=True)
class _FromPreset(_Training):
    preset: Annotated[str, flag("NAME", "default: blog for 28x28 images, else quick")] = UNSET
    """recipe that gives what no flag gives: blog or quick"""
    init: Annotated[str, by_preset("NAME", "init")] = UNSET
    """initial values: torch (uniform within 1/sqrt(fan_in)) or lecun (LeCun-normal, as Flax)"""
    config: Annotated[Path | None, flag("FILE", "default: none")] = None
    """config.json of an earlier run, to repeat it; other flags change it"""


@dataclass(frozen=True)
class Run(_FromPreset, MembersConfig):
    """Both stages, evaluation and a folder with the results: the main job."""

    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    head: HeadConfig = field(default_factory=HeadConfig)


@dataclass(frozen=True)
class Pretrain(_FromPreset, CommonConfig):
    """Stage 1 alone: train an encoder without labels."""

    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


@dataclass(frozen=True, kw_only=True)
class Head(_Training, MembersConfig):
    """Stage 2 alone, on the encoder of an earlier run; what is not given is as in that run."""

    from_: Annotated[Path | None, tyro.conf.arg(name="from", metavar="RUN")] = None
    """folder of the run whose encoder is used; with --resume it is known"""
    head: HeadConfig = field(default_factory=HeadConfig)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Metrics of a finished run on a part of its own data or of another source."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """folder of the run"""
    split: Literal["train", "validation", "test"] = "test"
    """part of the data"""
    data: Annotated[str, flag("SPEC", "default: the run's own")] = UNSET
    """another source, of the same shape and classes"""
    ood: Annotated[str, flag("SPEC", "default: none")] = UNSET
    """a source to be told from the run's own, of the same shape; its classes do not matter, and of
    one without a test part all images are used"""
    coverage: Annotated[float, flag("FLOAT", "default: 0.95")] = UNSET
    """of prediction sets: the share of true classes that they shall contain"""
    save_predictions: bool = False
    """write predictions-SPLIT.npz (and predictions-ood.npz) into the run's folder"""
    data_dir: Annotated[Path | None, flag("DIR", "default: the run's")] = None
    """where TensorFlow Datasets keeps its data"""
    trust_code: bool = False
    """let the config of the run import the encoder or objective that it names"""
    compile_cache: _Cache = None
    """where compiled programs are kept for the next start; off for nowhere"""
    debug: bool = False
    """show the traceback of a mistake"""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is in a source: sizes, shape, classes, values, duplicates across parts, fingerprint."""

    spec: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SPEC")]
    """digits, mnist, tfds:NAME, idx:DIR or npz:FILE"""
    validation: Annotated[int, flag("INT", "default: a tenth, at most 5000")] = UNSET
    """examples carved from train"""
    data_dir: Annotated[Path | None, flag("DIR", "default: TFDS's own")] = None
    """where TensorFlow Datasets keeps its data"""
    debug: bool = False
    """show the traceback of a mistake"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Speed side by side with PyTorch, which comes with the extra bench; see docs/benchmarks.md."""

    data: Annotated[str, flag("SPEC", "default: MNIST in ../shared/data/mnist, else digits")] = (
        UNSET
    )
    """digits, mnist, tfds:NAME, idx:DIR or npz:FILE"""
    out: Annotated[Path | None, flag("DIR", "default: runs/bench-TIME")] = None
    """folder for bench.json, with every repetition, and bench.md"""
    quick: bool = False
    """under three minutes on two cores: one repetition of 2+2 epochs, without the slowest rows"""
    parity: bool = False
    """show instead that ours and PyTorch compute the same, step by step"""
    members: bool = False
    """measure instead what many members cost beside one alone; takes an hour, quick ten minutes"""
    device: Literal["cpu", "gpu", "tpu"] = "cpu"
    """where both run"""
    repeats: Annotated[int, flag("INT", "default: 3; quick: 1")] = UNSET
    """times each row is measured, in turns"""
    epochs: Annotated[int, flag("INT", "default: 5; quick: 2")] = UNSET
    """of each stage"""
    rows: Annotated[tuple[str, ...], flag("NAME...", "default: all")] = ()
    """rows to measure, for instance torch-s1 ours"""
    debug: bool = False
    """show the traceback of a mistake"""


COMMANDS = {
    "run": Run,
    "pretrain": Pretrain,
    "head": Head,
    "evaluate": Evaluate,
    "data": Data,
    "bench": Bench,
}
