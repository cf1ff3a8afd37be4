"""The terminal: names are printed literally, notices are kept, output errors are explained."""

import io
import re
from types import SimpleNamespace

import pytest

from twostage_jax.errors import UserError
from twostage_jax.show.terminal import Terminal


def test_tables_and_lines_print_names_literally(capsys):
    terminal = Terminal()
    terminal.table("a [bold]title", ("class", "count"), [("\x1b[2J[/red]", 1), ("[link=x]", 2)])
    terminal.line("\x1b]0;owned\x07 [red]\nnext")
    output = capsys.readouterr().out
    assert "\x1b" not in output and "\x07" not in output
    assert "\\x1b[2J[/red]" in output and "[link=x]" in output and "[bold]title" in output
    assert output.endswith("[red]\nnext\n")


def test_a_long_line_is_not_wrapped_and_a_long_value_is_not_cut(capsys):
    terminal = Terminal()
    terminal.line("word " * 60)
    terminal.table("title", ("name", "count"), [("x" * 200, 123456)])
    output = capsys.readouterr().out.splitlines()
    assert output[0] == "word " * 60
    assert sum(line.count("x") for line in output) == 200
    assert any("123,456" in line for line in output)


def test_a_quiet_terminal_keeps_its_notices(capsys):
    terminal = Terminal(quiet=True)
    terminal.notice("two\n  lines")
    terminal.line("text")
    with terminal.status("reading data"), terminal.progress("head", 2) as bar:
        bar.epoch(epoch("head", 1))
    assert terminal.notices == ["two lines"]
    assert capsys.readouterr().out == ""


def epoch(stage, number, seconds=0.01, **fields):
    """Record of an epoch."""
    values = {"loss": 0.06561, "metrics": {}, "validation": {}, "members": {}}
    return SimpleNamespace(stage=stage, epoch=number, seconds=seconds, **(values | fields))


def test_an_epoch_is_a_line_under_the_names_of_its_figures(capsys):
    with Terminal().progress("head", 5) as bar:
        bar.advance(0.5)
        figures = {"accuracy": 0.25}
        held_out = {"accuracy": None, "loss": 0.5}
        bar.epoch(epoch("head", 1, 1.26, metrics=figures, validation=held_out))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["train", "train", "validation", "validation"],
        ["loss", "accuracy", "loss", "accuracy", "seconds"],
        ["head", "epoch", "1/5", "0.0656", "0.2500", "0.5000", "-", "1.3"],
    ]


def test_members_are_a_mean_and_a_range_within_80_columns(capsys):
    members = {"loss": [0.1, 0.2, None], "validation_accuracy": [0.5, 0.75, None]}
    means = {"metrics": {"accuracy": 0.9}, "validation": {"loss": 0.3, "accuracy": 0.625}}
    with Terminal().progress("head", 100) as bar:
        bar.epoch(epoch("head", 100, **means, members=members))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "head: mean of 3 members (lowest to highest)"
    assert lines[-1].endswith("0.6250 (0.5000 to 0.7500)")
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("members", [0, 3])
def test_parts_of_a_loss_that_do_not_fit_have_lines_of_their_own(members, capsys):
    parts = {"divergence": 12.25, "reconstruction": 123.5}
    fields = {"metrics": parts, "validation": {**parts, "loss": 0.5}}
    if members:
        fields["members"] = {"loss": [0.1] * members, "validation_loss": [0.25, 0.5, 0.75]}
    with Terminal(verbose=True).progress("pretrain", 12) as bar:
        bar.epoch(epoch("pretrain", 1, **fields))
    with Terminal().progress("pretrain", 12) as bar:
        bar.epoch(epoch("pretrain", 1, **fields))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    row = "pretrain epoch 1/12 0.0656 0.5000"
    text, _, brief = text.rpartition(row)
    ending = "(0.2500 to 0.7500)" if members else "0.0"
    assert f"{row} {ending} train divergence 12.2500, train" in text
    assert "validation reconstruction 123.5000" in text
    # Without --verbose, an epoch has one line.
    assert brief.strip() == ending


@pytest.mark.parametrize(
    ("epochs", "verbose", "expected"),
    [
        (25, False, [1, 10, 20, 25]),
        (300, False, [1, *range(30, 301, 30)]),
        (4, True, [1, 2, 3, 4]),
    ],
)
def test_only_some_of_many_short_epochs_have_lines(epochs, verbose, expected, capsys):
    with Terminal(verbose=verbose).progress("pretrain", epochs) as bar:
        for number in range(1, epochs + 1):
            bar.epoch(epoch("pretrain", number))
    printed = re.findall(r"epoch (\d+)/", capsys.readouterr().out)
    assert [int(number) for number in printed] == expected


def test_a_long_epoch_has_a_line(monkeypatch, capsys):
    times = iter([0.0, 0.5, 1.2, 1.9])
    monkeypatch.setattr("twostage_jax.show.epochs.time.monotonic", lambda: next(times))
    with Terminal().progress("pretrain", 8) as bar:
        for number in range(1, 5):
            bar.epoch(epoch("pretrain", number))
    assert re.findall(r"epoch (\d)/", capsys.readouterr().out) == ["1", "3"]


def on_a_terminal(monkeypatch, width, text, **options):
    """Lines of text as they appear on a terminal of this width."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    file = io.StringIO()
    monkeypatch.setattr("sys.stdout", file)
    Terminal().line(text, **options)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_terminal_wraps_between_words_and_keeps_paths_and_units_whole(width, monkeypatch):
    path = "/home/somebody/a-long-folder/with-many-parts/and-a-name-of-a-run/runs/digits-1"
    text = f"seconds {'1,234.5 s, ' * 12}in {path}, 95 % of 12,345,678 images"
    lines = on_a_terminal(monkeypatch, width, text, hang=4)
    assert " ".join(" ".join(lines).split()) == text
    assert all(len(line) <= width for line in lines if path not in line)
    assert any(path in line for line in lines)
    assert not any(line.split()[0] in ("s,", "%") for line in lines)
    assert all(line.startswith("    ") for line in lines[1:])


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OSError(28, "No space left on device"), UserError), (BrokenPipeError(), BrokenPipeError)],
)
def test_a_full_disk_is_explained_and_a_closed_pipe_is_passed_on(monkeypatch, error, expected):
    class Failing(io.StringIO):
        def write(self, text):
            raise error

    monkeypatch.setattr("sys.stdout", Failing())
    with pytest.raises(expected) as caught:
        Terminal().line("text")
    if expected is UserError:
        assert "cannot print to standard output: No space left on device" in str(caught.value)
