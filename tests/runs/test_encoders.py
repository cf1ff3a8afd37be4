"""Runs with each encoder: end to end, with members, and what is refused."""

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax.config.layers import resolve
from twostage_jax.engine.speed import Speed
from twostage_jax.runs import programs
from twostage_jax.runs.build import make_networks
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.records import read_manifest

WIDTHS = {"conv": (4, 4, 5), "resnet": (4, 6), "vit": (8, 8, 5)}


def test_a_run_with_batch_statistics_opens_again(data, tmp_path):
    # No decoder and a solved head: most of the time would go into compiling both.
    pretrain = {"encoder": "conv", "widths": (4, 4, 5), "objective": "placeholder", "epochs": 1}
    head = {"protocol": "ridge"}
    result = tiny.run(tiny.config(data, tmp_path / "run", pretrain=pretrain, head=head))
    assert result.record["frozen"]["unchanged"]
    images, _ = tiny.images(3, 1)
    features = ts.open_run(tmp_path / "run").features(images[..., None])
    assert features.shape == (3, 5)


@pytest.mark.parametrize("name", WIDTHS)
def test_the_stages_of_each_encoder_fit_each_other(name):
    widths = WIDTHS[name]
    config = ts.Config(pretrain={"encoder": name, "widths": widths})
    # Traces both stages and the decoder.
    networks = make_networks(resolve(config, (4, 4, 1), 0), (4, 4, 1), 3, 8, 0, 8)
    assert networks.decode is not None
    assert networks.feature_shape == (widths[-1],)


@pytest.mark.slow
def test_members_of_a_conv_run_are_placed_as_measured_and_nearly_equal_single_runs(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(programs, "measure_speed", lambda *_: Speed(0.02, 0.01, 2))
    pretrain = {"encoder": "conv", "widths": (4, 4, 5)}
    devices = jax.device_count()
    config = tiny.config(data, tmp_path / "run", pretrain=pretrain, members=2 * devices)
    result = tiny.run(config, Terminal())
    assert "2 at a time, as measured" in capsys.readouterr().out
    # A resumed run takes its chunks from here.
    assert read_manifest(tmp_path / "run").chunks["pretrain"] == 2 * devices
    alone = tiny.run(tiny.config(data, tmp_path / "alone", pretrain=pretrain, seed=1))
    member = jax.tree.map(lambda leaf: leaf[1], result.params)
    # Together, sums of batch statistics are rounded in another order.
    for one, other in zip(jax.tree.leaves(member), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    images, _ = tiny.images(3, 1)
    assert ts.open_run(tmp_path / "alone").reconstruct(images[..., None]).shape == (3, 4, 4, 1)


GRID = """
from flax import linen as nn

class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)"""


def test_an_encoder_without_flat_features_is_refused(data, module, tmp_path):
    encoder = f"{module('grid_features', GRID)}:Encoder"
    options = {"encoder": encoder, "objective": "placeholder"}
    with pytest.raises(ts.UserError, match=r"returns \[2, 4, 4, 3\] for 2 images.*\[B, D\]"):
        tiny.run(tiny.config(data, tmp_path / "run", pretrain=options))


@pytest.mark.parametrize(
    ("pretrain", "message"),
    [
        ({"encoder": "vit", "widths": (8, 5), "patch": 5}, "patch size 5 for images 4×4"),
        ({"encoder": "conv", "widths": (8,)}, "conv has the widths"),
        ({"encoder": "conv", "widths": (8, 5), "patch": 2}, "--pretrain.patch has no effect"),
        ({"encoder": "vit", "widths": (8, 5), "norm": "group"}, "--pretrain.norm has no effect"),
    ],
)
def test_settings_that_do_not_fit_the_encoder_are_refused(pretrain, message, data, tmp_path):
    with pytest.raises(ts.UserError, match=message):
        tiny.run(tiny.config(data, tmp_path / "run", pretrain=pretrain))
