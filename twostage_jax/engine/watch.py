"""Measures of an encoder while it trains: linear probe, nearest neighbours, effective rank."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from twostage_jax.engine.compile import compiler_options
from twostage_jax.engine.placement import Placement, abstract, spread
from twostage_jax.scores import spectrum
from twostage_jax.stages.heads.probes import neighbour_accuracy, probe_accuracy
from twostage_jax.stages.stage import Key, Metrics, Params, as_image, new_key
from twostage_jax.trees import PyTree

# Names of the figures; the metrics of a stage must have other names.
FIGURES = ("probe", "knn", "rank", "spread")
_BLOCK = 500  # images that are encoded at a time


def make_watch(
    features: Callable[[Params, jax.Array], jax.Array], classes: int
) -> Callable[[Params, Mapping[str, jax.Array]], Metrics]:
    """Return `(params, data) -> figures`, scalars.

    `probe` and `knn` are validation accuracies of heads that are fitted to the labelled examples.
    `rank` and `spread` describe the features of the validation images. Without validation examples,
    only `rank` and `spread` are returned, for the other images.

    Args:
        features: `(params, image float32 [B, H, W, C]) -> features [B, D]`.
        classes: number of classes K.
    """

    def watch(params: Params, data: Mapping[str, jax.Array]) -> Metrics:
        image = data["image"]
        labelled = len(image)
        if "validation_image" in data:
            image = jnp.concatenate([image, data["validation_image"]])
        encoded = encode_blocks(features, params, image)
        held_out = encoded[labelled:] if "validation_image" in data else encoded
        figures = {
            "rank": spectrum.effective_rank(held_out),
            "spread": spectrum.spread(held_out),
        }
        if "validation_image" in data:
            batch = {
                "image": encoded[:labelled],
                "label": data["label"],
                "weight": jnp.ones(labelled),
                "validation_image": held_out,
                "validation_label": data["validation_label"],
            }
            figures["probe"] = probe_accuracy(batch, classes)
            figures["knn"] = neighbour_accuracy(batch, classes)
        return figures

    return watch


def encode_blocks(
    features: Callable[[Params, jax.Array], jax.Array], params: Params, image: jax.Array
) -> jax.Array:
    """Features `[N, D]` of images `[N, H, W, C]`, a block at a time."""
    count = len(image)
    block = min(_BLOCK, count)
    # The last block is padded, so that the encoder is traced once.
    missing = -count % block
    image = jnp.concatenate([image, image[:1].repeat(missing, 0)])
    blocks = image.reshape(-1, block, *image.shape[1:])
    encoded = jax.lax.map(lambda images: features(params, as_image(images)), blocks)
    return encoded.reshape(len(image), -1)[:count]


def lower_watch(
    watch: Callable[[Mapping[str, PyTree], Params, Mapping[str, PyTree]], Metrics],
    numbers: Mapping[str, PyTree],
    params: Params,
    data: Mapping[str, PyTree],
    axes: tuple[PyTree, Mapping[str, int | None]],
    placement: Placement,
) -> jax.stages.Lowered:
    """Lower `(numbers, params, data, key) -> figures` of the members of a chunk.

    Args:
        watch: `(numbers, params, data) -> figures` of one member.
        numbers: swept numbers of one member, any values.
        params: shapes of the parameters of one member.
        data: shapes of the examples of one member.
        axes: axes of `params` and of `data`.
        placement: members on devices.
    """

    # The key is an argument because validation has one; nothing is random here.
    def measure(
        numbers: Mapping[str, PyTree], params: Params, data: Mapping[str, PyTree], key: Key
    ) -> Metrics:
        return watch(numbers, params, data)

    all_axes = (0, *axes, 0)
    program = jax.jit(spread(measure, placement, all_axes), compiler_options=compiler_options())
    arguments = (dict(numbers), params, dict(data), jax.eval_shape(new_key))
    return program.lower(*abstract(placement, all_axes, arguments))
