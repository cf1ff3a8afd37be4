"""The network of a model file, exported for CPU, GPU and TPU."""

import jax
import numpy as np
from jax import export as jax_export

from twostage_jax.engine.bundle import Arrays, Bundle, in_batches
from twostage_jax.runs.deploy.loading import check_calls
from twostage_jax.trees import shapes_of

PLATFORMS = ("cpu", "cuda", "tpu")


def export_program(bundle: Bundle, batch: int) -> tuple[bytes, Arrays]:
    """Export a network for any number of images; return it with the arrays that it uses.

    Args:
        bundle: the network.
        batch: number of images that it computes at a time.

    Raises:
        UserError: a network that calls functions which a file cannot hold.
    """
    exported = _export(bundle, batch, bundle.arrays)
    # A solved head keeps arrays that only other commands need.
    names = sorted(bundle.arrays)
    used = [names[index] for index in exported.module_kept_var_idx if index < len(names)]
    arrays = {name: bundle.arrays[name] for name in used}
    if len(used) < len(names):
        exported = _export(bundle._replace(arrays=arrays), batch, arrays)
    check_calls(exported, "the network")
    return bytes(exported.serialize()), arrays


def _export(bundle: Bundle, batch: int, arrays: Arrays) -> jax_export.Exported:
    program = in_batches(bundle, batch)
    shape = jax_export.symbolic_shape("N, H, W, C".replace("H, W, C", _listed(bundle.image_shape)))
    images = jax.ShapeDtypeStruct(shape, np.uint8)
    return jax_export.export(jax.jit(program), platforms=PLATFORMS)(shapes_of(arrays), images)


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
