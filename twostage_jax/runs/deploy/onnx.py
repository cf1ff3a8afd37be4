"""A run as an ONNX model: uint8 images in, probabilities out."""

import json
from collections.abc import Mapping

from twostage_jax.engine.bundle import Bundle
from twostage_jax.errors import UserError

OUTPUT = "probabilities"


def onnx_bytes(bundle: Bundle, classes: int, metadata: Mapping[str, object]) -> bytes:
    """Return the content of an ONNX file with the mean probabilities of all members.

    Args:
        bundle: the network.
        classes: number K of classes.
        metadata: properties of the model; values become JSON.

    Raises:
        UserError: without the package onnx, or for a network that ONNX cannot express.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError(
            "ONNX needs the package onnx, which is not installed: pip install 'twostage-jax[onnx]'"
        ) from error
    from twostage_jax.runs.deploy.onnx_graph import Graph, convert, trace
    from twostage_jax.runs.deploy.onnx_operations import OPERATIONS

    graph = Graph(bundle.image_shape)
    traces = trace(lambda images: bundle.apply(bundle.arrays, images)[0], bundle.image_shape)
    logits = graph.full(convert(graph, traces, OPERATIONS)[0])
    members = graph.add("Softmax", [logits], axis=-1)
    graph.add("ReduceMean", [members, graph.integers([0])], keepdims=0)
    graph.nodes[-1].output[0] = OUTPUT
    texts = {name: x if isinstance(x, str) else json.dumps(x) for name, x in metadata.items()}
    model = graph.model(OUTPUT, classes, texts)
    onnx.checker.check_model(model)
    return model.SerializeToString()
