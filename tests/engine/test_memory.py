"""Memory of members: an estimate close to the compiled program, and chunks that fit."""

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests.engine.tiny import compile_members, plain
from twostage_jax.engine.memory import (
    V1,
    V2,
    Need,
    _container,
    check_states,
    choose_chunk,
    estimate,
)
from twostage_jax.engine.state import make_init
from twostage_jax.trees import shapes_of


@pytest.mark.parametrize("name", ["autoencoder", "head"])
def test_the_estimate_is_within_30_percent_of_the_program(name):
    """Checked where data, activations and moments all count."""
    if name == "autoencoder":
        stage = ts.autoencoder(ts.MLP((256, 128)), ts.MLP((256, 784)))
        image = np.zeros((5000, 28, 28, 1), np.uint8)
    else:
        stage = ts.classifier(ts.Identity(), ts.MLP((64, 10)))
        image = np.zeros((5000, 128), np.float32)
    trial = plain(stage, {"image": image, "label": np.zeros(5000, np.int32)})
    trial = trial._replace(batch_size=256)
    state = jax.eval_shape(make_init(stage, ts.adam(1e-3)), jax.random.key(0), trial.few(), {})
    data = shapes_of(dict(trial.data.shared))
    need = estimate(stage, state, data, trial.batch_size, 0, dict.fromkeys(data))
    programs = compile_members(trial, 4, 4)
    used = programs.epoch.advance.memory_analysis()
    total = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
    total -= used.alias_size_in_bytes
    assert programs.placement.lanes * need.member + need.common == pytest.approx(total, rel=0.3)


def test_a_chunk_is_what_fits_into_four_fifths_of_the_memory():
    need = Need(state=100, member=900, common=400)

    def choose(members: int, requested: int | None = None) -> int:
        # The two devices share 10,000 bytes, so (4,000 - 400) / 900 = 4 members fit into each.
        return choose_chunk(need, members, 2, requested, lambda: 10_000)

    assert choose(20, 8) == 8
    assert choose(5, 8) == 5
    with pytest.raises(ts.UserError, match="9 members together.*use --members-per-chunk 8 or less"):
        choose(20, 9)
    # Chunks of equal size: 20 = 8 + 8 + 4, but 18 = 6 + 6 + 6.
    assert choose(20) == 8
    assert choose(18) == 6
    with pytest.raises(ts.UserError, match="one member needs.*use a smaller batch"):
        choose_chunk(Need(100, 9000, 400), 1, 2, None, lambda: 10_000)
    # Nothing is known about the memory; half of the cache holds one such member.
    assert choose_chunk(Need(2**20, 2**40, 0), 8, 2, None, lambda: None) == 4


def test_states_that_do_not_fit_into_the_host_are_rejected():
    need = Need(state=1000, member=9000, common=0)
    check_states("head", need, 8, lambda: 10_000)
    check_states("head", need, 10**9, lambda: None)
    with pytest.raises(ts.UserError, match="head: .* of 9 trainings need .*: use fewer members"):
        check_states("head", need, 9, lambda: 10_000)


@pytest.mark.parametrize(
    ("folder", "kinds", "names"),
    [("", "", V2), ("memory", "cpu,memory", V1)],
    ids=["version 2", "version 1"],
)
def test_the_limit_of_a_control_group_counts_and_its_cached_files_are_free(
    folder, kinds, names, tmp_path
):
    limit, used, cache = names
    membership = tmp_path / "membership"
    root = tmp_path / "cgroup"
    membership.write_text(f"3:pids:/elsewhere\n0:{kinds}:/jobs/job_7\n")
    assert _container(root, membership) is None
    # A container sees its own group as the root; the jobs of a cluster are below it.
    for path, room in (("", 1000), ("jobs", 700)):
        group = root / folder / path
        group.mkdir(parents=True)
        (group / limit).write_text(f"{room + 9000}\n")
        (group / used).write_text("9000\n")
        assert _container(root, membership) == room
    (group / "memory.stat").write_text(f"active_file 50\n{cache} 200\n")
    assert _container(root, membership) == 900
    (group / limit).write_text("max\n")
    assert _container(root, membership) == 1000
