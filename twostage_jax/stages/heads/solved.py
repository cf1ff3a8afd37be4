"""Linear heads that are computed in one call: logistic regression and ridge regression."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from twostage_jax.errors import UserError
from twostage_jax.stages.heads.labels import check_labels, class_labels
from twostage_jax.stages.stage import Batch, Head, Key, Scalar
from twostage_jax.trees import PyTree

# Strengths that `ridge` chooses from; the mean feature variance is 1 on this scale.
STRENGTHS = tuple(10.0**power for power in range(-6, 7))
_ITERATIONS = 500  # limit for L-BFGS; penalties of 1e-3 to 1e-1 take 20 to 150
_GRADIENT = 3e-7  # gradient norm at convergence, close to the rounding of a float32 mean
# Iterations without a smaller gradient after which rounding has ended the descent. The norm is not
# monotone: with 5, digits at penalty 1e-5 stop 1e-3 above the minimum, with 30 only 3e-6.
_STALLED = 30
_SMALLEST_ERROR = 1e-3  # floor for the squared error of `ridge`, to keep logits finite


def linear(classes: int, penalty: Scalar = 1e-3) -> Head:
    """Multinomial logistic regression, trained to convergence.

    Minimise `mean(weight · cross_entropy) + penalty/2 · |kernel|²` by L-BFGS (Liu and Nocedal, "On
    the Limited Memory BFGS Method", 1989). The bias has no penalty. The objective is convex, so the
    result depends on no seed and no batch order. Parameters: `kernel` `[D, K]`, `bias` `[K]`.

    In float32 the coefficients agree with the optimum in float64 to 1e-5 of the largest one for
    penalties of at least 1e-3 (digits, pixels and features). Far below that only the objective
    agrees to 1e-5.

    Args:
        classes: number of classes K.
        penalty: weight of the L2 penalty, at least 0; may be a traced array. scikit-learn's `C` is
            `1/(N · penalty)`.

    Raises:
        UserError: a negative penalty; in `solve`, labels that count and are no class (the result is
            NaN if they are traced).

    >>> import twostage_jax as ts
    >>> image = jnp.array([[-1.0], [1.0]])
    >>> batch = {"image": image, "label": jnp.array([0, 1]), "weight": jnp.ones(2)}
    >>> head = ts.linear(2)
    >>> params = jax.jit(head.solve)(jax.random.key(0), batch)
    >>> head.logits(params, image).argmax(-1).tolist()
    [0, 1]
    """
    if isinstance(penalty, float | int) and not 0 <= penalty < float("inf"):
        raise UserError(f"penalty is {penalty}: give a finite number of at least 0")

    def solve(key: Key, batch: Batch) -> PyTree:
        check_labels(batch["label"], batch["weight"], classes)
        # GPUs and TPUs round the factors of a float32 product by default.
        with jax.default_matmul_precision("highest"):
            return _logistic_regression(batch, classes, jnp.asarray(penalty, jnp.float32))

    return Head(_affine, solve=solve)


def ridge(classes: int, strength: Scalar = 0.0) -> Head:
    """Ridge regression on one-hot labels, in closed form (Hoerl and Kennard, 1970).

    One eigendecomposition of the smaller Gram matrix, `[D, D]` or `[N, N]`, serves all strengths.
    Logits are the regression outputs divided by their mean squared error on validation examples
    (on training examples if V = 0): the log-likelihoods of Gaussian residuals around the one-hot
    label. The scale does not change the predicted class. Parameters: `kernel` `[D, K]` and `bias`
    `[K]` of the regression, `scale` and `strength` scalars.

    Args:
        classes: number of classes K.
        strength: penalty in units of the mean feature variance; scikit-learn's `alpha` is
            `strength · N · variance`. 0 chooses among 1e-6, 1e-5, …, 1e6 by validation accuracy,
            then by squared error. May be a traced array, for which a missing validation set is not
            detected (strength 1 is used).

    Raises:
        UserError: a negative strength; in `solve`, strength 0 without validation examples, or
            labels that count and are no class (the result is NaN if they are traced).

    >>> import twostage_jax as ts
    >>> image = jnp.array([[-1.0], [1.0]])
    >>> batch = {"image": image, "label": jnp.array([0, 1]), "weight": jnp.ones(2)}
    >>> batch |= {"validation_image": image, "validation_label": batch["label"]}
    >>> head = ts.ridge(2, strength=1.0)
    >>> params = jax.jit(head.solve)(jax.random.key(0), batch)
    >>> params["kernel"].round(4).tolist()  # half of the least-squares slope
    [[-0.25, 0.25]]
    """
    static = isinstance(strength, float | int)
    if static and not 0 <= strength < float("inf"):
        raise UserError(f"strength is {strength}: give a finite number of at least 0")

    def solve(key: Key, batch: Batch) -> PyTree:
        if static and strength == 0 and not len(batch["validation_label"]):
            raise UserError(
                "ridge chooses its strength on validation examples and has none: give validation "
                "examples or --head.set strength=1"
            )
        check_labels(batch["label"], batch["weight"], classes)
        with jax.default_matmul_precision("highest"):
            return _ridge_regression(batch, classes, jnp.asarray(strength, jnp.float32))

    return Head(_scaled, solve=solve)


def _affine(params: PyTree, features: jax.Array) -> jax.Array:
    """Affine function of features `[B, ...]`: `[B, K]`."""
    return _flat(features) @ params["kernel"] + params["bias"][None]


def _scaled(params: PyTree, features: jax.Array) -> jax.Array:
    return params["scale"] * _affine(params, features)


def _flat(features: jax.Array) -> jax.Array:
    """Features float32 `[N, D]`."""
    return features.reshape(len(features), -1).astype(jnp.float32)


def _centred(batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Centred features `[N, D]`, their mean `[1, D]`, and weights `[N, 1]` of sum 1."""
    features = _flat(batch["image"])
    weight = batch["weight"][:, None].astype(jnp.float32)
    share = weight / jnp.maximum(weight.sum(), 1.0)
    mean = (share * features).sum(0, keepdims=True)
    return features - mean, mean, share


def _logistic_regression(batch: Batch, classes: int, penalty: jax.Array) -> PyTree:
    """Minimiser of the objective of `linear`, as `kernel` and `bias`.

    The variables of the search are `slope` and `offset` with `kernel = basis @ slope`. In them the
    Hessian at zero is the identity, which takes fewer iterations and loses fewer digits to
    rounding. The minimum is the same.
    """
    features, mean, share = _centred(batch)
    basis = _basis(features, share, classes, penalty)
    label = class_labels(batch["label"], batch["weight"], classes)

    def objective(params: dict[str, jax.Array]) -> jax.Array:
        kernel = basis @ params["slope"]
        logits = features @ kernel + classes**0.5 * params["offset"][None]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return (share[:, 0] * losses).sum() + penalty / 2 * (kernel**2).sum()

    start = {"slope": jnp.zeros((len(basis), classes)), "offset": jnp.zeros(classes)}
    params = _minimise(objective, start)
    # A search whose objective is NaN ends at its start.
    kernel = jnp.where((label < classes).all(), basis @ params["slope"], jnp.nan)
    # The features of the search were centred.
    bias = classes**0.5 * params["offset"] - (mean @ kernel)[0]
    return {"kernel": kernel, "bias": bias}


def _basis(features: jax.Array, share: jax.Array, classes: int, penalty: jax.Array) -> jax.Array:
    """Matrix `[D, D]` in whose coordinates the Hessian of the objective at zero is the identity."""
    size = features.shape[1]
    # With equal probabilities the cross-entropy has the Hessian covariance/K.
    hessian = (share * features).T @ features / classes + penalty * jnp.eye(size)
    # The covariance of dependent features is singular.
    jitter = 1e-6 * jnp.trace(hessian) / size + 1e-12
    factor = jnp.linalg.cholesky(hessian + jitter * jnp.eye(size))
    return jax.scipy.linalg.solve_triangular(factor, jnp.eye(size), lower=True).T


def _minimise(
    objective: Callable[[dict[str, jax.Array]], jax.Array], start: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Minimum of a convex function, by L-BFGS until the gradient vanishes or stops shrinking."""
    solver = optax.lbfgs(memory_size=20)
    value_and_grad = optax.value_and_grad_from_state(objective)

    def step(carry: tuple) -> tuple:
        params, state, smallest, stalled, count = carry
        value, gradient = value_and_grad(params, state=state)
        norm = optax.tree.norm(gradient)
        stalled = jnp.where(norm < smallest, 0, stalled + 1)
        updates, state = solver.update(
            gradient, state, params, value=value, grad=gradient, value_fn=objective
        )
        params = optax.apply_updates(params, updates)
        return params, state, jnp.minimum(norm, smallest), stalled, count + 1

    def unfinished(carry: tuple) -> jax.Array:
        _, _, smallest, stalled, count = carry
        return (smallest > _GRADIENT) & (stalled < _STALLED) & (count < _ITERATIONS)

    carry = (start, solver.init(start), jnp.float32(jnp.inf), jnp.int32(0), jnp.int32(0))
    return jax.lax.while_loop(unfinished, step, carry)[0]


def _ridge_regression(batch: Batch, classes: int, strength: jax.Array) -> PyTree:
    """Parameters of `ridge`; a strength of 0 is chosen on the validation examples."""
    features, mean, share = _centred(batch)
    target = jax.nn.one_hot(batch["label"], classes)
    target_mean = (share * target).sum(0, keepdims=True)
    left, right, eigenvalues = _decompose(features, target - target_mean, share)
    variance = (share * features**2).sum() / features.shape[1]

    def kernel_of(value: jax.Array) -> jax.Array:
        # The floor keeps 0/0 away where all features are constant.
        return left @ (right / (eigenvalues + jnp.maximum(value * variance, 1e-30))[:, None])

    if len(batch["validation_label"]):
        # The residuals of the examples that the kernel was fitted to would be too small.
        features = _flat(batch["validation_image"]) - mean
        target = jax.nn.one_hot(batch["validation_label"], classes)
        share = jnp.full((len(target), 1), 1 / len(target))
        default = _chosen(kernel_of, target_mean, features, target)
    else:
        default = jnp.float32(1)  # used for a traced 0 alone
    strength = jnp.where(strength > 0, strength, default)
    kernel = kernel_of(strength)
    error = (share * (features @ kernel + target_mean - target) ** 2).sum() / classes
    label = class_labels(batch["label"], batch["weight"], classes)
    return {
        # The one-hot row of a label out of range would be zeros.
        "kernel": jnp.where((label < classes).all(), kernel, jnp.nan),
        "bias": (target_mean - mean @ kernel)[0],
        "scale": 1 / jnp.maximum(error, _SMALLEST_ERROR),
        "strength": strength,
    }


def _decompose(
    features: jax.Array, target: jax.Array, share: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Arrays `left [D, R]`, `right [R, K]` and `eigenvalues [R]` that serve all penalties.

    `left @ (right / (eigenvalues + penalty)[:, None])` minimises the weighted squared error plus
    `penalty · |kernel|²`.
    """
    root = share**0.5
    inputs = root * features
    outputs = root * target
    if inputs.shape[1] <= inputs.shape[0]:
        eigenvalues, vectors = jnp.linalg.eigh(inputs.T @ inputs)
        left = vectors
        right = vectors.T @ (inputs.T @ outputs)
    else:
        eigenvalues, vectors = jnp.linalg.eigh(inputs @ inputs.T)
        left = inputs.T @ vectors
        right = vectors.T @ outputs
    return left, right, jnp.maximum(eigenvalues, 0)  # rounding makes some of them negative


def _chosen(
    kernel_of: Callable[[jax.Array], jax.Array],
    bias: jax.Array,
    features: jax.Array,
    target: jax.Array,
) -> jax.Array:
    """Strength with the best validation accuracy; ties go to the smaller squared error."""

    def score(strength: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = features @ kernel_of(strength) + bias
        correct = (output.argmax(-1) == target.argmax(-1)).sum()
        return correct, ((output - target) ** 2).sum()

    strengths = jnp.array(STRENGTHS)
    correct, error = jax.lax.map(score, strengths)  # one after the other: outputs may be large
    best = jnp.where(correct == correct.max(), error, jnp.inf)
    return strengths[best.argmin()]
