"""The studies of the command line and their flags; the strings under the fields are their help.

A new study is a dataclass here with an entry in `STUDIES`, and a function with an entry in
`runs.study.start.STUDIES`.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

from twostage_jax.config.fields import (
    MAX_INT,
    SWITCH,
    UNSET,
    as_path,
    check_share,
    check_text,
    choice,
    declarations,
    declare,
    dotted,
    integer,
    number,
)
from twostage_jax.config.flags import FROM, Loading
from twostage_jax.config.groups import PretrainConfig
from twostage_jax.config.rules import check
from twostage_jax.config.schema import CommonConfig, Config, RecipeConfig
from twostage_jax.errors import UserError, shown

ALL = 0  # the count `all`, as a number
COUNTS = (10, 20, 50, 100, 600, 1000, 3000, ALL)
DRAWS = 20
SELECTIONS = ("draw", "validation")
NOISE_DRAWS = 3


def as_file(value: object) -> object:
    """Return the absolute path of a file as text; a malformed value does not change."""
    path = as_path(value)
    return str(path.absolute()) if isinstance(path, Path) else value


def as_names(value: object) -> object:
    """Convert a text `a,b` or a list into a tuple of texts."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple):
        return value
    return tuple(item.strip() if isinstance(item, str) else item for item in value)


def as_counts(value: object) -> object:
    """Convert a text `10,100,all`, a number or a list into a tuple of numbers; all is 0."""
    items = as_names((value,) if isinstance(value, int) else value)
    return tuple(map(_as_count, items)) if isinstance(items, tuple) else items


def _as_count(item: object) -> object:
    if not isinstance(item, str):
        return item
    if item.lower() == "all":
        return ALL
    # A malformed number stays as it is, for the check to report.
    return int(item) if item.isdecimal() else item


def check_counts(flag: str, value: object) -> None:
    """Accept a tuple of distinct whole numbers, with 0 for all."""
    items = value if isinstance(value, tuple) else (value,)
    for item in items:
        if type(item) is not int or not 0 <= item < MAX_INT:
            raise UserError(f"{flag} has {shown(item)}: give numbers and all, such as 10,100,all")
    if not items or len(set(items)) < len(items):
        raise UserError(f"{flag} is {shown(value)}: give each number of labels once")


def check_names(flag: str, value: object) -> None:
    """Accept a tuple of distinct, non-empty texts."""
    items = value if isinstance(value, tuple) else (value,)
    if not items or not all(isinstance(item, str) and item for item in items):
        raise UserError(f"{flag} is {shown(value)}: give names, separated by commas")
    if len(set(items)) < len(items):
        raise UserError(f"{flag} is {shown(value)}: give each name once")


@dataclass(frozen=True, repr=False, kw_only=True)
class Study(Loading, RecipeConfig, CommonConfig):
    """Flags of every study: an encoder (of a run, or trained first) and a folder."""

    from_: Annotated[Path | None, FROM] = None
    """Folder of the run whose encoder is used; without it, the study trains an encoder first"""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Stage 1 if no run is given: an encoder trained on images without labels"""
    resume: Annotated[bool, SWITCH] = False
    """Resume the study in --out and compute only its missing parts"""
    verbose: Annotated[bool, SWITCH] = False
    """Print every part of the study as it is computed"""

    def __new__(cls, *values: object, **fields: object) -> Self:
        """Make an instance; the base class would refuse the fields of commands."""
        return object.__new__(cls)

    @property
    def config(self) -> Config:
        """Configuration of the pretraining, as `twostage pretrain` makes it from the same flags."""
        names = {item.name for item in dataclasses.fields(Config)}
        options = {name: value for name, value in vars(self).items() if name in names}
        return Config(**{**options, "out": None})


def own_options(study: Study) -> dict[str, object]:
    """Options of one study without the flags that all studies share, by name."""
    common = {item.name for item in dataclasses.fields(Study)}
    return {name: value for name, value in vars(study).items() if name not in common}


def check_study(study: Study) -> None:
    """Check the values of a study, before jax is imported.

    Raises:
        UserError: a value that is malformed or contradicts another; the first one is reported.
    """
    for name, declaration in declarations(type(study)).items():
        value = getattr(study, name)
        if value is not None:
            declaration.check(f"--{dotted(name)}", value)
    check(study.config)
    if study.resume and not study.out:
        raise UserError("--resume needs the folder of the study: add --out DIR")
    if study.from_ is None:
        return
    for name in ("preset", "init", "augment", "augment_strength"):
        if getattr(study, name) is not None:
            raise UserError(
                f"--{dotted(name)} is only for training an encoder, and --from gives one: leave it "
                "out"
            )
    if any(value is not None and value != () for value in vars(study.pretrain).values()):
        raise UserError("stage 1 comes from --from: leave the --pretrain flags out")


@dataclass(frozen=True, repr=False, kw_only=True)
class LabelStudy(Study):
    """Measure the error for several numbers of labels, against controls without pretraining."""

    counts: Annotated[
        str,
        *declare(
            "N,...",
            check_counts,
            "10,20,50,100,600,1000,3000,all where they fit",
            normal=as_counts,
        ),
    ] = UNSET
    """Numbers of labels, class-balanced, separated by commas; all is the whole train split"""
    draws: Annotated[int, *declare("INT", integer(1), str(DRAWS))] = UNSET
    """Number of random draws of labels for each number of labels; all arms have the same draws"""
    arms: Annotated[
        str, *declare("NAME,...", check_names, "all but features:FILE", normal=as_names)
    ] = UNSET
    """Arms to compare: frozen, random, pixels, pca, supervised, finetuned, features:FILE; a \
protocol can follow, as in frozen:knn"""
    protocols: Annotated[
        str, *declare("NAME,...", check_names, "propagate,ridge", normal=as_names)
    ] = UNSET
    """Heads of the arms frozen, random and features:FILE"""
    select: Annotated[
        Literal["draw", "validation"] | None,
        *declare("NAME", choice("--select", SELECTIONS), SELECTIONS[0]),
    ] = UNSET
    """Labels that choose the strength of a head: draw (cross-validation on the labels of the \
draw) or validation (the labels of the validation split, which then count as used)"""


def as_shares(value: object) -> object:
    """Convert a text `0,0.2`, a number or a list into a tuple of numbers; `none` is empty."""
    items = as_names((value,) if isinstance(value, int | float) else value)
    if items == ("none",):
        return ()
    return tuple(map(_as_share, items)) if isinstance(items, tuple) else items


def _as_share(item: object) -> object:
    try:
        return float(item) if isinstance(item, str | int | float) else item
    except ValueError:
        return item  # for the check to report


def check_shares(flag: str, value: object) -> None:
    """Accept a tuple of distinct shares in [0, 1)."""
    items = value if isinstance(value, tuple) else (value,)
    for item in items:
        check_share(f"a value of {flag}", item)
    if len(set(items)) < len(items):
        raise UserError(f"{flag} is {shown(value)}: give each rate once")


@dataclass(frozen=True, repr=False, kw_only=True)
class NoiseStudy(Study):
    """Measure the accuracy of heads and losses under wrong labels, and advise which to use."""

    rates: Annotated[
        str, *declare("P,...", check_shares, "0,0.2,0.4,0.6,0.8", normal=as_shares)
    ] = UNSET
    """Shares of labels that are flipped to any other class, separated by commas; or none"""
    asymmetric: Annotated[str, *declare("P,...", check_shares, "0.2,0.4", normal=as_shares)] = UNSET
    """Shares of labels that are flipped to the next class, separated by commas; or none"""
    transition: Annotated[str, *declare("FILE", check_text, "none", normal=as_file)] = UNSET
    """File (csv or npy) with a transition matrix as one more noise; one row for each true class"""
    draws: Annotated[int, *declare("INT", integer(1), str(NOISE_DRAWS))] = UNSET
    """Number of random draws of the noise for each rate; networks trained end to end have one"""
    arms: Annotated[
        str, *declare("NAME,...", check_names, "16 frozen, 5 random, 2 supervised", normal=as_names)
    ] = UNSET
    """Arms to compare: frozen or random with a head and a loss, as in frozen:mlp-gce or \
random:knn-50; supervised or supervised-gce for a network trained end to end from scratch"""
    epochs: Annotated[int, *declare("INT", integer(1), "10, at least 500 steps")] = UNSET
    """Number of epochs of the trained heads"""
    end_to_end_epochs: Annotated[int, *declare("INT", integer(1), "5")] = UNSET
    """Number of epochs of the networks that are trained end to end"""


NOISE_KINDS = ("symmetric", "asymmetric")
STRATEGIES = ("typical", "k-centre", "margin", "random")
NEXT_COUNTS = (10, 20, 50, 100)
REPEATS = 20
# In [0, 1]: all labels can be changed.
check_rate = number("a share from 0 to 1, such as 0.2", 0, math.nextafter(1, 2))


@dataclass(frozen=True, repr=False, kw_only=True)
class SuspectStudy(Study):
    """Rank the training labels by how likely they are wrong."""

    inject: Annotated[float, *declare("P", check_rate, "none")] = UNSET
    """Share of labels to change on purpose before the ranking, to measure precision and recall"""
    inject_kind: Annotated[
        Literal["symmetric", "asymmetric"] | None,
        *declare("NAME", choice("kind", NOISE_KINDS), NOISE_KINDS[0]),
    ] = UNSET
    """Class of a changed label: any other (symmetric) or the next one (asymmetric)"""
    neighbours: Annotated[int, *declare("INT", integer(1), "10")] = UNSET
    """Number of nearest neighbours whose classes are compared with a label"""


@dataclass(frozen=True, repr=False, kw_only=True)
class NextStudy(Study):
    """List the unlabelled images that are most useful to label next."""

    budget: Annotated[int, *declare("N", integer(1), "none; required")] = UNSET
    """Number of images to list for labelling"""
    strategy: Annotated[
        Literal["typical", "k-centre", "margin", "random"] | None,
        *declare("NAME", choice("strategy", STRATEGIES), STRATEGIES[0]),
    ] = UNSET
    """Order of the images: typical (one of each cluster), k-centre (far from all others), margin \
(two classes nearly equally probable; needs labels) or random"""
    labelled: Annotated[str, *declare("FILE", check_text, "none", normal=as_file)] = UNSET
    """File with all labels so far: a csv with the columns index and label, as the study writes \
it; an empty label means unlabelled"""
    compare: Annotated[bool, SWITCH] = False
    """Compare all strategies with a random choice, using the labels of the source"""
    counts: Annotated[
        str,
        *declare("N,...", check_counts, "10,20,50,100 where they fit", normal=as_counts),
    ] = UNSET
    """Numbers of labels for --compare, separated by commas"""
    draws: Annotated[int, *declare("INT", integer(2), str(REPEATS))] = UNSET
    """Number of repetitions of each strategy for --compare, each with its own seed"""


STUDIES: dict[str, type[Study]] = {
    "labels": LabelStudy,
    "noise": NoiseStudy,
    "suspects": SuspectStudy,
    "next": NextStudy,
}
