"""Statistics that are computed from images: `Stage.finish` for all members of a stage.

Everything outside of training uses finished parameters. The host loop finishes the parameters of
all members before the first epoch and after each epoch, so validation, checkpoints, the hand-over
and the code of the caller get them. Training itself does not read the statistics, so a resumed or
extended training has the same bits.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
import optax

from twostage_jax.engine.compile import options_for_once
from twostage_jax.engine.placement import axis_map, join_members, take
from twostage_jax.stages.stage import Params, Stage, as_image
from twostage_jax.trees import PyTree

LARGEST = 6000  # images
# Pixels of `LARGEST` images of 28×28. Larger images are fewer, to limit the memory.
VALUES = LARGEST * 28 * 28
SMALLEST = 256


def finish_rows(count: int, image_shape: Sequence[int]) -> np.ndarray:
    """Return the rows of the images that statistics are computed from, evenly spaced.

    There are at most 6,000 rows. Images larger than 28×28 have fewer rows, but at least 256 if the
    source has that many images. A source may be sorted by class, so the rows cover all of it.

    >>> finish_rows(10, (28, 28, 1)).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    >>> len(finish_rows(60_000, (28, 28, 1))), len(finish_rows(60_000, (64, 64, 3)))
    (6000, 1148)
    """
    pixels = int(np.prod(image_shape[:2])) if len(image_shape) == 3 else 1
    size = min(count, LARGEST, max(SMALLEST, VALUES // pixels))
    return (np.arange(size) * count // max(size, 1)).astype(np.int64)


def changes_params(stage: Stage, params: Params, image: jax.ShapeDtypeStruct | jax.Array) -> bool:
    """Return True if the stage has a `finish` that changes parameters of these shapes."""
    finish = stage.finish
    if finish is None:
        return False
    changed = False

    # Under tracing, a changed array is another tracer than the input.
    def run(params: Params, images: jax.Array) -> None:
        nonlocal changed
        before = jax.tree.leaves(params)
        after = jax.tree.leaves(finish(params, as_image(images)))
        changed = any(x is not y for x, y in zip(before, after, strict=True))

    jax.eval_shape(run, params, image)
    return changed


def lower_finish(
    recipe: Callable[[Mapping[str, PyTree]], tuple[Stage, optax.GradientTransformation]],
    numbers: Mapping[str, PyTree],
    params: Params,
    images: jax.ShapeDtypeStruct,
) -> jax.stages.Lowered | None:
    """Lower `(numbers, params, images) -> params` of one member; None if it changes nothing.

    One program finishes the members one after the other. It needs the memory of one member, and a
    member has the bits of the single run.

    Args:
        recipe: `numbers -> (stage, optimiser)` of one member.
        numbers: swept numbers of one member, any values.
        params: shapes of the parameters of one member.
        images: shape and type of all training images of one member.
    """
    size = len(finish_rows(images.shape[0], images.shape[1:]))
    spec = jax.ShapeDtypeStruct((size, *images.shape[1:]), images.dtype)
    if not size or not changes_params(recipe(numbers)[0], params, spec):
        return None

    def finish(numbers: Mapping[str, PyTree], params: Params, images: jax.Array) -> Params:
        stage, _ = recipe(numbers)
        assert stage.finish is not None
        return stage.finish(params, as_image(images))

    program = jax.jit(finish, compiler_options=options_for_once())
    return program.lower(dict(numbers), params, spec)


def finish_members(
    program: Callable[..., Params] | None,
    axes: PyTree,
    numbers: Mapping[str, np.ndarray],
    params: Params,
    images: Callable[[np.ndarray], np.ndarray],
    members: int,
) -> Params:
    """Return the finished parameters of all members, on the host.

    Args:
        program: compiled, from `lower_finish`; without one, `params` is returned.
        axes: member axes of the parameters; shared groups are not changed.
        numbers: swept numbers, `[M]` each.
        params: parameters of all members, on the host.
        images: `members [1] -> images [N, ...]`: the training images of a member.
        members: number of members.
    """
    if program is None:
        return params
    finished = []
    for member in range(members):
        own_numbers, own_params = take(member, (0, axes), (dict(numbers), params))
        batch = images(np.array([member]))
        rows = finish_rows(len(batch), batch.shape[1:])
        result = jax.device_get(program(own_numbers, own_params, batch[rows]))
        finished.append(axis_map(_with_axis, axes, result))
    joined = join_members(axes, finished)
    # The result of one member must not replace a group that all members share.
    return axis_map(lambda axis, old, new: old if axis is None else new, axes, params, joined)


def _with_axis(axis: int | None, part: PyTree) -> PyTree:
    return part if axis is None else jax.tree.map(lambda leaf: leaf[None], part)
