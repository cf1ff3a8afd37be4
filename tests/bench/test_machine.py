"""The load of other processes, and the description of the machine."""

from twostage_jax.bench import machine
from twostage_jax.bench.machine import Usage, busy_seconds, describe, load_between, usage


def test_own_time_is_not_load_of_others():
    before = Usage(0.0, ours=1.0, busy=100.0, cores=2)
    # Of 20 seconds on two cores, this program used 8 and everybody 13.
    assert load_between(before, Usage(10.0, ours=9.0, busy=113.0, cores=2)) == 25.0
    # Rounded clocks never give less than nothing or more than everything.
    assert load_between(before, Usage(10.0, ours=9.0, busy=107.9, cores=2)) == 0.0
    assert load_between(before, Usage(10.0, ours=1.0, busy=121.0, cores=2)) == 100.0


def test_the_load_is_unknown_where_the_system_hides_it(monkeypatch, tmp_path):
    known = Usage(0.0, 1.0, 5.0, 2)
    hidden = known._replace(busy=None)
    assert load_between(hidden, known) is load_between(known, hidden) is None
    assert load_between(known, known) is None  # no time has passed
    assert busy_seconds("cpu 0 0 0 0 0 0 0 0 0 0\n", 100) is None  # as in some containers
    monkeypatch.setattr(machine, "STAT", tmp_path / "missing")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "missing")
    assert usage().busy is None
    assert describe("cpu")["mhz"] is None and describe("cpu")["cpu"]


def test_time_given_to_other_virtual_machines_is_busy_and_waiting_is_not():
    line = "cpu  100 20 30 9000 500 4 6 40 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert busy_seconds(line, 100) == (100 + 20 + 30 + 4 + 6 + 40) / 100


def test_the_processor_is_named_with_its_model_and_frequency(monkeypatch, tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text(
        "processor\t: 0\ncpu family\t: 23\nmodel\t\t: 49\nmodel name\t: AMD EPYC\n"
        "cpu MHz\t\t: 2245.746\n\nprocessor\t: 1\nmodel name\t: other\n"
    )
    monkeypatch.setattr(machine, "CPUINFO", path)
    here = describe("cpu")
    assert here["cpu"] == "AMD EPYC, family 23 model 49" and here["mhz"] == 2245.746
