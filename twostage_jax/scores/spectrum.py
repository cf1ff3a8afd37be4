"""Statistics of features without labels: effective rank, and spread around the mean."""

import jax
import jax.numpy as jnp

_SMALLEST = 1e-30  # avoids 0/0


def effective_rank(features: jax.Array) -> jax.Array:
    """Effective rank of features float32 `[N, D]`, from 1 to min(N, D).

    The exponential of the entropy of the singular values, divided by their sum: RankMe (Garrido et
    al., "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations
    by Their Rank", 2023). The features are not centred, as in the paper, so features that are all
    equal have rank 1. Zeros have rank 1 too.

    >>> features = jnp.eye(4)[jnp.arange(8) % 4]
    >>> round(float(effective_rank(features)), 4)
    4.0
    """
    # Not from eigenvalues of the Gram matrix: their roots lose half of the digits.
    values = jnp.linalg.svd(features.astype(jnp.float32), compute_uv=False)
    share = values / jnp.maximum(values.sum(), _SMALLEST)
    return jnp.exp(-jax.scipy.special.xlogy(share, share).sum())


def spread(features: jax.Array) -> jax.Array:
    """Standard deviation of features `[N, D]` around their mean, as a share of their length.

    The root of the total variance over the mean square, in [0, 1]: 0 if all features are equal, 1
    if their mean is zero.

    >>> float(spread(jnp.ones((5, 3))))
    0.0
    """
    features = features.astype(jnp.float32)
    mean = features.mean(0, keepdims=True)
    variance = ((features - mean) ** 2).sum()
    return jnp.sqrt(variance / jnp.maximum((features**2).sum(), _SMALLEST))
