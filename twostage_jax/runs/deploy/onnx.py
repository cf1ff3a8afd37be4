"""A run as an ONNX model: uint8 images in, probabilities out."""

import json
from collections.abc import Mapping

from twostage_jax.engine.bundle import Bundle
from twostage_jax.errors import UserError
from twostage_jax.runs.deploy.onnx_graph import Graph
from twostage_jax.runs.deploy.onnx_operations import add_probabilities
from twostage_jax.trees import PyTree

OUTPUT = "probabilities"
OPSET = 18
IR_VERSION = 9


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
    graph = Graph(bundle.image_shape)
    output = add_probabilities(graph, bundle)
    texts = {name: x if isinstance(x, str) else json.dumps(x) for name, x in metadata.items()}
    model = onnx_model(graph, output, classes, texts)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def onnx_model(graph: Graph, output: str, classes: int, metadata: Mapping[str, str]) -> PyTree:
    """Return the `onnx.ModelProto` of a graph.

    Args:
        graph: a complete graph.
        output: name of the result float32 `[N, classes]`, which the model calls `probabilities`.
        classes: number K of classes.
        metadata: properties of the model.
    """
    from onnx import TensorProto, helper, numpy_helper

    def make_node(node: PyTree) -> PyTree:
        attributes = dict(node.attributes)
        if node.kind == "Cast":
            attributes["to"] = getattr(TensorProto, TYPES[attributes["to"]])
        outputs = [OUTPUT if name == output else name for name in node.outputs]
        return helper.make_node(node.kind, node.inputs, outputs, **attributes)

    nodes = graph.used_nodes(output)
    constants = graph.used_constants(nodes)
    shape = ["N", *graph.images.shapes[0][1:]]
    result = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", classes])
    content = helper.make_graph(
        [make_node(node) for node in nodes],
        "classifier",
        [helper.make_tensor_value_info(graph.images.name, TensorProto.UINT8, shape)],
        [result],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(content, opset_imports=opsets, ir_version=IR_VERSION)
    helper.set_model_props(model, dict(metadata))
    return model


# Names of NumPy's types in ONNX.
TYPES = {"float32": "FLOAT"} | {
    name: name.upper()
    for name in ("bool", "uint8", "int8", "int32", "uint32", "int64", "float16", "bfloat16")
}
