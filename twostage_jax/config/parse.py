"""Parsing of the command line into a command; a mistake becomes one line."""

import contextlib
import dataclasses
import difflib
import io
import re
import typing
import warnings
from collections.abc import Sequence

import tyro

from twostage_jax.config.commands import COMMANDS, Command
from twostage_jax.errors import UserError, did_you_mean, shown

DESCRIPTION = (
    "Two-stage training in JAX: pretrain an encoder on images without labels,\n"
    "freeze it, train a head on it.\n\n"
    "Start with: twostage run\n\n"
    "Versions of the package and jax, and the device: twostage --version"
)
BOTH = ("pretrain", "head")
STUDY = "study"  # first word of several commands
# Names that other programs give to our flags. A name of both stages stands without its group.
ALIASES = {
    "learning-rate": "lr learning-rate step-size alpha",
    "epochs": "epochs epoch num-epochs n-epochs max-epochs num-train-epochs",
    "batch-size": "batch-size batch bs batchsize b train-batch-size",
    "weight-decay": "weight-decay wd l2 decay",
    "widths": "widths width hidden hidden-size hidden-sizes layers layer-sizes units",
    "set": "set temperature",
    "pretrain.objective": "objective loss pretext task",
    "pretrain.encoder": "encoder model arch architecture backbone network net",
    "head.protocol": "protocol classifier head probe",
    "data": "dataset dataset-name input source path train-data",
    "data-dir": "data-path data-root root",
    "out": "output output-dir out-dir outdir save-dir logdir log-dir dir o",
    "device": "accelerator platform backend",
    "seed": "random-seed random-state rng s",
    "validation": "val val-size val-split validation-size validation-split",
    "members": "ensemble ensembles num-members models n-models num-models",
    "labels": "num-labels n-labels labelled labeled num-labelled",
    "noise": "label-noise noise-rate flip",
    "resume": "continue load checkpoint restart",
    "verbose": "v debug-output log-level",
    "from": "run from-run encoder-run pretrained",
}
DEVICES = {"gpu": "gpu", "cuda": "gpu", "gpus": "gpu", "use-gpu": "gpu", "tpu": "tpu", "cpu": "cpu"}
# Text of tyro's error box that repeats what our one line says anyway.
BOILERPLATE = re.compile(r"Got errors:|For full helptext|Arguments are applied")
NO_TYPE = re.compile(
    r"Error parsing (\S+): no type matching (.*) could be instantiated from \[(.*)\]"
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Placeholders of tyro, and the words of a message.
KINDS = {"INT": "a whole number", "FLOAT": "a number"}


def parse(argv: Sequence[str]) -> Command:
    """Parse the arguments into one of the commands.

    Raises:
        UserError: Arguments that cannot be parsed, in one line.
        SystemExit: After --help.
    """
    if len(argv) > 1 and argv[0] == STUDY and not argv[1].startswith("-"):
        argv = (f"{STUDY} {argv[1]}", *argv[2:])
    _check_command(argv)
    if argv and argv[0] in COMMANDS:
        _check_flags(argv[0], argv[1:])
    # tyro prints a box of several lines and exits; an error is one line here.
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), warnings.catch_warnings():
            # Our fields use None for "not given"; tyro accepts that with a warning.
            warnings.filterwarnings("ignore", message=".*annotated with type.*NoneType.*")
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="twostage",
                description=DESCRIPTION,
                args=list(argv),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_one_line(output.getvalue())}; see {_help(argv)}") from None


def _help(argv: Sequence[str]) -> str:
    command = f" {argv[0]}" if argv and argv[0] in COMMANDS else ""
    return f"twostage{command} --help"


def _check_command(argv: Sequence[str]) -> None:
    """Check that the first argument is a command, or asks for help."""
    if not argv:
        raise UserError(
            f"no command is given: choose from {', '.join(COMMANDS)}; start with twostage run, or "
            "see twostage --help"
        )
    first = argv[0]
    if first in COMMANDS or first in ("-h", "--help"):
        return
    if first.split()[:1] == [STUDY]:
        names = [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{STUDY} ")]
        raise UserError(
            f"{shown(first)} is not a study: choose from {', '.join(names)}; start with twostage "
            f"{STUDY} {names[0]}, or see twostage {STUDY} {names[0]} --help"
        )
    if first.startswith("-"):
        commands = [name for name in COMMANDS if name in argv]
        example = f"twostage {commands[0] if commands else 'run'} {first}"
        raise UserError(f"{shown(first)} comes before the command: write for instance {example}")
    raise UserError(f"unknown command {shown(first)}: {did_you_mean(first, COMMANDS)}")


def _check_flags(command: str, arguments: Sequence[str]) -> None:
    """Check that the command has all flags that are given."""
    valid = flags(command)
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        is_flag = re.fullmatch(r"--?[A-Za-z][\w.-]*", name)
        if not is_flag or name in ("-h", "--help") or name.removeprefix("--") in valid:
            continue
        similar = _similar(name.lstrip("-"), valid)
        hint = f"; did you mean {' or '.join(f'--{flag}' for flag in similar)}?" if similar else ";"
        owners = [other for other in COMMANDS if name.removeprefix("--") in flags(other)]
        # Studies repeat the flags of stage 1.
        owners = [other for other in owners if not other.startswith(f"{STUDY} ")] or owners
        # `--epochs` of the benchmark does not help a user who means the epochs of a stage.
        if owners and ("." in name or not similar):
            name += f", a flag of {' and '.join(owners)}"
        raise UserError(f"{command} has no flag {name}{hint} see twostage {command} --help")


def flags(command: str) -> list[str]:
    """Names of the flags of a command, without dashes: `data`, `pretrain.epochs`, …

    >>> "head.epochs" in flags("head"), "pretrain.epochs" in flags("head")
    (True, False)
    """
    names = []
    for name, hint, inner in _fields(COMMANDS[command]):
        if dataclasses.is_dataclass(inner):
            names += [f"{name}.{nested}" for nested, *_ in _fields(inner)]
        elif not {tyro.conf.Positional, tyro.conf.Suppress} & set(hint):
            names.append(name)
    return names


def _fields(kind: type) -> list[tuple[str, tuple[object, ...], type]]:
    """Name of each field's flag, its annotations and its type."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        notes = getattr(hint, "__metadata__", ())
        inner = typing.get_args(hint)[0] if notes else hint
        fields.append((field.name.rstrip("_").replace("_", "-"), notes, inner))
    return fields


def _similar(name: str, valid: Sequence[str]) -> list[str]:
    """At most two flags that may be meant, the likeliest first."""
    # A flag of a stage keeps its group: `head.lr` means `head.learning-rate`.
    group, _, bare = name.rpartition(".")
    groups = (group,) if group in BOTH else BOTH
    if bare.lower() in DEVICES and "device" in valid:
        return [f"device {DEVICES[bare.lower()]}"]
    for target, aliases in ALIASES.items():
        if bare.lower() in aliases.split():
            candidates = [target, *(f"{stage}.{target}" for stage in groups)]
            existing = [flag for flag in candidates if flag in valid]
            if existing:
                return existing[:2]
    endings = [flag for flag in valid if flag.rpartition(".")[2] == bare]
    # The search time grows with the square of the length, so only the beginning counts.
    similar = endings or difflib.get_close_matches(name[:100], valid, n=2, cutoff=0.7)
    if not similar and f"{group}.set" in valid:
        # A number of an objective or head has no flag of its own.
        return [f"{group}.set {bare}=VALUE"]
    return similar[:2]


def _one_line(box: str) -> str:
    """Convert tyro's error box into the error alone, in one line."""
    # The frame is Unicode, or ASCII in a terminal of another encoding.
    plain = COLOUR.sub("", box)
    lines = [line.replace("─", "-").strip("│|╭╮╰╯+ ") for line in plain.splitlines()]
    text = "\n".join("" if set(line) == {"-"} else line or " " for line in lines[1:])
    error = BOILERPLATE.split(" ".join(text.split("\n\n")[0].split()))[0]
    error = re.sub(r" \(applied to [^)]*\)", "", error).strip(" .:")
    return _rewritten(error)


def _rewritten(error: str) -> str:
    """Rewrite an error of tyro: what was given, and what to give."""
    wrong_type = NO_TYPE.search(error.replace("{None}|", ""))
    if wrong_type:
        flag, kind, value = wrong_type.groups()
        # Lists are lists of whole numbers: the sizes of layers.
        words = "whole numbers" if "[" in kind else KINDS.get(kind, kind)
        return f"{flag} is {value}: give {words}"
    no_number = re.match(r"Error parsing (\S+): could not convert .*: ('.*')", error)
    if no_number:
        return f"{no_number.group(1)} is {no_number.group(2)}: give a number"
    choice = re.match(r"invalid choice ('.*') for argument '(.*)'. Expected one of \((.*)\)", error)
    if choice:
        value, flag, listed = choice.groups()
        # tyro lists them in any order, with None for a flag that is not given.
        names = sorted({name.strip(" '") for name in listed.split(",")} - {"None", ""})
        return f"{flag} is {value}: choose from {', '.join(names)}"
    missing = re.match(r"Missing value for argument '([^']*)'", error)
    if missing:
        return f"{missing.group(1)} needs a value"
    unexpected = re.match(r"Unrecognized (?:or misplaced )?options: (.*)", error)
    if unexpected:
        return f"unexpected {unexpected.group(1)!r}: a value comes after its flag"
    positional = re.match(r"Missing from (twostage \w+(?: \w+)?): (\S+) (.*?) \(required\)", error)
    if positional:
        command, name, words = positional.groups()
        return f"{command} needs {name}: {words[0].lower()}{words[1:]}"
    return error[:1].lower() + error[1:]
