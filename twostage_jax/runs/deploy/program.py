"""The network of a model file: exported for CPU, GPU and TPU, and loaded again."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from twostage_jax.engine.bundle import Arrays, Bundle, in_batches
from twostage_jax.errors import UserError
from twostage_jax.trees import shapes_of

PLATFORMS = ("cpu", "cuda", "tpu")
# A program can call functions of jaxlib. These are the ones without access to memory of their own
# choice; a file from a stranger could name others.
HARMLESS = {"shape_assertion", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}
HARMLESS |= {"stablehlo.dynamic_top_k", "mhlo.topk", "mhlo.erf", "mhlo.tan"}
CALL = re.compile(r"custom_call\s+@\"?([\w.$]+)")
RESULTS = ("logits", "features")


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
    _check_calls(exported, "the network")
    return bytes(exported.serialize()), arrays


def _export(bundle: Bundle, batch: int, arrays: Arrays) -> jax_export.Exported:
    program = in_batches(bundle, batch)
    shape = jax_export.symbolic_shape("N, H, W, C".replace("H, W, C", _listed(bundle.image_shape)))
    images = jax.ShapeDtypeStruct(shape, np.uint8)
    return jax_export.export(jax.jit(program), platforms=PLATFORMS)(shapes_of(arrays), images)


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _check_calls(exported: jax_export.Exported, name: Path | str) -> None:
    """Raise `UserError` if a program calls a function that is not known to be harmless."""
    calls = set(CALL.findall(exported.mlir_module())) - HARMLESS
    if calls:
        raise UserError(
            f"{name} calls {', '.join(sorted(calls))}, which a model file must not: use operations "
            "of jax.numpy without linear algebra or callbacks"
        )


def load_program(
    path: Path, content: bytes, arrays: Mapping[str, np.ndarray], batch: int
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return `images uint8 [N, H, W, C] -> {"logits" [M, N, K], "features" [E, N, D]}`.

    Args:
        path: the file, for messages.
        content: the program.
        arrays: arrays that it takes.
        batch: images of one call; fewer are padded, so that one program serves any number.

    Raises:
        UserError: a program that this version of jax cannot run, or that names functions of jaxlib.
    """
    try:
        exported = jax_export.deserialize(bytearray(content))
        _check_calls(exported, path)
        call = jax.jit(exported.call)
        on_device = {name: jnp.asarray(values) for name, values in arrays.items()}
    except UserError:
        raise
    except Exception as error:  # flatbuffers and MLIR raise many kinds of errors
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"jax {jax.__version__} cannot load the program of {path}: {reason}; install the "
            "versions of the member `about`, or export the run with these versions"
        ) from error

    def compute(images: np.ndarray) -> dict[str, np.ndarray]:
        count = len(images)
        padding = max(-count % batch, 0 if count else batch)
        images = np.concatenate([images, np.zeros((padding, *images.shape[1:]), np.uint8)])
        parts = [
            call(on_device, images[start : start + batch]) for start in range(0, len(images), batch)
        ]
        return {
            name: np.concatenate([np.asarray(part[name]) for part in parts], axis=1)[:, :count]
            for name in RESULTS
        }

    return compute
