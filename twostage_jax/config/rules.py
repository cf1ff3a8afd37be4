"""Check of a whole configuration: each value once, then the rules between fields."""

import math
import re

from twostage_jax.config.choices import SOLVED, WEIGHTED
from twostage_jax.config.fields import declarations, dotted
from twostage_jax.config.groups import GROUPS, TRAINED
from twostage_jax.config.reading import reading_of
from twostage_jax.config.schema import Config
from twostage_jax.config.sweep import DECLARATIONS, SWEEPABLE, swept
from twostage_jax.data.spec import check_reading, check_spec
from twostage_jax.errors import UserError, did_you_mean, shown

# A number that an objective or head may take; it is checked when the function is loaded.
FUNCTION_NUMBER = re.compile(r"(pretrain|head)\.[a-z][a-z0-9-]*", re.IGNORECASE)
# Every trial is a row in the tables of a run, and has a key and a state on the host.
MAX_TRIALS = 1_000_000


def check(config: Config) -> None:
    """Check a configuration, resolved or not.

    Raises:
        UserError: The first value that is malformed, out of range or contradicts another.
    """
    # All values first: the rules rely on their types.
    for group in ("", *GROUPS):
        values = getattr(config, group) if group else config
        for name, declaration in declarations(type(values)).items():
            if getattr(values, name) is not None:
                declaration.check(f"--{dotted(name, group)}", getattr(values, name))
    # Before any data is read, because a source may take minutes.
    if config.data is not None:
        check_spec(config.data, config.data_dir is not None)
        check_reading(reading_of(config), config.data)
    for group in GROUPS:
        _check_set(config, group)
    _check_sweep(config)
    if config.head.protocol in SOLVED:
        check_solved(config)
    _check_trials(config)
    _check_selection(config)
    _check_trust(config)


def _check_set(config: Config, group: str) -> None:
    for name, _ in getattr(config, group).set or ():
        path = dotted(name, group)
        # Otherwise one field would have two values.
        if path in DECLARATIONS:
            raise UserError(f"--{group}.set {name} names a field with its own flag: use --{path}")
        if path in swept(config):
            raise UserError(
                f"{path} is both set and swept: leave out --{group}.set {name} or --sweep {path}"
            )


def _check_sweep(config: Config) -> None:
    for name, values in swept(config).items():
        if name in SWEEPABLE:
            for value in values:
                DECLARATIONS[name].check(f"a value of --sweep {name}", value)
        elif name in DECLARATIONS:
            raise UserError(
                f"cannot sweep {name}: it decides what is compiled (shapes, or the length of a "
                "loop), and one program trains all points; run once per value, or sweep "
                f"{', '.join(SWEEPABLE)}"
            )
        # The numbers of a function are unknown until it is imported, and that may need jax.
        elif not FUNCTION_NUMBER.fullmatch(name):
            raise UserError(f"cannot sweep {shown(name)}: {did_you_mean(name, SWEEPABLE)}")


def check_solved(config: Config) -> None:
    """Check that nothing is given that goes with a trained head, for a head that is solved.

    Raises:
        UserError: A field or a swept scalar that only a trained head has.
    """
    for name in TRAINED:
        path = dotted(name, "head")
        if getattr(config.head, name) is not None or path in swept(config):
            option = f"--sweep {path}" if path in swept(config) else f"--{path}"
            raise UserError(
                f"{option} goes with a trained head; {config.head.protocol} is solved in one "
                "call: leave it out"
            )


def _check_trust(config: Config) -> None:
    protocol = config.head.protocol
    if config.class_weights == "auto" and protocol in SOLVED and protocol not in WEIGHTED:
        remedy = "leave --class-weights out, or choose a trained head, linear, ridge or knn"
        if protocol == "propagate":
            remedy = "give --head.class-sizes instead"
        raise UserError(f"--class-weights auto does not apply to {protocol}: {remedy}")
    if config.other_class is not None and config.validation == 0:
        raise UserError(
            "--other-class needs validation images to fit a threshold, and --validation is 0: "
            "give --validation N"
        )


def trial_count(config: Config) -> int:
    """Number of heads that a configuration trains: members times points of the sweep."""
    return (config.members or 1) * math.prod(map(len, swept(config).values()))


def _check_trials(config: Config) -> None:
    count = trial_count(config)
    if count > MAX_TRIALS:
        raise UserError(
            f"--members {config.members or 1} and --sweep ask for {count:,} trials: one run takes "
            f"at most {MAX_TRIALS:,}; give fewer members or values"
        )


def _check_selection(config: Config) -> None:
    sweep = swept(config)
    # One value leaves nothing to choose.
    if config.validation == 0 and any(len(values) > 1 for values in sweep.values()):
        raise UserError(
            "--sweep chooses on the validation split, and --validation is 0: give it examples"
        )
    if config.pretrain.select == "probe":
        # A probe is fitted to labels, and its accuracy is measured on validation.
        if config.validation == 0:
            raise UserError(
                "--pretrain.select probe chooses on the validation split, and --validation is 0: "
                "give --validation N"
            )
        if config.pretrain.watch == "off":
            raise UserError(
                "--pretrain.select probe needs the figures of --pretrain.watch on: leave out "
                "--pretrain.watch off"
            )
    # With one encoder for all, the points of stage 1 would be one and the same.
    one_encoder = "encoder" in (config.share or ()) or config.encoder_run is not None
    stage_1 = [name for name in sweep if name.startswith("pretrain.")]
    if one_encoder and stage_1:
        raise UserError(
            f"cannot sweep {stage_1[0]} with one encoder for all: leave out --share encoder, or "
            "sweep a number of the head"
        )
