"""The benchmarks' own arithmetic, their rows, and one small benchmark from end to end."""

import dataclasses
import json

import pytest

from twostage_jax.bench import members, speed
from twostage_jax.bench.harness import Benchmark, Row, bench, choose_rows, has_torch, runnable_rows
from twostage_jax.bench.members import COST
from twostage_jax.bench.parity import certify
from twostage_jax.bench.processes import Plan, mean_accuracy, run_process
from twostage_jax.bench.report import (
    Comparison,
    Figure,
    Layout,
    load_lines,
    markdown,
    ratios,
    summarise,
    table,
    warm_epoch,
)
from twostage_jax.bench.roofline import matrix_rate, operations
from twostage_jax.bench.speed import COLUMNS, ROWS, SPEED
from twostage_jax.cli import main
from twostage_jax.errors import UserError
from twostage_jax.show.terminal import Terminal

MEASURED = {
    "cold": 10.0,
    "pretrain": [9.0, 1.0, 2.0, 3.0],
    "head": [0.5, 0.1],
    "encode": 0.4,
    "compile": 2.0,
    "peak_bytes": 5e8,
    "accuracy": 0.97,
}


def measured(**changes):
    return {**MEASURED, **changes}


def measured_members(sort, count, seconds, peak=5e8):
    """A measurement of `count` members whose every phase takes `seconds`."""
    both = {"pretrain": [seconds, seconds], "head": [seconds, seconds], "training": seconds}
    return {"sort": sort, "members": count, "cold": 10.0, "peak_bytes": peak, **both}


def report(**rows):
    names = [name.replace("_", "-") for name in rows]
    pairs = zip(names, rows.values(), strict=True)
    return {"rows": [{"name": n, "title": n, "repetitions": r} for n, r in pairs]}


def ratio_texts(benchmark, **rows):
    return {r["title"]: r["text"] for r in ratios(report(**rows), benchmark.layout)}


def test_operations_of_the_blog_network_equal_those_counted_by_hand():
    layers = 784 * 256 + 256 * 128 + 128 * 256 + 256 * 784
    assert operations(784, 10, 1)["pretrain"] == 6 * layers - 2 * 784 * 256
    counted = operations(784, 10, 60_000)
    assert round(counted["pretrain"] / 1e9) == 144
    assert round(counted["encode"] / 1e9) == 28
    assert round(counted["head"] / 1e9, 1) == 2.2


def test_a_figure_is_median_minimum_and_maximum():
    assert summarise([3.0, None, 1.0, 2.0]) == Figure(2.0, 1.0, 3.0)
    assert summarise([None]) is None
    assert Figure(2.0, 1.0, 3.0).text(1, " s") == "2.0 [1.0, 3.0] s"
    assert Figure(2.0, 2.0, 2.0).text(1) == "2.0"


def test_the_first_epoch_counts_only_if_it_is_the_only_one():
    epoch = warm_epoch("pretrain")
    assert epoch(measured()) == 2.0
    assert epoch({"pretrain": [9.0]}) == 9.0
    assert epoch({"pretrain": []}) is epoch({}) is None


def test_the_share_of_the_matrix_rate_equals_that_computed_by_hand():
    rows = {"operations": {"pretrain": 100}}
    # 100 operations in 2 s are a quarter of 200 per second; stage 1 of S0 computes nothing.
    row = {row.name: row for row in ROWS}
    assert speed.note(rows, row["torch-s1"], measured(matrix_rate=200.0)) == {"share": 25}
    assert speed.note(rows, row["torch-s0"], measured(matrix_rate=200.0)) == {}


def test_the_matrix_rate_is_positive():
    assert matrix_rate(size=8) > 0


def test_ratios_are_paired_and_use_the_faster_of_the_best_modes():
    texts = ratio_texts(
        SPEED,
        torch_s1=[measured(cold=8.0), measured(cold=10.0)],
        torch_best_eager=[measured(cold=3.0), measured(cold=9.0)],
        torch_best_compiled=[measured(cold=5.0)] * 2,
        ours=[measured(cold=1.0, compile_warm=0.5), measured(cold=2.0, compile_warm=1.0)],
    )
    assert texts["whole program, cold, S1 as printed / ours"] == "6.5 [5.0, 8.0] x"
    assert texts["whole program, cold, S1 best / ours"] == "2.8 [2.5, 3.0] x"
    assert texts["compile time, warm cache / cold"] == "38 [25, 50] %"
    assert list(texts).index("whole program, cold, S1 best / ours") == 0


TWO = Layout(
    COLUMNS, ["cold"], {}, ("", ""), [Comparison("a / b", ("a",), "b", "cold")], lambda r: []
)


def one_ratio(a, b):
    """The ratio of rows a and b, given as dicts of one repetition each or more."""
    (ratio,) = ratios(report(a=a, b=b), TWO)
    return ratio


def test_a_ratio_is_withheld_if_the_matrix_rates_of_its_sides_differ_by_more_than_15_percent():
    fast = measured(matrix_rate=114e9, other_load=1.0)
    slow = measured(cold=5.0, matrix_rate=100e9, other_load=None)
    assert one_ratio([fast], [slow])["text"] == "2.0 x"
    assert one_ratio([measured(matrix_rate=80e9)], [slow])["values"] == []
    for pair in (
        ([fast], [{**slow, "matrix_rate": 98e9}]),
        ([{**fast, "matrix_rate": 116e9}], [slow]),
    ):
        ratio = one_ratio(*pair)
        assert ratio["values"] == []
        assert ratio["text"].startswith("withheld: matrix rates of 11")
        assert "differ by 16 %" in ratio["text"]


def test_a_ratio_is_withheld_if_other_processes_used_more_than_a_fifth_of_the_processors():
    quiet = measured(matrix_rate=1e11, other_load=20.0)
    busy = {**quiet, "other_load": 47.0}
    assert one_ratio([quiet], [quiet])["values"] == [1.0]
    for pair in (([quiet], [busy]), ([busy], [quiet])):
        text = one_ratio(*pair)["text"]
        assert text == "withheld: other processes used 47 % of the processors"


def test_the_repetitions_that_can_be_trusted_still_count():
    good = measured(matrix_rate=1e11)
    ratio = one_ratio([good, good, good], [good, measured(matrix_rate=2e11), good])
    assert ratio["values"] == [1.0, 1.0] and len(ratio["withheld"]) == 1
    assert ratio["text"].startswith("1.0 x (1 of 3 withheld: matrix rates of 100 and 200 GFLOP/s")


def test_without_pytorch_there_is_a_table_and_no_ratio():
    only = report(ours=[measured()])
    assert ratios(only, SPEED.layout) == []
    row = table(only, COLUMNS)[0]
    assert row["stage 2 in all (s)"] == "1.00"  # encoding and both epochs
    assert row["compile, warm cache (s)"] == "-"


def test_the_first_table_has_the_main_columns_and_the_second_all_others_with_a_figure():
    layout = dataclasses.replace(TWO, header=lambda report: ["conditions"])
    rows = report(a=[measured(cold=4.0)], b=[measured(cold=2.0)])
    text = markdown({**rows, "ratios": ratios(rows, layout)}, layout)
    assert text.startswith(
        "- conditions\n\n| row | whole program, cold (s) |\n| --- | --- |\n| a |"
    )
    assert "| a / b | 2.0 x |" in text and "differ by more than 15 %" in text
    heading = text.splitlines()[-4]
    assert "stage-1 epoch (s)" in heading and "test accuracy (%)" in heading
    assert "whole program" not in heading  # cold is above, and no row has a warm start


def test_ratios_of_members_equal_those_computed_by_hand():
    rows = {
        "full_1": [measured_members("full", 1, 2.0)],
        "full_4": [measured_members("full", 4, 6.0)],
        "heads_1": [measured_members("heads", 1, 0.1)],
        "heads_64": [measured_members("heads", 64, 1.6)],
        "torch_func_full_4": [measured_members("full", 4, 24.0)],
    }
    texts = ratio_texts(COST, **rows)
    assert texts["training per member, 4 pipelines / 1"] == "0.75 x"
    assert texts["stage-2 epoch in all, 64 heads on one encoder / 1"] == "16.00 x"
    assert texts["training per member, 4 pipelines, torch.func / ours"] == "4.00 x"


def test_a_further_member_costs_its_part_of_the_difference_in_peak_memory():
    rows = report(full_1=[measured_members("full", 1, 1.0, 5e8)], full_4=[])
    row = choose_rows(["full-4"], False, members.make_rows(False, None))[0]
    more = measured_members("full", 4, 1.0, 5.6e8)
    assert members.note(rows, row, more) == {"member_bytes": 2e7}


def test_the_accuracy_of_members_is_their_mean_without_diverged_ones():
    assert mean_accuracy({"test": {"accuracy": 0.5}}) == 0.5
    ensemble = {"test": {"accuracy": 0.9}, "member_test": {"accuracy": [0.5, None, 0.7]}}
    assert mean_accuracy(ensemble) == pytest.approx(0.6)


@pytest.mark.parametrize("benchmark", [SPEED, COST], ids=["speed", "members"])
def test_row_names_and_titles_are_unique_and_the_quick_version_has_fewer_rows(benchmark):
    rows = benchmark.rows(False, None)
    assert len({row.name for row in rows}) == len({row.title for row in rows}) == len(rows)
    assert 0 < len(choose_rows([], True, rows)) < len(choose_rows([], False, rows)) == len(rows)
    names = [rows[1].name, rows[0].name]
    assert [row.name for row in choose_rows(names, True, rows)] == names
    with pytest.raises(UserError, match=f"unknown row 'nothing': choose from {rows[0].name}"):
        choose_rows(["nothing"], False, rows)


def test_pytorch_rows_are_skipped_with_a_notice(capsys):
    rows = choose_rows(["torch-s1", "ours"], False, ROWS)
    for device, torch, reason in (("cpu", False, "not installed"), ("tpu", True, "on a TPU")):
        left = runnable_rows(rows, device, Terminal(), torch)
        assert [row.name for row in left] == ["ours"]
        assert reason in capsys.readouterr().out
    assert runnable_rows(rows, "cpu", Terminal(), True) == rows
    with pytest.raises(UserError, match="all chosen rows need PyTorch"):
        runnable_rows(rows[:1], "cpu", Terminal(quiet=True), False)


@pytest.mark.skipif(has_torch(), reason="PyTorch is installed")
def test_parity_needs_pytorch():
    with pytest.raises(UserError, match="--parity needs PyTorch"):
        certify("digits")


def test_a_failed_row_reports_the_last_line_of_its_process(tmp_path):
    plan = Plan("digits", tmp_path, 64, 10, 1, 1, "cpu", tmp_path)
    program = "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"
    with pytest.raises(RuntimeError, match="ended with 3: no such thing"):
        run_process(["-c", program], plan)


RATE = {"rate": 1e9, "device": "cpu"}


@pytest.fixture
def fast(request):
    """The benchmark `SPEED` or `COST` with two rows that measure nothing."""

    def row(name, count, most):
        def measure(plan, seed):
            return measured_members("full", count, 2.0 + seed)

        return Row(name, name, measure, quick=True, most=most)

    rows = [row("a-1", 1, 3), row("a-4", 4, 1)]
    base: Benchmark = request.param
    return dataclasses.replace(base, rows=lambda quick, epochs: rows, rate=lambda plan: RATE)


both = pytest.mark.parametrize("fast", [SPEED, COST], indirect=True, ids=["speed", "members"])


@both
def test_every_repetition_is_written_and_slow_rows_have_fewer(fast, spec, tmp_path, capsys):
    written = bench(fast, spec, tmp_path / "bench", epochs=1, terminal=Terminal())
    read = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert read == json.loads(json.dumps(written))
    assert [len(entry["repetitions"]) for entry in written["rows"]] == [3, 1]
    assert [m["pretrain"][0] for m in written["rows"][0]["repetitions"]] == [2.0, 3.0, 4.0]
    text = (tmp_path / "bench" / "bench.md").read_text()
    assert "| a-1 |" in text and "3.00 [2.00, 4.00]" in text
    assert "medians, in seconds" in capsys.readouterr().out


@pytest.mark.parametrize("quick", [False, True], ids=["whole", "quick"])
def test_rows_take_turns_and_the_matrix_rate_is_measured_around_each(quick, spec, tmp_path):
    events = []

    def row(name):
        def measure(plan, seed):
            events.append(name)
            return measured()

        return Row(name, name, measure, quick=True)

    def rate(plan):
        events.append("rate")
        return {"rate": 1e9 * len(events), "device": "cpu"}

    rows = [row("a"), row("b")]
    benchmark = dataclasses.replace(SPEED, rows=lambda quick, epochs: rows, rate=rate)
    out = tmp_path / "bench"
    written = bench(benchmark, spec, out, quick=quick, terminal=Terminal(quiet=True))
    # The first rate is that of the machine, which the header names.
    rounds = 2 if quick else 3
    assert events == ["rate", *["rate", "a", "rate", "b", "rate"] * rounds]
    first = written["rows"][0]["repetitions"][0]
    assert first["matrix_rates"] == (2e9, 4e9) and first["matrix_rate"] == 3e9
    assert "load" in first and "other_load" in first


def test_the_header_names_processor_frequency_threads_load_and_rates():
    machine = {"cpu": "EPYC", "mhz": 2245.4, "cores": 2, "device": "cpu", "load": 0.26}
    rows = report(a=[measured(matrix_rates=(1e11, 2e11), other_load=3.0)])["rows"]
    whole = {
        "machine": machine,
        "data": {"name": "tiny", "train": 96},
        "threads": {"torch-best-eager": {"threads": 2}},
        "versions": {"jax": "1"},
        "date": "2026-11-26",
        "operations": {"pretrain": 1e9},
        "epochs": 2,
        "rows": rows,
    }
    text = "\n".join(SPEED.layout.header(whole))
    assert "2 cores, EPYC, 2,245 MHz" in text and "torch-best-eager 2" in text
    assert "load average at the start: 0.3; other processes used 3 to 3 %" in text
    assert "100 to 200 GFLOP/s" in text
    nothing = {"machine": {**machine, "mhz": None, "load": None}, "rows": report(a=[{}])["rows"]}
    assert "".join(load_lines(nothing)).count("unknown") == 3
    assert "unknown frequency" in "\n".join(SPEED.layout.header({**whole, **nothing}))


@pytest.mark.slow
def test_a_row_measures_one_of_our_runs_in_a_process(spec, tmp_path):
    benchmark = dataclasses.replace(SPEED, rate=lambda plan: RATE)
    options = {"rows": ["ours-256"], "epochs": 1, "repeats": 1}
    report = bench(benchmark, spec, tmp_path / "bench", terminal=Terminal(quiet=True), **options)
    (once,) = report["rows"][0]["repetitions"]
    assert 0 <= once["accuracy"] <= 1 and len(once["pretrain"]) == len(once["head"]) == 1
    assert once["share"] > 0 and once["compile"] > 0 and once["peak_bytes"] > 1e7


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--repeats", "0"], "--repeats is 0: give a whole number of at least 1"),
        (["--rows", "nothing"], "unknown row 'nothing'"),
        (["--data", "digit"], "unknown source 'digit'"),
        (["--device", "abacus"], "see twostage bench --help"),
        (["--members", "--parity"], "--parity and --members are two benchmarks"),
    ],
)
def test_a_mistake_gets_status_2_and_one_line(flags, message, capsys):
    assert main(["bench", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("twostage: error: ") and message in error and error.count("\n") == 1
