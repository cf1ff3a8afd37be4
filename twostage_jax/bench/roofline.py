"""Rate of large matrix products on a device, and operations of an epoch counted from shapes.

As a process, `python -m twostage_jax.bench.roofline` prints the rate as JSON.
"""

import json
import statistics
import time
from collections.abc import Sequence

# Large enough that the rate no longer grows with the size.
SIZE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}
REPEATS = 15


def operations(pixels: int, classes: int, count: int) -> dict[str, int]:
    """Count the floating-point operations of matrix products in the blog's network.

    The forward pass, the gradient by the weights and the gradient by the input cost the same. The
    first trained layer needs no gradient by its input.

    Args:
        pixels: number of values in an image.
        classes: number of classes.
        count: number of examples.

    Returns:
        `pretrain` and `head`: one epoch, the latter on features. `encode`: one pass.
    """
    encoder = (pixels, 256, 128)
    head = (128, 64, classes)
    network = (*encoder, 256, pixels)
    return {
        "pretrain": count * (3 * _products(network) - _products(network[:2])),
        "encode": count * _products(encoder),
        "head": count * (3 * _products(head) - _products(head[:2])),
    }


def _products(widths: Sequence[int]) -> int:
    """Count the operations of one example in dense layers; a multiply-add counts as two."""
    # Biases and activations are left out: they are a thousandth of the work.
    return sum(2 * a * b for a, b in zip(widths, widths[1:], strict=False))


def matrix_rate(size: int | None = None) -> float:
    """Measure operations per second of a large float32 matrix product in jax: median of 15.

    `size` is the number of rows and columns, by default that of `SIZE`.
    """
    import jax
    import jax.numpy as jnp

    size = size or SIZE[jax.default_backend()]
    multiply = jax.jit(jnp.matmul)
    a = jnp.ones((size, size))
    jax.block_until_ready(multiply(a, a))  # compiles
    rates = []
    # The median of many: the first products are slower, and so is one that is interrupted.
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(multiply(a, a))
        rates.append(2 * size**3 / (time.perf_counter() - began))
    return statistics.median(rates)


if __name__ == "__main__":
    import jax

    print(json.dumps({"rate": matrix_rate(), "device": jax.devices()[0].device_kind}))
