"""The command line. Arguments are parsed before jax is imported, so that mistakes show at once."""

import contextlib
import dataclasses
import io
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from twostage_jax.config.commands import COMMANDS, Bench, Data, Evaluate, Head, Pretrain
from twostage_jax.config.fields import check_coverage, check_whole
from twostage_jax.config.schema import Config, check, from_dict, overlay, to_dict
from twostage_jax.data.spec import check_spec
from twostage_jax.errors import Corrupted, UserError, did_you_mean
from twostage_jax.files import read_json
from twostage_jax.runs.resume import check_unchanged
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import Interrupted, farewell, handled, interrupt_as_exception
from twostage_jax.store.layout import CONFIG

DESCRIPTION = (
    "Two-stage training in JAX: pretrain an encoder on images without labels, freeze it, train a "
    "head on it. Start with: twostage run"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: done. 2: a mistake the user can mend, told in one line. 130, 143: interrupted, with the state
    saved. 141: nobody reads the output any more. Our own bugs are raised as they are.
    """
    argv = sys.argv[1:] if argv is None else argv
    _open_standard_streams()
    # A cache of programs that cannot be read or written costs time, and jax a warning for each.
    warnings.filterwarnings("ignore", message="Error .* persistent compilation cache entry")
    try:
        with handled():
            _act(parse(argv))
    except BrokenPipeError:  # as in: twostage run --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (UserError, OSError) as error:  # a full disk or a folder without permission, too
        if "--debug" in argv:
            traceback.print_exc()
        print(f"twostage: error: {UserError(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(farewell(stop), end="", file=sys.stderr)
        return 128 + stop.signum
    return 0


def _open_standard_streams() -> None:
    """Keep our files from becoming standard output where that was closed, as by `>&-`."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def parse(argv: Sequence[str]) -> Any:
    """One of the commands above.

    Raises:
        UserError: what cannot be parsed, in one line.
        SystemExit: after --help.
    """
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise UserError(f"unknown command {argv[0]!r}: {did_you_mean(argv[0], COMMANDS)}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), warnings.catch_warnings():
            # None is our "not given" in fields of another type; tyro takes it, with a warning.
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
        command = f" {argv[0]}" if argv and argv[0] in COMMANDS else ""
        raise UserError(_one_line(said.getvalue(), f"twostage{command} --help")) from None


def _one_line(box: str, help_command: str) -> str:
    """tyro's box of an error as one sentence: what is wrong, the nearest flags, where to look."""
    # Drawn with Unicode or, where the terminal's encoding is another, with ASCII.
    lines = [line.replace("─", "-").strip("│|╭╮╰╯+ ") for line in box.splitlines()]
    text = "\n".join("" if set(line) == {"-"} else line or " " for line in lines[1:])
    sections = [" ".join(part.split()) for part in text.split("\n\n")]
    what = re.split(r"Got errors:|For full helptext|Arguments are applied", sections[0])[0]
    what = re.sub(r" \(applied to [^)]*\)", "", what).strip(" .:")
    what = re.sub(
        r"Error parsing (\S+): no type matching (.*) could be instantiated from \[(.*)\]",
        r"\1 takes \2, not \3",
        what.replace("{None}|", ""),
    )
    near = [s for s in sections if s.startswith("Perhaps you meant")]
    flags = list(dict.fromkeys(re.findall(r"--[a-z][\w.-]*", near[0]))) if near else []
    flags = [name for name in flags if name not in ("--help", *what.split())]
    hint = f"; did you mean {' or '.join(flags[:2])}?" if flags else ";"
    return f"{what}{hint} see {help_command}"


def _act(command: Any) -> None:
    if isinstance(command, Data):
        _show_data(command)
    elif isinstance(command, Evaluate):
        _evaluate(command)
    elif isinstance(command, Bench):
        with interrupt_as_exception():  # what it measures runs in processes of its own
            _bench(command)
    else:
        _train(command)


def _train(command: Any) -> None:
    config = _config(command)
    terminal = Terminal()
    with terminal.phase("import", "importing jax"):
        from twostage_jax.runs.run import run
    _keep_compiled(command, terminal)
    run(
        config,
        resume=command.resume,
        pretrain_only=isinstance(command, Pretrain),
        trust_code=command.trust_code,
        allow_changed=command.allow_changed,
        checkpoint_every=command.checkpoint_every,
        terminal=terminal,
    )


def _keep_compiled(command: Any, terminal: Terminal) -> None:
    from twostage_jax.engine.compile import keep_compiled

    try:
        keep_compiled(command.compile_cache)
    except OSError as error:
        if command.compile_cache:
            raise UserError(
                f"cannot keep compiled programs in {command.compile_cache}: {error.strerror}; give "
                "--compile-cache a folder that can be written to, or off"
            ) from error
        keep_compiled("off")
        terminal.notice(f"no compiled program is kept for the next start: {error}")


def _config(command: Any) -> Config:
    """The config that the flags and a `--config` file give, checked without importing jax."""
    names = {item.name for item in dataclasses.fields(Config)}
    # An empty list is what a flag leaves that is not there.
    given: dict[str, Any] = {
        name: None if value == () else value
        for name, value in vars(command).items()
        if name in names
    }
    config = Config(**given)
    if isinstance(command, Head):
        if not (command.from_ or command.resume):
            raise UserError("head needs the run whose encoder it uses: give --from RUN")
        config = dataclasses.replace(
            config, encoder_run=str(command.from_) if command.from_ else None
        )
    elif command.config:
        if command.preset:
            raise UserError("--preset and --config both give a recipe: leave one of them out")
        config = overlay(config, to_dict(_read_config(command.config, command.trust_code)))
    check(config)
    if command.resume and not command.out:
        raise UserError("--resume needs the folder to go on with: add --out DIR")
    return config


def _read_config(path: Path, trust_code: bool) -> Config:
    try:
        values = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; give the config.json of an earlier run") from error
    config = from_dict(values, str(path), trust_code)
    if path.name == CONFIG:
        check_unchanged(path.parent, values)
    return config


def _evaluate(command: Evaluate) -> None:
    for spec in (command.data, command.ood):
        if spec is not None:
            check_spec(spec)
    check_coverage(command.coverage)
    if command.ood and command.data:
        raise UserError("--ood compares with the run's own data: leave out --data")
    terminal = Terminal()
    with terminal.phase("import", "importing jax"):
        from twostage_jax.runs.evaluate import judge
        from twostage_jax.runs.open import open_run
    _keep_compiled(command, terminal)
    try:
        run = open_run(command.run, command.trust_code)
    except Corrupted as error:
        raise UserError(f"{error}; twostage run --resume --out {command.run} mends it") from error
    names = ("split", "data", "data_dir", "ood", "coverage", "save_predictions")
    judge(run, terminal, **{name: getattr(command, name) for name in names})


def _show_data(command: Data) -> None:
    check_spec(command.spec)
    from twostage_jax.data.sources import load
    from twostage_jax.show.tables import show_dataset

    terminal = Terminal()
    with terminal.phase("data", "reading data"):
        dataset = load(command.spec, command.validation, command.data_dir)
    show_dataset(dataset, terminal)


def _bench(command: Bench) -> None:
    if command.data is not None:
        check_spec(command.data)
    for name in ("repeats", "epochs"):
        check_whole(f"--{name}", getattr(command, name), 1)
    if command.parity and command.members:
        raise UserError("--parity and --members are two benchmarks: ask for one")
    if command.parity:
        from twostage_jax.bench.parity import certify

        certify(command.data, command.out, quick=command.quick)
        return
    from twostage_jax.bench.harness import bench
    from twostage_jax.bench.members import bench_members

    options = ("device", "quick", "repeats", "epochs", "rows")
    chosen = {name: getattr(command, name) for name in options}
    measure = bench_members if command.members else bench
    measure(command.data, command.out, **chosen)
