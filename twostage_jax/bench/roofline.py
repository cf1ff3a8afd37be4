"""The rate of large matrix products here, and the operations of an epoch, counted from shapes.

Run as a process of its own, `python -m twostage_jax.bench.roofline`, it prints the rate as JSON.
"""

import json
import statistics
import time
from collections.abc import Sequence

SIZE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}
REPEATS = 15


def _products(widths: Sequence[int]) -> int:
    """Multiply-adds of one example through dense layers, twice: operations."""
    return sum(2 * a * b for a, b in zip(widths, widths[1:], strict=False))


def operations(pixels: int, classes: int, count: int) -> dict[str, int]:
    """Floating-point operations of matrix products over `count` examples, for the blog's network.

    Forward, gradient by weight and gradient by input cost the same; the first trained layer needs
    no gradient by its input.

    Returns:
        `pretrain` and `head`: one epoch; `head` is on features. `encode`: one pass.
    """
    encoder, head = (pixels, 256, 128), (128, 64, classes)
    network = (*encoder, 256, pixels)
    return {
        "pretrain": count * (3 * _products(network) - _products(network[:2])),
        "encode": count * _products(encoder),
        "head": count * (3 * _products(head) - _products(head[:2])),
    }


def matrix_rate() -> float:
    """Operations per second of a large float32 matrix product in jax, the median of 15."""
    import jax
    import jax.numpy as jnp

    size = SIZE.get(jax.default_backend(), 2048)
    multiply, a = jax.jit(jnp.matmul), jnp.ones((size, size))
    jax.block_until_ready(multiply(a, a))
    rates = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(multiply(a, a))
        rates.append(2 * size**3 / (time.perf_counter() - began))
    return statistics.median(rates)


if __name__ == "__main__":
    import jax

    print(json.dumps({"rate": matrix_rate(), "device": jax.devices()[0].device_kind}))
