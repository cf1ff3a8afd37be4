"""The benchmark's own arithmetic, and one small benchmark from end to end."""

import json

import pytest

from twostage_jax.bench import harness
from twostage_jax.bench.figures import Figure, epoch_seconds, figure, ratios, share, table
from twostage_jax.bench.roofline import operations
from twostage_jax.bench.rows import ROWS, Row, chosen_rows
from twostage_jax.cli import main
from twostage_jax.errors import UserError
from twostage_jax.show.terminal import Terminal


def measured(**changes):
    values = {"cold": 10.0, "pretrain": [9.0, 1.0, 2.0, 3.0], "head": [0.5, 0.1], "encode": 0.4}
    return values | {"compile": 2.0, "peak_bytes": 5e8, "accuracy": 0.97, **changes}


def report(**rows):
    return {"rows": [{"name": n, "title": n, "repetitions": r} for n, r in rows.items()]}


def test_operations_of_the_blog_s_network_by_hand():
    layers = 784 * 256 + 256 * 128 + 128 * 256 + 256 * 784
    assert operations(784, 10, 1)["pretrain"] == 6 * layers - 2 * 784 * 256
    counted = operations(784, 10, 60_000)
    assert round(counted["pretrain"] / 1e9) == 144
    assert round(counted["encode"] / 1e9) == 28
    assert round(counted["head"] / 1e9, 1) == 2.2


def test_a_figure_is_median_minimum_and_maximum():
    assert figure([3.0, None, 1.0, 2.0]) == Figure(2.0, 1.0, 3.0)
    assert figure([None]) is None
    assert Figure(2.0, 1.0, 3.0).text(1, " s") == "2.0 [1.0, 3.0] s"
    assert Figure(2.0, 2.0, 2.0).text(1) == "2.0"


def test_the_first_epoch_is_not_a_warm_one_unless_it_is_all_there_is():
    assert epoch_seconds(measured(), "pretrain") == 2.0
    assert epoch_seconds(measured(pretrain=[9.0]), "pretrain") == 9.0
    assert epoch_seconds({}, "pretrain") is None


def test_the_share_of_the_matrix_rate_by_hand():
    assert share(measured(), operations=100, rate=200.0) == pytest.approx(25)


def test_ratios_are_paired_and_taken_against_the_faster_of_the_best():
    mine = [measured(cold=1.0, compile_warm=0.5), measured(cold=2.0, compile_warm=1.0)]
    printed = [measured(cold=8.0), measured(cold=10.0)]
    eager, compiled = [measured(cold=3.0), measured(cold=9.0)], [measured(cold=5.0)] * 2
    rows = {"torch-s1": printed, "torch-best-eager": eager, "torch-best-compiled": compiled}
    found = dict(ratios(report(**rows, ours=mine)))
    assert found["whole program, cold, S1 as printed / ours"] == "6.5 [5.0, 8.0] x"
    assert found["whole program, cold, S1 best / ours"] == "2.8 [2.5, 3.0] x"
    assert found["compile time, warm cache / cold"] == "38 [25, 50] %"


def test_without_pytorch_there_is_a_table_and_no_ratio():
    only = report(ours=[measured()])
    assert [name for name, _ in ratios(only)] == []
    row = table(only)[0]
    assert row["stage 2 in all (s)"] == "1.00"  # encoding and both epochs
    assert row["compile, warm cache (s)"] == "-"


def test_rows_are_chosen_by_name_and_the_quick_version_leaves_out_the_slow():
    assert [row.name for row in chosen_rows(["ours", "torch-s1"], False)] == ["ours", "torch-s1"]
    assert len(chosen_rows([], True)) < len(chosen_rows([], False)) == len(ROWS)
    with pytest.raises(UserError, match="unknown row 'our'.*torch-s1"):
        chosen_rows(["our"], False)


def test_pytorch_s_rows_are_skipped_visibly_where_it_is_not_installed(monkeypatch, capsys):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    rows = [row for row in ROWS if row.name in ("torch-s1", "ours")]
    assert [row.name for row in harness.installed(rows, "cpu", Terminal())] == ["ours"]
    assert "PyTorch is not installed: its rows are skipped" in capsys.readouterr().out
    with pytest.raises(UserError, match="extra bench"):
        harness.installed(rows[:1], "cpu", Terminal())


def test_a_benchmark_of_ours_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "bench"
    flags = ["--data", "digits", "--rows", "ours", "--epochs", "2", "--repeats", "1"]
    assert main(["bench", *flags, "--out", str(out)]) == 0
    written = json.loads((out / "bench.json").read_text())
    (row,) = written["rows"]
    (once,) = row["repetitions"]
    assert once["accuracy"] > 0.8 and len(once["pretrain"]) == len(once["head"]) == 2
    assert 0 < once["compile_warm"] < once["compile"]
    assert 0 < once["share"] < 100
    assert "ours S1" in (out / "bench.md").read_text()
    assert "medians" in capsys.readouterr().out


def test_a_row_that_fails_says_why(tmp_path):
    from twostage_jax.bench.rows import Setting, run_process

    setting = Setting("digits", tmp_path, 64, 10, 1, 1, "cpu", tmp_path)
    with pytest.raises(RuntimeError, match="ended with 3: no such thing"):
        run_process(["-c", "import sys; print('no such thing', file=sys.stderr); exit(3)"], setting)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--repeats", "0"], "--repeats is 0: give a whole number of at least 1"),
        (["--rows", "nothing"], "unknown row 'nothing'"),
        (["--data", "digit"], "unknown source 'digit'"),
        (["--device", "abacus"], "see twostage bench --help"),
    ],
)
def test_mistakes_are_told_in_one_line(flags, said, capsys):
    assert main(["bench", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("twostage: error: ") and said in error and error.count("\n") == 1


def test_every_row_has_a_name_of_its_own():
    assert len({row.name for row in ROWS}) == len({row.title for row in ROWS}) == len(ROWS)
    assert all(isinstance(row, Row) for row in ROWS)
