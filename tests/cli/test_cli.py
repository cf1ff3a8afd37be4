"""The command line without any training: parsing, one-line errors, help, exit statuses."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import pytest

import twostage_jax as ts
from twostage_jax import cli
from twostage_jax.config import parse
from twostage_jax.config.commands import COMMANDS
from twostage_jax.config.layers import resolve, to_dict
from twostage_jax.config.schema import PRESETS, Config
from twostage_jax.signals import Interrupted


def only_parse(command):
    """Do what a command does before it imports jax."""
    if hasattr(command, "resume"):
        cli.requested_config(command)


def error_line(capsys, *argv, execute=only_parse):
    """The line that an error gets."""
    assert cli.main(argv, execute) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("twostage: error: ")
    assert output.err.count("\n") == 1
    return output.err


def requested(line):
    """Configuration that a command line asks for."""
    return cli.requested_config(cli.parse(line.split()))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rnu", "unknown command 'rnu': did you mean 'run'"),
        ("", "no command is given: choose from run, pretrain, head, evaluate, predict"),
        ("--data digits run", "'--data' comes before the command: write for instance twostage run"),
        ("run --pretrain.epocs 3", "has no flag --pretrain.epocs; did you mean --pretrain.epochs"),
        ("run --pretrain.epochs many", "--pretrain.epochs is 'many': give a whole number"),
        ("run --head.widths a", "--head.widths is 'a': give whole numbers"),
        ("run --checkpoint-every x", "--checkpoint-every is 'x': give a number"),
        ("run --pretrain.epochs", "--pretrain.epochs needs a value"),
        ("run digits", "unexpected 'digits': a value comes after its flag"),
        ("run --pretrain.epochs -1", "--pretrain.epochs is -1: give a whole number of at least 0"),
        ("run --head.set k=many", "--head.set k is 'many': give a finite number"),
        ("run --sweep noise=0,1", "--sweep noise is 1.0"),
        ("run --head.protocol knn --head.epochs 3", "--head.epochs goes with a trained head"),
        ("run --resume", "--resume needs the folder of the run: add --out DIR"),
        ("run --config /nowhere/config.json", "cannot read /nowhere/config.json"),
        ("run --preset blog --config a.json", "leave out one of them"),
        ("head", "head needs the run that has the encoder: give --from RUN"),
        (
            "head --from /nowhere --pretrain.epochs 3",
            "--pretrain.epochs, a flag of run and pretrain;",
        ),
        ("evaluate", "twostage evaluate needs RUN: folder of the run"),
        (
            "evaluate /nowhere --split tset",
            "--split is 'tset': choose from test, train",
        ),
        ("data", "twostage data needs SPEC: source"),
    ],
)
def test_an_error_gets_status_2_and_one_line(line, expected, capsys):
    assert expected in error_line(capsys, *line.split())


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--lr", "--pretrain.learning-rate or --head.learning-rate"),
        ("--learning_rate", "--pretrain.learning-rate or --head.learning-rate"),
        ("--epochs", "--pretrain.epochs or --head.epochs"),
        ("--num-epochs", "--pretrain.epochs or --head.epochs"),
        ("--batch-size=32", "--pretrain.batch-size or --head.batch-size"),
        ("--weight-decay", "--pretrain.weight-decay or --head.weight-decay"),
        ("--objective", "--pretrain.objective"),
        ("--encoder", "--pretrain.encoder"),
        ("--model", "--pretrain.encoder"),
        ("--protocol", "--head.protocol"),
        ("--head.lr", "--head.learning-rate"),
        ("--head.label-smoothing", "--head.set label-smoothing=VALUE"),
        ("--dataset", "--data"),
        ("--output", "--out"),
        ("-o", "--out"),
        ("--gpu", "--device gpu"),
    ],
)
def test_a_flag_of_another_program_gets_the_flag_that_is_meant(flag, expected, capsys):
    line = error_line(capsys, "run", flag, "3")
    name = flag.partition("=")[0].replace("_", "-")
    assert line.endswith(
        f"run has no flag {name}; did you mean {expected}? see twostage run --help\n"
    )


def test_every_hint_is_a_flag():
    valid = {flag for command in COMMANDS for flag in parse.flags(command)}
    for target in parse.ALIASES:
        assert {target, f"pretrain.{target}"} & valid, target


def test_an_error_on_a_terminal_has_no_colours():
    box = "\x1b[31m╭─╮\x1b[0m\n\x1b[31m│\x1b[0m \x1b[mwrong\x1b[0m thing \x1b[31m│\x1b[0m\n╰──╯"
    assert parse._one_line(box) == "wrong thing"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("evaluate run --coverage 2", "--coverage is 2.0: give a number between 0 and 1"),
        ("evaluate run --data digits --ood digits", "leave out --data"),
        ("evaluate run --ood dgits", "unknown source 'dgits'"),
        ("bench --repeats 0", "--repeats is 0"),
        ("bench --parity --members", "two benchmarks"),
        ("predict run", "predict needs images: twostage predict run INPUT"),
    ],
)
def test_the_other_commands_check_their_flags_before_they_import_jax(line, expected, capsys):
    assert expected in error_line(capsys, *line.split(), execute=cli.execute)


def test_a_tilde_is_the_home_folder_in_every_path(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/somewhere")
    home = Path("/somewhere/a")
    for line, name in {
        "run --out ~/a": "out",
        "run --config ~/a": "config",
        "run --data-dir ~/a": "data_dir",
        "pretrain --out ~/a": "out",
        "head --from ~/a": "from_",
        "evaluate ~/a": "run",
        "evaluate b --data-dir ~/a": "data_dir",
        "data mnist --data-dir ~/a": "data_dir",
        "bench --out ~/a": "out",
    }.items():
        assert getattr(cli.parse(line.split()), name) == home, line
    assert Config(out="~/a").out == Config(data_dir=Path("~/a")).data_dir == home  # type: ignore
    assert Config(encoder_run="~/a").encoder_run == str(home)
    line = error_line(capsys, "run", "--out", "~nobody-of-this-name/a")
    assert "--out is '~nobody-of-this-name/a': there is no such home folder" in line


def test_flags_become_a_config():
    config = requested(
        "run --seed 0 --labels 10 --share encoder order --sweep noise=0,0.1 --sweep head.k=1,5 "
        "--pretrain.set temperature=0.2 --head.set a=1 --head.set label-smoothing=1e-1 "
        "--head.widths --head.protocol package.module:function"
    )
    assert config == Config(
        seed=0,
        labels=10,
        share=("encoder", "order"),
        sweep={"noise": (0, 0.1), "head.k": (1, 5)},
        pretrain={"set": {"temperature": 0.2}},
        head={
            "protocol": "package.module:function",
            "widths": (),
            "set": {"a": 1, "label_smoothing": 0.1},
        },
    )
    assert requested("run") == requested("pretrain") == Config()
    assert requested("head --from earlier") == Config(encoder_run="earlier")


def test_a_config_file_supplies_what_no_flag_gives(tmp_path):
    stored = resolve(Config(seed=3, head={"protocol": "ridge"}), (8, 8, 1), 10)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(stored)))
    config = requested(f"run --config {path} --seed 4 --out new")
    assert config == dataclasses.replace(stored, seed=4, out=config.out)
    assert str(config.out) == "new"


def test_a_config_file_imports_code_only_with_trust(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"head": {"protocol": "os:getcwd"}}))
    assert "imports os:getcwd: give --trust-code" in error_line(
        capsys, "run", "--config", str(path)
    )
    assert requested(f"run --config {path} --trust-code").head.protocol == "os:getcwd"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_the_default_of_every_preset(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    output = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert ">>>" not in output and "(default: False)" not in output
    if name in ("run", "pretrain"):
        assert "(default: blog 5, quick 20, others by the number of examples)" in output
        assert all(preset in output for preset in PRESETS)
        assert "Step size of Adam (default: blog 0.001, quick 0.001, others 0.002)" in output


def test_debug_adds_the_traceback(capsys):
    assert cli.main(["run", "--seed", "-1", "--debug"], only_parse) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and lines[-1].startswith("twostage: error: --seed")


def test_an_error_of_the_system_gets_one_line_and_a_bug_a_traceback(capsys):
    def full_disk(command):
        raise OSError(28, "No space left on device", "metrics.jsonl")

    def bug(command):
        raise KeyError("bug")

    def not_finite(command):
        raise FloatingPointError("invalid value (nan) encountered in jit(mul)")

    def no_memory(command):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    assert "JAX_DEBUG_NANS" in error_line(capsys, "data", "digits", execute=not_finite)
    assert "--members-per-chunk" in error_line(capsys, "data", "digits", execute=no_memory)
    line = error_line(capsys, "data", "digits", execute=full_disk)
    assert "No space left on device: 'metrics.jsonl'" in line
    with pytest.raises(KeyError):
        cli.main(["data", "digits"], bug)


def test_a_signal_sets_the_status(capsys):
    def stop(command):
        raise Interrupted(15)

    assert cli.main(["data", "digits"], stop) == 143
    assert capsys.readouterr().out == ""


def test_versions_of_the_package_jax_and_the_device_are_printed(capsys):
    assert cli.main(["--version"]) == 0
    output = capsys.readouterr().out
    assert re.match(r"(\d+ x )?cpu on \d+ cores?; twostage_jax ", output)
    assert f"twostage_jax {ts.__version__}, jax {jax.__version__}, Python 3." in output
