"""The terminal: names are printed literally, notices are kept, output errors are explained."""

import io
from typing import NamedTuple

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


class Epoch(NamedTuple):
    """Figures of an epoch."""

    epoch: int
    loss: float | None
    metrics: dict[str, float]
    validation: dict[str, float]
    seconds: float


def test_a_quiet_terminal_keeps_its_notices(capsys):
    terminal = Terminal(quiet=True)
    terminal.notice("two\n  lines")
    terminal.line("text")
    with terminal.status("reading data"), terminal.progress("head", 2) as bar:
        bar.epoch(Epoch(1, 0.5, {}, {}, 1.0))
    assert terminal.notices == ["two lines"]
    assert capsys.readouterr().out == ""


def test_an_epoch_is_a_line_also_without_a_terminal(capsys):
    with Terminal().progress("pretrain", 5) as bar:
        bar.advance(0.5)
        bar.epoch(Epoch(1, 0.06561, {"accuracy": 0.25}, {"loss": 0.5}, 1.26))
        bar.epoch(Epoch(2, None, {}, {}, 1.26))
    assert capsys.readouterr().out.splitlines() == [
        "pretrain  epoch 1/5  accuracy 0.2500  loss 0.0656  validation loss 0.5000  1.3 s",
        "pretrain  epoch 2/5  loss not finite  1.3 s",
    ]


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
