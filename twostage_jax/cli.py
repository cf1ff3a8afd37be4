"""The command line. It parses before it imports jax, so that mistakes show at once."""

import contextlib
import dataclasses
import math
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twostage_jax.config.commands import (
    Bench,
    Command,
    Data,
    Evaluate,
    Export,
    Head,
    Predict,
    Pretrain,
    Training,
)
from twostage_jax.config.deploy import check_predict
from twostage_jax.config.fields import check_coverage, integer, parse_mesh
from twostage_jax.config.layers import from_dict, overlay, to_dict
from twostage_jax.config.parse import parse
from twostage_jax.config.reading import reading_of
from twostage_jax.config.reports import Report
from twostage_jax.config.rules import check, trial_count
from twostage_jax.config.schema import Config
from twostage_jax.config.serving import Serve, check_serve
from twostage_jax.config.studies import Study, check_study
from twostage_jax.data.spec import check_spec
from twostage_jax.errors import Corrupted, UserError, import_errors, user_message
from twostage_jax.files import open_standard_streams, read_json
from twostage_jax.runs.clock import Clock
from twostage_jax.signals import Interrupted, farewell, handled, interrupt_as_exception

if TYPE_CHECKING:
    from twostage_jax.show.terminal import Terminal


def _make_terminal(command: Command) -> "Terminal":
    # Imported here, because help texts and errors do not need it.
    from twostage_jax.show.terminal import Terminal

    is_predict = isinstance(command, Predict)  # its CSV is on standard output
    return Terminal(verbose=getattr(command, "verbose", False), stderr=is_predict)


def execute(command: Command) -> None:
    """Execute a parsed command."""
    if isinstance(command, Data):
        # Without jax, whose import takes seconds.
        from twostage_jax.runs.describe import describe_data

        describe_data(command, _make_terminal(command))
    elif isinstance(command, Evaluate):
        _evaluate(command)
    elif isinstance(command, Report):
        with import_errors():
            from twostage_jax.runs.report import write_report
        write_report(command, _make_terminal(command))
    elif isinstance(command, Predict | Export):
        _deploy(command)
    elif isinstance(command, Study):
        _study(command)
    elif isinstance(command, Serve):
        _serve(command)
    elif isinstance(command, Bench):
        with interrupt_as_exception():  # the benchmark trains in processes of its own
            _bench(command)
    else:
        _train(command)  # it saves its state first, so no exception may cut it off


def _show_version() -> None:
    with import_errors():
        from twostage_jax.engine.device import find_device
        from twostage_jax.runs.announce import show_machine
        from twostage_jax.show.terminal import Terminal
    show_machine(find_device(), Terminal())


def _train(command: Training) -> None:
    config = requested_config(command)
    terminal = _make_terminal(command)
    clock = Clock()
    with terminal.status("importing jax"), clock.phase("import"), import_errors():
        from twostage_jax.engine.compile import use_cores
        from twostage_jax.runs.open import read_config
        from twostage_jax.runs.run import run
    # Members train side by side, one per core. This only works before jax is first used.
    complete = config
    if command.resume and config.out:
        with contextlib.suppress(UserError):  # `run` reports it, after it has locked the folder
            # The names of code are only read here, not imported.
            complete = overlay(config, to_dict(read_config(config.out, trust_code=True)))
    use_cores(_device_count(complete))
    _keep_compiled(command.compile_cache, terminal)
    run(
        config,
        resume=command.resume,
        pretrain_only=isinstance(command, Pretrain),
        trust_code=command.trust_code,
        allow_changed=command.allow_changed,
        checkpoint_every=command.checkpoint_every,
        tensorboard=command.tensorboard,
        terminal=terminal,
        clock=clock,
        device=command.device,
    )


def _device_count(config: Config) -> int:
    """Return the number of devices that the trials or the mesh of a config can use."""
    return max(trial_count(config), math.prod(parse_mesh("--mesh", config.mesh).values()))


def requested_config(command: Training) -> Config:
    """Configuration from the flags and a `--config` file, checked without importing jax.

    Raises:
        UserError: A value or combination that is not allowed.
    """
    names = {item.name for item in dataclasses.fields(Config)}
    # The other flags say how to run, and are no part of what a run computes.
    options = {name: value for name, value in vars(command).items() if name in names}
    config = Config(**options)
    if isinstance(command, Head):
        if not (command.from_ or command.resume):
            raise UserError("head needs the run that has the encoder: give --from RUN")
        source = str(command.from_) if command.from_ else None
        config = dataclasses.replace(config, encoder_run=source)
    elif command.config:
        if command.preset:
            raise UserError("--preset and --config both give default values: leave out one of them")
        config = overlay(config, to_dict(read_config_file(command.config, command.trust_code)))
    check(config)
    if command.resume and not command.out:
        raise UserError("--resume needs the folder of the run: add --out DIR")
    return config


def read_config_file(path: Path, trust_code: bool) -> Config:
    """Read the `config.json` of an earlier run, or a file like it."""
    return from_dict(read_json(path), str(path), trust_code)


def _keep_compiled(folder: str | None, terminal: "Terminal") -> None:
    from twostage_jax.engine.compile import keep_compiled

    try:
        keep_compiled(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        if folder:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(
                f"cannot keep compiled programs in {folder}: {reason}; give --compile-cache a "
                "writable folder, or off"
            ) from error
        # The default folder is only a convenience.
        keep_compiled("off")
        terminal.notice(f"compiled programs are not kept for the next start: {error}")


def _evaluate(command: Evaluate) -> None:
    # First everything that needs no jax, because its import takes seconds.
    for spec in (command.data, command.ood):
        if spec is not None:
            check_spec(spec)
    if command.coverage is not None:
        check_coverage("--coverage", command.coverage)
    if command.ood and command.data:
        raise UserError("--ood compares with the run's own data: leave out --data")
    terminal = _make_terminal(command)
    with terminal.status("importing jax"), import_errors():
        from twostage_jax.engine.compile import use_cores
        from twostage_jax.engine.device import find_device
        from twostage_jax.runs.announce import show_machine
        from twostage_jax.runs.evaluate import evaluate
        from twostage_jax.runs.open import open_run, read_config
    with contextlib.suppress(UserError):  # `open_run` reports it
        # The devices of the run: members on other devices round in another way.
        use_cores(_device_count(read_config(command.run, trust_code=True)))
    device = find_device(command.device)
    _keep_compiled(command.compile_cache, terminal)
    try:
        run = open_run(command.run, command.trust_code)
    except Corrupted as error:
        # Evaluation only reads; `run` can train again what is lost.
        raise UserError(
            f"{error}; repair it with twostage run --resume --out {command.run}"
        ) from error
    show_machine(device, terminal)
    evaluate(
        run,
        terminal,
        split=command.split,
        data=command.data,
        data_dir=command.data_dir,
        ood=command.ood,
        coverage=command.coverage,
        save_predictions=command.save_predictions,
        reading=reading_of(command),
    )


def _deploy(command: Predict | Export) -> None:
    if isinstance(command, Predict):
        check_predict(command)
    terminal = _make_terminal(command)
    with terminal.status("importing jax"), import_errors():
        from twostage_jax.runs.deploy.commands import deploy
    _keep_compiled(command.compile_cache, terminal)
    deploy(command, terminal)


def _study(command: Study) -> None:
    check_study(command)
    terminal = _make_terminal(command)
    with terminal.status("importing jax"), import_errors():
        from twostage_jax.runs.study.start import run_study
    _keep_compiled(command.compile_cache, terminal)
    run_study(command, terminal)


def _serve(command: Serve) -> None:
    check_serve(command)
    terminal = _make_terminal(command)
    with terminal.status("importing jax"), import_errors():
        from twostage_jax.engine.device import find_device
        from twostage_jax.serve.server import serve
    find_device(command.device)
    _keep_compiled(command.compile_cache, terminal)
    serve(command, terminal)


def _bench(command: Bench) -> None:
    if command.data is not None:
        check_spec(command.data)
    for name in ("repeats", "epochs"):
        value = getattr(command, name)
        if value is not None:
            integer(1)(f"--{name}", value)
    if command.parity and command.members:
        raise UserError("--parity and --members are two benchmarks: give one of them")
    if command.parity:
        ignored = ("repeats", "epochs", "rows")
        wanted = [name for name in ignored if getattr(command, name)]
        if wanted or command.device != "cpu":
            name = wanted[0] if wanted else "device"
            raise UserError(f"--{name} does not apply to --parity: leave it out")
        # Imported here, because PyTorch is an optional package.
        from twostage_jax.bench.parity import certify

        certify(command.data, command.out, quick=command.quick)
        return
    from twostage_jax.bench.harness import bench
    from twostage_jax.bench.members import COST
    from twostage_jax.bench.speed import SPEED

    bench(
        COST if command.members else SPEED,
        command.data,
        command.out,
        device=command.device,
        quick=command.quick,
        repeats=command.repeats,
        epochs=command.epochs,
        rows=command.rows,
    )


def main(argv: Sequence[str] | None = None, execute: Callable[[Command], None] = execute) -> int:
    """Run one command and return its exit status.

    The status is 0 for success, 2 for an error that the user can fix (one line on stderr), 128 plus
    the number of a signal that stopped it (130 for SIGINT, 143 for SIGTERM; the state is saved),
    and 141 for a closed pipe. Our own bugs are raised. A test may replace `execute`.
    """
    argv = sys.argv[1:] if argv is None else argv
    open_standard_streams()
    # An unusable cache of programs only costs time, and jax would warn once per program.
    warnings.filterwarnings("ignore", message="Error .* persistent compilation cache entry")
    try:
        with handled():
            if list(argv) == ["--version"]:
                _show_version()
            else:
                execute(parse(argv))
    except BrokenPipeError:  # for instance: twostage run --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (UserError, OSError, ArithmeticError, MemoryError, RuntimeError) as error:
        message = user_message(error)
        if message is None:
            raise
        if "--debug" in argv:
            traceback.print_exc()
        # Lists of any length; the error itself stays one line.
        for detail in getattr(error, "details", ()):
            print(detail, flush=True)
        print(f"twostage: error: {UserError(message)}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        with contextlib.suppress(OSError):  # nobody may read it any more
            print(farewell(stop), end="", file=sys.stderr, flush=True)
        return 128 + stop.signum
    return 0
