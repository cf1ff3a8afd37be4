"""Members on eight simulated devices, in processes of their own: jax counts its devices once."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.xdist_group("mesh")

# Trains members on every mesh and prints how far they are from a plain `vmap` on one device, and
# which devices the compiled program lets talk to each other.
MESHES = """
import functools, json, re
import jax, numpy as np
import twostage_jax as ts
from twostage_jax.engine.members import Axes, fit_members, lower_members, start_members
from twostage_jax.engine.compile import compile_all
from twostage_jax.runs.trials import stage_key
from twostage_jax.engine.placement import Placement, make_mesh, put_everywhere
import jax.numpy as jnp

random = np.random.RandomState(0)
label = np.arange(70, dtype=np.int32) % 3
image = (random.randint(0, 80, (70, 4, 4, 1)) + 80 * label[:, None, None, None]).astype(np.uint8)
split = {"image": image, "label": label}
stage = ts.classifier(ts.MLP((8, 5)), ts.MLP((6, 3)))
recipe = lambda hyper: (stage, ts.adam(hyper["learning_rate"]))
shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in split.items()}
few = {name: x[:2] for name, x in split.items()}
MOST = 11
rates = np.linspace(1e-3, 3e-3, MOST, dtype=np.float32)
keys = lambda purpose, count: jnp.stack([stage_key(n, "head", purpose) for n in range(count)])


def train(mesh, count, chunk):
    hyper = {"learning_rate": rates[:count]}
    placement = Placement(mesh, count, chunk)
    one = {name: x[0] for name, x in hyper.items()}
    members = compile_all(
        lower_members(recipe, one, few, {}, shapes, 32, Axes(0, None, 0), placement)
    )
    state = start_members(members, hyper, keys(0, count), few, {})
    data = put_everywhere(placement, split)
    zeros = {n: np.stack([z] * count) for n, z in members.epoch.zeros.items()}
    *_, last = fit_members(members, state, lambda piece: data, hyper, keys(1, count), 2, zeros)
    text = members.epoch.advance.as_text() + members.epoch.finish.as_text()
    groups = re.findall("(?:replica_groups|source_target_pairs)=([^ ]+), ", text)
    return jax.tree.leaves((last.state.params, last.metrics)), groups


@functools.cache
def plain():
    def one(rate, first, key):
        tx = ts.adam(rate)
        state = ts.init_state(stage, tx, first, few)
        return ts.make_train(stage, tx, 32, 2)(state, split, key)

    state, metrics = jax.jit(jax.vmap(one))(rates, keys(0, MOST), keys(1, MOST))
    return jax.tree.leaves((state.params, {n: m[:, -1] for n, m in metrics.items()}))


found = []
for member, data, count, chunk in (
    (8, 1, 8, 8), (8, 1, 11, 11), (8, 1, 11, 5), (4, 2, 8, 8), (4, 2, 11, 6), (2, 4, 4, 4),
    (1, 8, 2, 2),
):
    leaves, groups = train(make_mesh(count, {"member": member, "data": data}), count, chunk)
    far = max(np.abs(a - b[:count]).max() for a, b in zip(leaves, plain(), strict=True))
    found.append([member, data, count, chunk, float(far), groups])
print(json.dumps(found))
"""


def python(code, devices, *argv):
    """Run Python with so many simulated devices; what it prints."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def meshes():
    return json.loads(python(MESHES, 8).splitlines()[-1])


def test_members_are_the_same_on_every_mesh(meshes):
    assert len(meshes) == 7
    for member, data, count, chunk, far, _ in meshes:
        assert far <= 1e-5, (member, data, count, chunk)


def test_nobody_talks_along_the_member_axis(meshes):
    """Devices count along `data` first, so those of one member are neighbours."""
    for member, data, *_, groups in meshes:
        if member == 1:
            continue  # there is nobody to talk to
        if data == 1:
            assert groups == []
            continue
        assert groups  # batches are split, so gradients are summed
        for text in groups:
            for group in devices(text):
                assert len({number // data for number in group}) == 1, (member, data, text)


def devices(text):
    """`[4,2]<=[8]` (an iota of devices in rows), or `{{0,1},{2,3}}`, as lists."""
    if text.startswith("{"):
        return json.loads(text.replace("{", "[").replace("}", "]"))
    shape, _, rest = text.partition("<=")
    assert "T(" not in rest, text
    rows = np.arange(np.prod(json.loads(shape))).reshape(json.loads(shape))
    return rows.tolist()


def test_the_groups_of_devices_are_read_right():
    assert devices("{{0,1},{2,3}}") == devices("[2,2]<=[4]") == [[0, 1], [2, 3]]


SMALL = """
import contextlib, sys
from pathlib import Path
import twostage_jax as ts
from tests.interruption import stopped_after
from twostage_jax.signals import Interrupted
from twostage_jax.show.terminal import Terminal

stage = dict(epochs=2, batch_size=100)
parts = dict(
    pretrain=ts.PretrainConfig(widths=(16, 8), **stage), head=ts.HeadConfig(widths=(8,), **stage)
)
root = Path(sys.argv[1])


def run(name, resume=False):
    config = ts.Config(out=root / name, **({} if resume else dict(members=5, **parts)))
    ts.run(config, resume=resume, terminal=Terminal(quiet=True))
"""
WHOLE_AND_CUT = """
run("whole")
with contextlib.suppress(Interrupted), stopped_after(40):
    run("cut")
    print("not interrupted")
"""
GOES_ON = "run('cut', resume=True)"


def test_an_ensemble_goes_on_on_another_number_of_devices(tmp_path):
    assert "not interrupted" not in python(SMALL + WHOLE_AND_CUT, 8, str(tmp_path))
    assert not (tmp_path / "cut" / "result.json").exists()
    python(SMALL + GOES_ON, 2, str(tmp_path))
    whole, cut = (json.loads((tmp_path / n / "result.json").read_text()) for n in ("whole", "cut"))
    assert (whole["environment"]["devices"], cut["environment"]["devices"]) == (8, 2)
    np.testing.assert_allclose(cut["member_test"]["nll"], whole["member_test"]["nll"], atol=1e-5)
