"""Placement: sharded equals not sharded, and meshes that do not fit are rejected."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import twostage_jax as ts
from tests.engine.tiny import CLASSIFIER, Alone, plain
from twostage_jax.engine.placement import Placement, constrain, make_mesh, map_chunks

# Trains three members on 2×4 devices. Prints their losses, and the groups of devices that the
# compiled program lets communicate.
EIGHT_DEVICES = """
import json, re
from tests.engine.tiny import CLASSIFIER, Training, compile_members, finish, plain

trial = plain(CLASSIFIER)
compiled = compile_members(trial, 3, 3, {"member": 2, "data": 4})
_, metrics = finish(Training(trial, compiled).go(2))
text = compiled.epoch.advance.as_text() + compiled.epoch.finish.as_text()
groups = re.findall("(?:replica_groups|source_target_pairs)=([^ ]+), ", text)
print(json.dumps([metrics["loss"].tolist(), groups]))
"""


@pytest.mark.slow
def test_members_on_eight_devices_equal_single_trainings_and_do_not_communicate():
    """The batch of 32 is split over the four devices of a member; the remainder of 6 cannot be.

    Devices count along `data` first, so the devices of one member are neighbours.
    """
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", EIGHT_DEVICES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses, groups = json.loads(done.stdout.splitlines()[-1])
    single = Alone(plain(CLASSIFIER))
    for member in range(3):
        np.testing.assert_allclose(losses[member], single(member)[1]["loss"], rtol=1e-5)
    assert groups  # batches are split, so gradients are summed
    for group in sum(map(device_groups, groups), []):
        assert len({device // 4 for device in group}) == 1, groups


def device_groups(text: str) -> list[list[int]]:
    """Groups in XLA's notations: `[4,2]<=[8]`, an iota in rows, or `{{0,1},{2,3}}`."""
    if text.startswith("{"):
        return json.loads(text.replace("{", "[").replace("}", "]"))
    shape, _, rest = text.partition("<=")
    assert "T(" not in rest, text
    rows = json.loads(shape)
    return np.arange(np.prod(rows)).reshape(rows).tolist()


def test_device_groups_are_parsed():
    assert device_groups("{{0,1},{2,3}}") == device_groups("[2,2]<=[4]") == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("members", "axes", "shape"),
    [
        (1, None, {"member": 1, "data": 1}),  # one training stays on one device
        (3, None, {"member": 2, "data": 1}),  # the cores of a CPU take members
        (1, {"data": 2}, {"member": 1, "data": 2}),
    ],
)
def test_the_default_mesh_gives_members_the_devices_of_a_cpu(members, axes, shape):
    assert dict(make_mesh(members, axes).shape) == shape


def test_a_mesh_that_does_not_fit_is_rejected():
    message = r"--mesh member=3,data=1 needs 3 devices, but there are 2: make the product 2"
    with pytest.raises(ts.UserError, match=message):
        make_mesh(3, {"member": 3})
    placement = Placement(make_mesh(1, {"data": 2}), 1, 1)
    with pytest.raises(ts.UserError, match="batch size 33 is not a multiple of data=2: change"):
        constrain(placement, 33)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_chunks_hold_every_member_once_in_order(chunk):
    """The last chunk is padded to the width of the program; padding is cut off."""
    placement = Placement(make_mesh(5), 5, chunk)
    assert placement.width % 2 == 0 and placement.width >= chunk
    assert np.concatenate(placement.pieces).tolist() == list(range(5))
    widths = []

    def double(values, shared):
        widths.append(len(values))
        return 2 * values, shared

    def rows(members):
        return values[members], np.float32(7)

    values = np.arange(5, dtype=np.float32)
    doubled, shared = map_chunks(double, placement, (0, None), rows, (0, None))
    np.testing.assert_array_equal(doubled, [0, 2, 4, 6, 8])
    assert shared == 7 and set(widths) == {placement.width}
