"""What a trained classifier, or an ensemble of them, is worth: predictions, and figures of them."""

from typing import Any, NamedTuple

import jax
import numpy as np

from twostage_jax.engine.passes import encode, predict_members
from twostage_jax.engine.placement import Placement, make_mesh
from twostage_jax.runs.build import Nets
from twostage_jax.stages.stage import Params

LANES = 8  # members that a device predicts with at a time


class Trained(NamedTuple):
    """A classifier, or an ensemble.

    Attributes:
        nets: modules of one member.
        params: groups `encoder` and `head`, and `decoder` where there is one.
        members: None for one classifier; else `head` is `[M, ...]`.
        own_encoders: whether `encoder` is `[M, ...]` too.
    """

    nets: Nets
    params: Params
    members: int | None = None
    own_encoders: bool = False

    def spread(self, apply: Any, images: Any) -> np.ndarray:
        """`apply(params, image)` for all members and images, float32 `[M, N, ...]`, on the host."""
        params = {name: self.params[name] for name in ("encoder", "head")}
        if not len(images):
            return np.zeros((self.members or 1, 0, 1), np.float32)
        if self.members is None:
            return jax.device_get(encode(apply, params, jax.device_put(images)))[None]
        mesh = make_mesh(self.members)
        chunk = min(self.members, LANES * mesh.shape["member"])
        axes = {"encoder": 0 if self.own_encoders else None, "head": 0}
        placement = Placement(mesh, self.members, chunk)
        return predict_members(apply, jax.device_get(params), images, placement, axes)

    def logits(self, images: Any) -> np.ndarray:
        """Logits of images uint8 `[N, H, W, C]`, `[M, N, K]`."""
        return self.spread(self.nets.logits, images)

    def features(self, images: Any) -> np.ndarray:
        """Features of the frozen encoders, flattened: `[M, N, D]`, or `[1, N, D]` if shared."""
        encoder = self.params["encoder"]
        if self.members is None or not self.own_encoders:
            features = encode(self.nets.encode, encoder, jax.device_put(images))[None]
        else:
            features = self.spread(
                lambda params, image: self.nets.encode(params["encoder"], image), images
            )
        return jax.device_get(features).reshape(*features.shape[:2], -1)
