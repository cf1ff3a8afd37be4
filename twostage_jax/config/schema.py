"""The configuration of a run, as frozen dataclasses.

A value of None means "not given": the command line, a `config.json` and a preset are layers, which
`layers.overlay` puts on top of each other. The dataclasses are also the flags of the command line,
and the strings under the fields are their help texts.

Presets, which supply what is not given, are in `presets`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from twostage_jax.config.choices import (
    AUGMENTATIONS,
    INITS,
    SHARE,
)
from twostage_jax.config.fields import (
    UNSET,
    as_home_text,
    as_path,
    as_sweep,
    check_path,
    check_share,
    check_sweep,
    check_switch,
    check_text,
    choice,
    choices,
    declare,
    declare_repeatable,
    integer,
    number,
    parse_mesh,
)
from twostage_jax.config.groups import GROUPS, HeadConfig, PretrainConfig
from twostage_jax.config.page import documented
from twostage_jax.config.presets import (
    INIT,
    PRESETS,
)
from twostage_jax.config.reading import ReadingConfig
from twostage_jax.config.settings import Settings, from_mapping
from twostage_jax.config.trust import TrustConfig


@dataclass(frozen=True, repr=False)
class BasicConfig(Settings):
    """Data, folder and seed."""

    data: Annotated[str, *declare("SPEC", check_text, default="digits")] = UNSET
    """Source of images and labels: digits, mnist, tfds:NAME, idx:DIR, npz:FILE, folder:DIR or \
csv:FILE"""
    out: Annotated[Path | None, *declare("DIR", check_path, "runs/DATA-TIME", normal=as_path)] = (
        None
    )
    """Folder of the run or study; it must be new or empty"""
    seed: Annotated[int, *declare("INT", integer(0), default=0)] = UNSET
    """Seed for initial values and shuffling"""
    validation: Annotated[int, *declare("INT", integer(0), "a tenth, at most 5000")] = UNSET
    """Number of training examples set aside for validation; 0 for none"""
    data_dir: Annotated[Path | None, *declare("DIR", check_path, "TFDS's own", normal=as_path)] = (
        None
    )
    """Folder in which TensorFlow Datasets keeps its data"""


@dataclass(frozen=True, repr=False)
class CommonConfig(ReadingConfig, BasicConfig):
    """Fields of every command that trains."""


@dataclass(frozen=True, repr=False)
class MembersConfig(TrustConfig, CommonConfig):
    """Fields of every command that trains heads: labels, members, sweep and placement."""

    labels: Annotated[int, *declare("N", integer(1), "all")] = UNSET
    """Number of labelled examples, class-balanced; the other training images have no label"""
    noise: Annotated[float, *declare("P", check_share, default=0.0, sweepable=True)] = UNSET
    """Share of training labels flipped to another class"""
    members: Annotated[int, *declare("M", integer(1), default=1)] = UNSET
    """Number of members trained in one program; member m equals the run with seed + m"""
    share: Annotated[tuple[str, ...], *declare("NAME...", choices(SHARE), default=())] = UNSET
    """Parts that all members have in common: encoder (one for all), order (of examples)"""
    sweep: Annotated[
        tuple[tuple[str, tuple[float, ...]], ...],
        *declare_repeatable("NAME=V1,V2,...", check_sweep, as_sweep),
    ] = ()
    """Values to try for a field; all members train with each value, and validation chooses one"""
    mesh: Annotated[str, *declare("AXIS=N,...", parse_mesh, "all devices along member")] = UNSET
    """Devices along the axes member and data, for instance member=4,data=2"""
    members_per_chunk: Annotated[int, *declare("N", integer(1), "as memory and cache allow")] = (
        UNSET
    )
    """Number of members that train at the same time"""
    save_predictions: Annotated[bool, *declare("", check_switch, "off")] = False
    """Write predictions-validation.npz and predictions-test.npz into the run's folder"""


@dataclass(frozen=True, repr=False)
class RecipeConfig(Settings):
    """Fields that choose the defaults of the others."""

    preset: Annotated[
        str,
        *declare(
            "NAME",
            choice("preset", PRESETS),
            "photos for colour or more than 28x28 pixels, blog for 28x28, else quick",
        ),
    ] = UNSET
    """Preset with default values for all flags that are not given: blog, quick, few-labels, \
few-labels-gpu, noisy-labels or photos"""
    init: Annotated[
        str,
        *declare("NAME", choice("init", INITS), default=INIT),
    ] = UNSET
    """Initial values: torch (uniform within 1/sqrt(fan_in)) or lecun (LeCun-normal, as Flax)"""
    # No defaults here: an objective may take no views.
    augment: Annotated[
        str,
        *declare("NAME", choice("augmentation", ("auto", *AUGMENTATIONS), imports=True), "auto"),
    ] = UNSET
    """Augmentation that makes random views for the objective: auto (the choice is made from the \
images and printed), none, handwriting, objects, photographs, or package.module:name of a ts.Views \
or a function"""
    augment_strength: Annotated[
        float, *declare("FLOAT", number("a number from 0 to 2", 0, 2.0001), "1")
    ] = UNSET
    """Factor for all strengths of the augmentation, from 0 to 2; probabilities do not change"""


@dataclass(frozen=True, repr=False)
class Config(RecipeConfig, MembersConfig):
    """Configuration of a run with both stages. The preset supplies every value that is not given.

    Every flag of `twostage run` that describes the run is a field of the same name. The groups
    `pretrain` and `head` can be mappings of fields to values. `ts.run` checks the values.

    Raises:
        UserError: A field that does not exist, here or in `pretrain` or `head`.

    >>> Config(data="digits", pretrain={"epochs": 1}, sweep={"head.learning-rate": [1e-4, 1e-3]})
    Config(data='digits', sweep=(('head.learning-rate', (0.0001, 0.001)),), \
pretrain=PretrainConfig(epochs=1))
    """

    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Stage 1: an encoder trained on images without labels"""
    head: HeadConfig = field(default_factory=HeadConfig)
    """Stage 2: a head on the frozen encoder"""
    # The command line has `head --from` instead.
    encoder_run: Annotated[
        str | None,
        *declare("RUN", check_text, "none", normal=as_home_text),
        tyro.conf.Suppress,
    ] = None
    """Folder of an earlier run whose encoder replaces stage 1"""

    def __post_init__(self) -> None:
        """Make the groups from mappings, too."""
        super().__post_init__()
        for name, kind in GROUPS.items():
            group = getattr(self, name)
            # None is what an empty entry in a file gives.
            if not isinstance(group, kind):
                made = from_mapping(kind, {} if group is None else group, name)
                object.__setattr__(self, name, made)


for _kind, _groups in {Config: GROUPS, PretrainConfig: {}, HeadConfig: {}}.items():
    documented(_kind, _groups)
