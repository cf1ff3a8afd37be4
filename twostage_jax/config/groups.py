"""Fields of the two stages, as groups of the configuration."""

from dataclasses import dataclass
from typing import Annotated

from twostage_jax.config.choices import (
    DECAY_ON,
    ENCODE,
    ENCODERS,
    LOSSES,
    METHODS,
    NORMS,
    OBJECTIVES,
    PROTOCOLS,
    SCHEDULES,
    SELECT,
    WATCH,
)
from twostage_jax.config.fields import (
    UNSET,
    as_numbers,
    as_shares,
    check_above_zero,
    check_beta,
    check_from_zero,
    check_numbers,
    check_text,
    choice,
    declarations,
    declare,
    declare_repeatable,
    integer,
    layer_sizes,
)
from twostage_jax.config.presets import (
    BATCH_SIZES,
    BETAS,
    CLASS_SIZES,
    DECAYED,
    DECAYS,
    ENCODER,
    EPOCHS,
    LOSS,
    METHOD,
    OBJECTIVE,
    PROTOCOL,
    RATES,
    SCHEDULE,
    WARMUP,
    WATCHED,
)
from twostage_jax.config.settings import Settings


@dataclass(frozen=True, repr=False, kw_only=True)
class StageConfig(Settings):
    """Fields of both stages. Those of the training do not apply to a head solved in one call."""

    epochs: Annotated[
        int,
        *declare(
            "INT",
            integer(0),
            "blog 5, quick 20, others by the number of examples",
            default=EPOCHS,
            trained=True,
        ),
    ] = UNSET
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
    beta2: Annotated[float, *declare("FLOAT", check_beta, default=BETAS, trained=True)] = UNSET
    """Decay of the mean of squared gradients in Adam, between 0 and 1"""
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
        *declare(
            "NAME",
            choice("protocol", PROTOCOLS, imports=True),
            "mlp; propagate in few-labels and noisy-labels, linear in photos",
            default=PROTOCOL,
        ),
    ] = UNSET
    """Classifier on the features: mlp, linear, ridge, knn, knn-reliable, prototype, propagate, \
finetune (also trains the encoder), or package.module:function"""
    method: Annotated[str, *declare("NAME", choice("method", METHODS), "auto", default=METHOD)] = (
        UNSET
    )
    """Method of the protocol propagate: zhou, poisson, poisson-mbo, or auto (poisson-mbo below \
20 labels per class if its clusters fit them, else zhou)"""
    class_sizes: Annotated[
        str, *declare("SIZES", check_text, "equal", default=CLASS_SIZES, normal=as_shares)
    ] = UNSET
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
        str,
        *declare("NAME", choice("loss", LOSSES), "cross-entropy", default=LOSS, trained=True),
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
