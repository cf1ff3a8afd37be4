"""Runs with a user's encoder that has constants and dropout: members, resuming, another head."""

import jax
import pytest

import twostage_jax as ts
from tests import tiny

SOURCE = """
import jax
import jax.numpy as jnp
from flax import linen as nn

class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        order = self.variable("constants", "order", lambda: jnp.arange(x.shape[-1])[::-1])
        x = nn.BatchNorm(use_running_average=True)(nn.Dense(8)(x[:, order.value]))
        return nn.Dropout(0.2, deterministic=not self.has_rng("dropout"))(x)"""


@pytest.mark.parametrize("encode", ["once", "loop"])
def test_constants_and_dropout_go_through_a_run(data, module, tmp_path, encode):
    encoder = f"{module('own_collections', SOURCE)}:Encoder"
    options = {"pretrain": {"encoder": encoder}, "head": {"encode": encode}, "members": 2}
    folder = tiny.cut(tiny.config(data, tmp_path / "run", **options), 3 * tiny.STEPS)
    result = tiny.resume(folder, trust_code=True)
    assert result.record["frozen"]["unchanged"]
    encoders = result.params["encoder"]
    assert encoders["constants"]["order"].tolist() == [list(range(15, -1, -1))] * 2
    assert set(encoders["batch_stats"]["BatchNorm_0"]["var"].ravel().tolist()) == {1}
    # A member's dropout is that of the single run with its seed.
    seed = {"seed": 1, **{name: options[name] for name in ("pretrain", "head")}}
    alone = tiny.run(tiny.config(data, tmp_path / "alone", **seed))
    member = jax.tree.map(lambda leaf: leaf[1], result.params)
    assert ts.digest(member) == ts.digest(alone.params)


def test_another_head_takes_over_constants(data, module, tmp_path):
    encoder = f"{module('own_collections', SOURCE)}:Encoder"
    first = tiny.run(tiny.config(data, tmp_path / "first", pretrain={"encoder": encoder}))
    config = ts.Config(
        encoder_run=str(first.folder), out=tmp_path / "second", head={"protocol": "ridge"}
    )
    second = tiny.run(config, trust_code=True)
    assert ts.digest(second.params["encoder"]) == ts.digest(first.params["encoder"])
