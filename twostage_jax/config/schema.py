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

from twostage_jax.config.fields import (
    UNSET,
    as_home_text,
    as_numbers,
    as_path,
    as_shares,
    as_sweep,
    check_above_zero,
    check_from_zero,
    check_numbers,
    check_path,
    check_share,
    check_sweep,
    check_switch,
    check_text,
    choice,
    choices,
    declarations,
    declare,
    declare_repeatable,
    integer,
    layer_sizes,
    number,
    parse_mesh,
)
from twostage_jax.config.page import documented
from twostage_jax.config.presets import (
    BATCH_SIZES,
    DECAYED,
    DECAYS,
    ENCODER,
    EPOCHS,
    INIT,
    OBJECTIVE,
    PRESETS,
    PROTOCOL,
    RATES,
    SCHEDULE,
    WARMUP,
    WATCHED,
)
from twostage_jax.config.settings import Settings, from_mapping

# A test compares these names with the functions in `stages`, which this room must not import.
OBJECTIVES = (
    "autoencoder",
    "placeholder",
    "denoising",
    "masked",
    "vae",
    "simclr",
    "simclr-iic",
    "vicreg",
    "lejepa",
    "supervised",
)
SUPERVISED = ("supervised",)  # objectives that train on the labelled images alone
ENCODERS = (
    "mlp",
    "conv",
    "resnet",
    "vit",
)
NORMS = ("batch", "group")
LOSSES = ("cross-entropy", "gce", "elr", "forward")
# Protocols that are computed in one call: no epochs, no steps.
SOLVED = (
    "linear",
    "ridge",
    "knn",
    "knn-reliable",
    "prototype",
    "propagate",
)
PROTOCOLS = ("mlp", "finetune", *SOLVED)
METHODS = ("zhou", "poisson", "poisson-mbo")
# Fields that belong to one encoder, with their defaults.
ENCODER_DEFAULTS: dict[str, dict[str, object]] = {
    "mlp": {"widths": (256, 128)},
    "conv": {"widths": (64, 64, 128, 256), "norm": "batch"},
    "resnet": {"widths": (32, 64, 128, 256), "norm": "group"},
    "vit": {"widths": (64, 64, 64, 128)},
}
ENCODER_FIELDS = ("widths", "norm", "patch")
ENCODE = ("auto", "once", "loop")
DECAY_ON = ("all", "matrices")
SCHEDULES = ("constant", "cosine")
WATCH = ("on", "off")
SELECT = ("last", "probe")
INITS = ("torch", "lecun")
SHARE = ("encoder", "order")
AUGMENTATIONS = (
    "none",
    "handwriting",
    "objects",
    "photographs",
)
NOT_COMPUTED = ("out", "save_predictions")  # fields about files; they change no result


@dataclass(frozen=True, repr=False, kw_only=True)
class StageConfig(Settings):
    """Fields of both stages. Those of the training do not apply to a head solved in one call."""

    epochs: Annotated[int, *declare("INT", integer(0), default=EPOCHS, trained=True)] = UNSET
    """Passes over the training images; 0 keeps the initial values"""
    batch_size: Annotated[int, *declare("INT", integer(1), default=BATCH_SIZES, trained=True)] = (
        UNSET
    )
    """Examples per step"""
    learning_rate: Annotated[
        float,
        *declare("FLOAT", check_above_zero, default=RATES, sweepable=True, trained=True),
    ] = UNSET
    """Step size of Adam"""
    weight_decay: Annotated[
        float,
        *declare("FLOAT", check_from_zero, default=DECAYS, sweepable=True, trained=True),
    ] = UNSET
    """Decoupled weight decay, as in AdamW"""
    decay_on: Annotated[
        str,
        *declare("NAME", choice("decay_on", DECAY_ON), default=DECAYED, trained=True),
    ] = UNSET
    """Arrays with weight decay: all, or matrices (without biases and scales of normalisations)"""
    schedule: Annotated[
        str,
        *declare("NAME", choice("schedule", SCHEDULES), default=SCHEDULE, trained=True),
    ] = UNSET
    """Learning rate over the epochs: constant, or cosine (falls to 0.005 of its largest value)"""
    warmup: Annotated[int, *declare("N", integer(0), default=WARMUP, trained=True)] = UNSET
    """Number of steps in which the learning rate rises from 0; at most a tenth of all steps"""
    schedule_epochs: Annotated[
        int | None, *declare("INT", integer(1), "the number of epochs", trained=True)
    ] = UNSET
    """Number of epochs after which a cosine schedule ends"""
    set: Annotated[
        tuple[tuple[str, float], ...], *declare_repeatable("NAME=VALUE", check_numbers, as_numbers)
    ] = ()
    """Value of a parameter of the objective or head, for instance temperature=0.2"""


@dataclass(frozen=True, repr=False)
class PretrainConfig(StageConfig):
    """Stage 1: an encoder trained on images without labels.

    >>> PretrainConfig(epochs=3, set={"temperature": 0.5})
    PretrainConfig(epochs=3, set=(('temperature', 0.5),))
    """

    objective: Annotated[
        str,
        *declare("NAME", choice("objective", OBJECTIVES, imports=True), default=OBJECTIVE),
    ] = UNSET
    """Objective: autoencoder, placeholder, denoising, masked, vae, simclr, simclr-iic, vicreg, \
lejepa, supervised (uses labels), or package.module:function"""
    encoder: Annotated[
        str,
        *declare("NAME", choice("encoder", ENCODERS, imports=True), default=ENCODER),
    ] = UNSET
    """Encoder: mlp, conv, resnet, vit, or package.module:name (Linen module, class or factory)"""
    widths: Annotated[tuple[int, ...], *declare("INT...", layer_sizes(1), "by encoder")] = UNSET
    """Layer sizes of the encoder; the last is the number of features. The decoder mirrors them"""
    norm: Annotated[str, *declare("NAME", choice("norm", NORMS), "by encoder")] = UNSET
    """Normalisation in conv, resnet and the projector: batch (its statistics are fixed after \
training) or group"""
    watch: Annotated[
        str,
        *declare(
            "on|off",
            choice("--pretrain.watch", WATCH),
            "on; off in blog and quick, and for placeholder",
            # With these presets it takes longer than an epoch.
            default=WATCHED,
        ),
    ] = UNSET
    """Measure the encoder on validation after each epoch: probe, nearest neighbours and rank"""
    select: Annotated[
        str, *declare("last|probe", choice("--pretrain.select", SELECT), default="last")
    ] = UNSET
    """Epoch whose encoder is kept: the last, or the one with the best probe on validation"""
    patch: Annotated[int, *declare("INT", integer(1), "chosen for vit, 4 for masked")] = UNSET
    """Side of a square patch in pixels, for the encoder vit and the objective masked"""


@dataclass(frozen=True, repr=False)
class HeadConfig(StageConfig):
    """Stage 2: a head on the frozen encoder.

    >>> HeadConfig(protocol="knn", set="k=5")
    HeadConfig(set=(('k', 5.0),), protocol='knn')
    """

    protocol: Annotated[
        str,
        *declare("NAME", choice("protocol", PROTOCOLS, imports=True), default=PROTOCOL),
    ] = UNSET
    """Classifier on the features: mlp, linear, ridge, knn, knn-reliable, prototype, propagate, \
finetune (also trains the encoder), or package.module:function"""
    method: Annotated[str, *declare("NAME", choice("method", METHODS), "poisson-mbo")] = UNSET
    """Method of the protocol propagate: zhou, poisson or poisson-mbo"""
    class_sizes: Annotated[str, *declare("SIZES", check_text, "equal", normal=as_shares)] = UNSET
    """Class sizes that propagate assumes: equal, labels (shares of the labelled images), free (no \
assumption), or shares such as 0.2,0.8"""
    encode: Annotated[
        str, *declare("NAME", choice("--head.encode", ENCODE), default="auto", trained=True)
    ] = UNSET
    """Use of the encoder: once before stage 2, loop (in every step), or auto (once if it fits)"""
    widths: Annotated[
        tuple[int, ...], *declare("INT...", layer_sizes(0), default=(64,), trained=True)
    ] = UNSET
    """Sizes of the hidden layers; no size gives a linear layer"""
    # No default here: a function has its own default, or no such parameter.
    loss: Annotated[
        str, *declare("NAME", choice("loss", LOSSES), "cross-entropy", trained=True)
    ] = UNSET
    """Loss: cross-entropy, or one that tolerates wrong labels: gce (generalised cross-entropy), \
elr (early-learning regularisation) or forward (correction by an estimated transition matrix)"""
    encoder_learning_rate: Annotated[
        float,
        *declare(
            "FLOAT",
            check_above_zero,
            "a tenth of --head.learning-rate",
            sweepable=True,
            trained=True,
        ),
    ] = UNSET
    """Step size for the encoder with --head.protocol finetune"""
    unfreeze: Annotated[str, *declare("PATTERN", check_text, "all of them", trained=True)] = UNSET
    """Pattern of the encoder parameters that finetune trains, for instance \
'encoder/params/dense_1/*'"""


# The two stages, in the order of their training.
GROUPS: dict[str, type[PretrainConfig] | type[HeadConfig]] = {
    "pretrain": PretrainConfig,
    "head": HeadConfig,
}
# Fields of a head that is trained step by step; a head solved in one call has none of them.
TRAINED = tuple(name for name, item in declarations(HeadConfig).items() if item.trained)


@dataclass(frozen=True, repr=False)
class CommonConfig(Settings):
    """Fields of every command that trains."""

    data: Annotated[str, *declare("SPEC", check_text, default="digits")] = UNSET
    """Source of images and labels: digits, mnist, tfds:NAME, idx:DIR or npz:FILE"""
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
class MembersConfig(CommonConfig):
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
