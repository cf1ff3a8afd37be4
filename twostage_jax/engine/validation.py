"""Loss and metrics of a stage on the validation split."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.engine.compile import compiler_options
from twostage_jax.engine.placement import Placement, abstract, spread
from twostage_jax.stages.dropout import without_dropout
from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Stage, as_batch, new_key
from twostage_jax.trees import PyTree

# Folded into the key of the stage. No epoch has this number, so training uses other random bits.
LAST = np.uint32(2**32 - 1)


def make_validate(
    stage: Stage, batch_size: int
) -> Callable[[Params, Mapping[str, PyTree], Key], Metrics]:
    """Return `(params, data, key) -> metrics`: means over all examples, `loss` among them.

    The batches are as large as in training, because the loss of a batch may depend on its size. The
    examples left over are a batch of their own size. The same key gives the same figures. Dropout
    is off.

    Args:
        stage: stage whose loss is measured.
        batch_size: examples in a batch.

    Raises:
        ValueError: (from the function) no examples.
    """

    @jax.jit  # traced once for all full batches
    def sums(params: Params, key: Key, examples: Batch) -> Metrics:
        batch = as_batch(examples)
        with without_dropout():
            loss, metrics = stage.loss(params, key, batch)
        count = jnp.asarray(metrics.get("count", len(batch["label"])), jnp.float32)
        means = {**metrics, "loss": loss, "count": jnp.ones((), jnp.float32)}
        return {name: count * jnp.asarray(mean, jnp.float32) for name, mean in means.items()}

    def validate(params: Params, data: Mapping[str, PyTree], key: Key) -> Metrics:
        size = len(data["image"])
        if not size:
            raise ValueError("there are no validation examples")
        key = jax.random.fold_in(key, LAST)
        full, remainder = divmod(size, batch_size)

        def rows(start: int | jax.Array, count: int) -> Batch:
            return {
                name: jax.lax.dynamic_slice_in_dim(values, start, count)
                for name, values in data.items()
            }

        def add(index: int | jax.Array, total: Metrics, count: int) -> Metrics:
            batch_key = jax.random.fold_in(key, index)
            batch = sums(params, batch_key, rows(index * batch_size, count))
            return {name: total[name] + batch[name] for name in total}

        shapes = jax.eval_shape(sums, params, key, rows(0, min(size, batch_size)))
        total = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
        if full:
            total = jax.lax.fori_loop(0, full, lambda i, t: add(i, t, batch_size), total)
        if remainder:
            total = add(full, total, remainder)
        examples = jnp.where(total["count"] == 0, 1.0, total["count"])
        return {name: total[name] / examples for name in total if name != "count"}

    return validate


def lower_validation(
    recipe: Callable[[Mapping[str, PyTree]], tuple[Stage, optax.GradientTransformation]],
    numbers: Mapping[str, PyTree],
    params: Params,
    data: Mapping[str, PyTree],
    batch_size: int,
    axes: PyTree,
    placement: Placement,
) -> jax.stages.Lowered:
    """Lower `(numbers, params, data, key) -> metrics` of the members of a chunk.

    Args:
        recipe: `numbers -> (stage, optimiser)` of one member.
        numbers: swept numbers of one member, any values.
        params: shapes of the parameters of one member.
        data: shapes of the validation examples of one member.
        batch_size: examples in a batch.
        axes: axes of the arguments.
        placement: members on devices.
    """

    def validate(
        numbers: Mapping[str, PyTree], params: Params, data: Mapping[str, PyTree], key: Key
    ) -> Metrics:
        stage, _ = recipe(numbers)
        return make_validate(stage, batch_size)(params, data, key)

    key = jax.eval_shape(new_key)
    # The options of a training loop: the figures of members then equal those of single runs.
    program = jax.jit(spread(validate, placement, axes), compiler_options=compiler_options())
    return program.lower(*abstract(placement, axes, (dict(numbers), params, dict(data), key)))
