"""Runs with a user's encoder that has constants and dropout: members, resuming, another head."""

import jax

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


def test_constants_and_dropout_go_through_a_run_and_to_another_head(data, module, tmp_path):
    """In stage 2 the frozen encoder runs in every step, without dropout."""
    encoder = f"{module('own_collections', SOURCE)}:Encoder"
    options = {"pretrain": {"encoder": encoder}, "head": {"encode": "loop"}, "members": 2}
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
    config = ts.Config(
        encoder_run=str(alone.folder), out=tmp_path / "second", head={"protocol": "ridge"}
    )
    second = tiny.run(config, trust_code=True)
    assert ts.digest(second.params["encoder"]) == ts.digest(alone.params["encoder"])
