"""Linen modules in a stage: their initial values and their forward pass.

Collections and random keys of a module:

- Collections beside `params` are constants. They are not trained: no gradient, no optimiser, no
  weight decay. A module that updates one in its forward pass is refused, except for `batch_stats`.
- `batch_stats`, the collection of `nn.BatchNorm`: training normalises with the statistics of the
  batch, and the running averages that the module computes are dropped. Evaluation uses the
  collection, which `make_finish` computes from images. There is never a running average.
- Dropout is on in training and off in evaluation: only training passes a key called `dropout`.
  Write `nn.Dropout(rate, deterministic=not self.has_rng("dropout"))`. Flax's other idiom works too:
  a parameter of `__call__` named `train` or `training` is True only in training, and one named
  `deterministic` is False only in training.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping

import flax.errors
import jax
import jax.numpy as jnp
from flax import linen as nn

from twostage_jax.errors import UserError
from twostage_jax.stages.dropout import training_key
from twostage_jax.stages.stage import Batch, Key, Params, Stage, new_key
from twostage_jax.trees import PyTree, tree_leaves

_IN_TRAINING = {"train": True, "training": True, "deterministic": False}
STATISTICS = "batch_stats"
_UPDATES = (
    "but a stage keeps all collections beside params constant, except for batch_stats in training: "
    "write nn.BatchNorm(use_running_average=not train) with a parameter train, or use LayerNorm or "
    "GroupNorm, and sow values into intermediates"
)


def check_module(module: object, name: str | None = None) -> None:
    """Raise `UserError` unless `module` has the methods `init` and `apply` of a Linen module."""
    if not (callable(getattr(module, "init", None)) and callable(getattr(module, "apply", None))):
        raise UserError(
            f"{name or _name(module)} has no methods init and apply: give a module of flax.linen "
            "(modules of flax.nnx or PyTorch and plain functions do not work)"
        )


def forward(
    module: nn.Module, variables: PyTree, x: jax.Array, key: Key | None = None
) -> jax.Array:
    """Return the output of a module for `x`, with one row for each row of `x`.

    Args:
        module: Linen module that returns one array.
        variables: its collections, as `init` returned them.
        x: floats `[B, ...]`; images as `as_image` returns them.
        key: key for dropout in training; None in evaluation. With a key, a module with
            `batch_stats` normalises with the statistics of `x`.

    Raises:
        UserError: not a module, integers instead of floats, a module that updates a collection or
            asks for a random key that it does not get, or an output without the axis `[B, ...]`.

    >>> import twostage_jax as ts
    >>> encoder = ts.MLP((3,))
    >>> image = jnp.ones((2, 4, 4, 1))
    >>> ts.forward(encoder, encoder.init(jax.random.key(0), image), image).shape
    (2, 3)
    """
    _check_instance(module)
    key = training_key(key)
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"{_name(module)} got values of type {dtype}: give floats; ts.as_image(image) "
            "converts images to [-1, 1]"
        )
    options = _mode(module, key is not None)
    if key is not None and isinstance(module, nn.Module):
        options["rngs"] = {"dropout": key}
    with _explained(module):
        output: PyTree
        if key is not None and has_statistics(variables):
            # The module normalises with the batch. Its running averages are dropped.
            output, _ = module.apply(variables, x, mutable=[STATISTICS], **options)
        else:
            output = module.apply(variables, x, **options)
    if not hasattr(output, "dtype"):
        raise UserError(f"{_name(module)} returned a {type(output).__name__}: return one array")
    if jnp.shape(output)[:1] != jnp.shape(x)[:1]:
        raise UserError(
            f"{_name(module)} returned {list(jnp.shape(output))} for {len(x)} inputs: return "
            f"[{len(x)}, ...], one row for each"
        )
    return jnp.asarray(output)


def has_statistics(variables: PyTree) -> bool:
    """Return True if the collections of a module contain `batch_stats`."""
    return isinstance(variables, Mapping) and STATISTICS in variables


def make_finish(encoder: nn.Module, **modules: nn.Module) -> Callable[[Params, jax.Array], Params]:
    """Make `Stage.finish`: fix the `batch_stats` of modules from images.

    Evaluation then normalises with the exact statistics of these images, as one batch of training
    would. Groups without `batch_stats` stay as they are.

    Args:
        encoder: Linen module of the group `encoder`.
        **modules: Linen modules of other groups by name; each takes the features of the encoder.

    >>> import twostage_jax as ts
    >>> finish = ts.make_finish(ts.MLP((3,)))
    >>> params = {"encoder": ts.MLP((3,)).init(jax.random.key(0), jnp.ones((2, 4, 4, 1)))}
    >>> finish(params, jnp.ones((2, 4, 4, 1))) == params  # an MLP has no statistics
    True
    """

    def finish(params: Params, images: jax.Array) -> Params:
        if not any(has_statistics(params.get(name)) for name in ("encoder", *modules)):
            return params
        params = {**params, "encoder": fix_statistics(encoder, params["encoder"], images)}
        features = forward(encoder, params["encoder"], images)
        for name, module in modules.items():
            params[name] = fix_statistics(module, params[name], features)
        return params

    return finish


def fix_statistics(module: nn.Module, variables: PyTree, x: jax.Array) -> PyTree:
    """Return the collections of a module with `batch_stats` computed from `x` `[S, ...]`.

    A module updates a statistic as `m · old + (1 - m) · batch` with a momentum m that we do not
    know. Updates of 0 and of 1 determine m and the batch's value.
    """
    if not has_statistics(variables):
        return variables

    def update(old: PyTree) -> PyTree:
        options = _mode(module, True)
        # A module may use its key as the switch between training and evaluation.
        options["rngs"] = {"dropout": new_key()}
        with _explained(module):
            _, new = module.apply(
                {**variables, STATISTICS: old}, x, mutable=[STATISTICS], **options
            )
        return new[STATISTICS]

    # XLA computes the forward pass once, because it does not depend on the old statistics.
    kept = variables[STATISTICS]
    zeros = jax.tree.map(jnp.zeros_like, kept)
    at_one = update(jax.tree.map(jnp.ones_like, kept))
    share = jax.tree.map(lambda high, low: 1 - (high - low), at_one, update(zeros))

    def approach(old: PyTree) -> PyTree:
        def leaf(old: jax.Array, new: jax.Array, share: jax.Array, kept: jax.Array) -> jax.Array:
            # A statistic that no forward pass updates keeps its value.
            batch = jnp.where(jnp.abs(share) > 1e-4, old + (new - old) / share, kept)
            return batch.astype(kept.dtype)

        return jax.tree.map(leaf, old, update(old), share, kept)

    # The difference of large values loses digits of m. The second step restores them.
    return {**variables, STATISTICS: approach(approach(zeros))}


def check_finish(stage: Stage, params: Params, name: str) -> None:
    """Raise `UserError` if parameters have `batch_stats` that the stage does not finish."""
    groups = [group for group, variables in params.items() if has_statistics(variables)]
    if groups and stage.finish is None:
        raise UserError(
            f"{name} has batch_stats in {' and '.join(groups)} and no finish: return "
            "ts.Stage(init, loss, ts.make_finish(encoder)), and apply modules with ts.forward"
        )


def dropout_key(key: Key | None, number: int) -> Key | None:
    """Return the key for `forward` of module `number` of a loss; None if the loss has no key."""
    return None if key is None else jax.random.fold_in(key, number)


def init_module(module: nn.Module, key: Key, x: jax.Array) -> PyTree:
    """Return the initial collections of a module for an input like `x`.

    A module that has constants but no parameters gets an empty `params`, by which the engine knows
    its collections.

    Raises:
        UserError: not a module, or one that updates a collection in its forward pass.
    """
    _check_instance(module)
    with _explained(module):
        variables = module.init(key, x, **_mode(module, False))
    if not isinstance(module, nn.Module) or set(variables) <= {"params"}:
        return variables
    _check_constant(module, variables, x)
    return variables if "params" in variables else {**variables, "params": {}}


def module_init(module: nn.Module) -> Callable[[Key, Batch], PyTree]:
    """Make `(key, batch) -> variables`, the initial values of a module that takes `image`.

    >>> import twostage_jax as ts
    >>> init = ts.module_init(ts.MLP((3,)))
    >>> sorted(init(jax.random.key(0), {"image": jnp.ones((2, 4))}))
    ['params']
    """

    def init(key: Key, batch: Batch) -> PyTree:
        return init_module(module, key, batch["image"])

    return init


def init_on_features(
    encoder: nn.Module, group: str, init: Callable[[Key, Batch], PyTree]
) -> Callable[[Key, Batch], Params]:
    """Make a `Stage.init` for the groups `encoder` and `group`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features.
        group: name of the second group.
        init: `(key, batch) -> parameters` of the second group; `image` holds the features.

    >>> import twostage_jax as ts
    >>> init = ts.init_on_features(ts.MLP((3,)), "projector", ts.module_init(ts.MLP((2,))))
    >>> sorted(init(jax.random.key(0), {"image": jnp.ones((2, 4, 4, 1))}))
    ['encoder', 'projector']
    """

    def init_both(key: Key, batch: Batch) -> Params:
        # A key for each group: the head's initial values do not depend on the encoder's layers.
        encoder_key, group_key = jax.random.split(key)
        variables = init_module(encoder, encoder_key, batch["image"])
        features = forward(encoder, variables, batch["image"])
        return {"encoder": variables, group: init(group_key, {**batch, "image": features})}

    return init_both


def _check_instance(module: object) -> None:
    if isinstance(module, type):
        raise UserError(f"{module.__name__} is a class: give a module, such as {module.__name__}()")
    check_module(module)


def _name(module: object) -> str:
    return getattr(module, "__name__", type(module).__name__)


def _mode(module: nn.Module, training: bool) -> dict[str, PyTree]:
    """Arguments of `__call__` that switch between training and evaluation."""
    if not isinstance(module, nn.Module):
        return {}  # another library's pair of `init` and `apply`
    parameters = inspect.signature(type(module).__call__).parameters
    return {name: value == training for name, value in _IN_TRAINING.items() if name in parameters}


@contextlib.contextmanager
def _explained(module: nn.Module) -> Iterator[None]:
    """Convert Flax's errors about collections and random keys into one sentence."""
    try:
        yield
    except flax.errors.ModifyScopeVariableError as error:
        raise UserError(
            f"{_name(module)} updates a collection in the forward pass, {_UPDATES}"
        ) from error
    except flax.errors.InvalidRngError as error:
        # Flax: `Dropout_0 needs PRNG for "dropout" (https://…)`.
        kind = str(error).partition('"')[2].partition('"')[0]
        remedy = "a stage gives only the key dropout, and only in training"
        if kind == "dropout":
            remedy = 'write nn.Dropout(rate, deterministic=not self.has_rng("dropout"))'
        raise UserError(
            f"{_name(module)} asks for a {kind!r} key and does not get it (evaluation gives no "
            f"keys): {remedy}"
        ) from error


def _check_constant(module: nn.Module, variables: PyTree, x: jax.Array) -> None:
    """Raise `UserError` if a forward pass updates a collection beside `params`.

    Training may update `batch_stats`; evaluation may update nothing.
    """
    updated: dict[bool, set[str]] = {}

    # Traced, because an updated variable is then another tracer than the one that went in.
    def run(variables: PyTree, x: jax.Array) -> None:
        before = tree_leaves({name: variables[name] for name in variables if name != "params"})
        for training in (True, False):
            options = _mode(module, training)
            if training:
                options["rngs"] = {"dropout": new_key()}
            _, state = module.apply(variables, x, mutable=True, **options)
            after = tree_leaves(state)
            updated[training] = {
                path.split("/")[0] for path, leaf in before.items() if after.get(path) is not leaf
            }

    with _explained(module):
        jax.eval_shape(run, variables, x)
    for training, names in updated.items():
        refused = sorted(names - {STATISTICS} if training else names)
        if refused:
            when = "training" if training else "evaluation"
            raise UserError(
                f"{_name(module)} updates {', '.join(refused)} in the forward pass of {when}, "
                f"{_UPDATES}"
            )
