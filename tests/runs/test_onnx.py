"""Functions of jax as graphs: onnxruntime and torch compute the same for any number of images."""

import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twostage_jax.errors import UserError
from twostage_jax.stages.heads.search import top
from twostage_jax.stages.nets.patches import PatchConv

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from twostage_jax.runs.deploy.onnx import OUTPUT, onnx_model  # noqa: E402
from twostage_jax.runs.deploy.onnx_graph import Graph, convert, trace  # noqa: E402
from twostage_jax.runs.deploy.onnx_operations import OPERATIONS  # noqa: E402
from twostage_jax.runs.deploy.torch_program import torch_program  # noqa: E402
from twostage_jax.runs.deploy.torch_source import torch_source, traced_network  # noqa: E402

SHAPE = (4, 6, 2)
IMAGES = np.random.default_rng(0).integers(0, 256, (9, *SHAPE)).astype(np.uint8)
WEIGHTS = np.random.default_rng(1).normal(size=(48, 200)).astype(np.float32)
LABELS = np.arange(200, dtype=np.int32) % 7


def flat(x):
    return x.reshape(len(x), -1) / 255


def layer(module):
    variables = module.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    return lambda x: flat(module.apply(variables, x))


def neighbours(x):
    """The search of the nearest, with groups of columns and a gather for each row."""
    values, columns = top(flat(x) @ WEIGHTS, 2)
    return jnp.concatenate([values, jnp.asarray(LABELS)[columns].astype(jnp.float32)], -1)


def cases(x):
    """Many elementwise functions at once, one in each column."""
    y = flat(x)[:, :8] * 4 - 2
    values = [
        *(jnp.exp(y), jnp.log1p(abs(y)), jnp.expm1(y), jnp.tanh(y), nn.sigmoid(y), nn.gelu(y)),
        *(nn.gelu(y, approximate=False), nn.softplus(y), nn.elu(y), nn.leaky_relu(y), y**3),
        *(jnp.round(y), jax.lax.round(y), jnp.floor(y), jnp.ceil(y), jnp.sign(y), jnp.sqrt(abs(y))),
        *(
            jnp.clip(y, -1, 1),
            jnp.minimum(y, 0.3),
            jnp.where(y > 0, y, -y),
            jax.lax.rsqrt(y**2 + 1),
        ),
        *((y % 1.5), jnp.isfinite(1 / jnp.maximum(y, 0)), (y != 0) & ~(y > 1), jnp.exp2(y)),
        *(jnp.sin(y), jnp.cos(y), y // 0.5, jnp.power(abs(y), 1.5), (y * 3).astype(jnp.int32) // 2),
    ]
    return jnp.concatenate([value.astype(jnp.float32) for value in values], -1)


FUNCTIONS = {
    "elementwise": cases,
    "conv": layer(nn.Conv(3, (3, 3), strides=2)),
    "dilated": layer(nn.Conv(4, (2, 2), kernel_dilation=2, padding="VALID", feature_group_count=2)),
    "patches": layer(PatchConv(3, 4, 2, padding="edge")),
    "max pool": lambda x: flat(nn.max_pool(x, (2, 2), (2, 2))),
    "average pool": lambda x: flat(nn.avg_pool(x, (3, 3), (1, 2), "SAME")),
    "norm": layer(nn.LayerNorm()),
    "batch norm": layer(nn.BatchNorm(use_running_average=True)),
    "group norm": layer(nn.GroupNorm(2)),
    "softmax": lambda x: jax.nn.softmax(flat(x) @ WEIGHTS[:, :5]),
    "neighbours": neighbours,
    "sort": lambda x: jnp.sort(flat(x), -1),
    "arg": lambda x: jax.nn.one_hot(flat(x).argmax(-1), 48),
    "batched product": lambda x: flat(jnp.einsum("bhwc,bhvc->bhwv", x / 255, x / 255)),
    "attention over rows": lambda x: flat(
        jnp.swapaxes(x, 1, 2).reshape(len(x) * 6, 8).reshape(x.shape)
    ),
    "reductions": lambda x: jnp.stack([flat(x).sum(-1), flat(x).min(-1), flat(x).prod(-1)], -1),
    "positions": lambda x: flat(x) + jnp.arange(48.0)[None] + jnp.ones((len(x), 1)),
    "last": lambda x: flat(x) - flat(x)[-1:],
}


def written(name):
    """A function as a graph with the name of its result, and the function compiled by jax."""

    def function(images):
        return FUNCTIONS[name](images.astype(jnp.float32))

    graph = Graph(SHAPE)
    result = graph.full(convert(graph, trace(function, SHAPE), OPERATIONS)[0])
    return graph, result, jax.jit(function)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_onnxruntime_computes_what_jax_computes(name):
    graph, result, function = written(name)
    model = onnx_model(graph, result, function(IMAGES).shape[1], {})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for count in (9, 1):
        values = session.run([OUTPUT], {"images": IMAGES[:count]})[0]
        np.testing.assert_allclose(values, function(IMAGES[:count]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_computes_what_jax_computes(name, tmp_path):
    torch = pytest.importorskip("torch")
    graph, result, function = written(name)
    program = torch_program(graph, result)
    about = {"WEIGHTS": "", "CLASSES": [], "SHAPE": SHAPE, "TEMPERATURE": None}
    (tmp_path / "model.py").write_text(torch_source(about, traced_network(program)))
    model = runpy.run_path(str(tmp_path / "model.py"))["Classifier"]()
    model.load_state_dict({name: torch.tensor(x) for name, x in program.arrays.items()})
    for count in (9, 1):
        values = model(torch.from_numpy(IMAGES[:count]))
        np.testing.assert_allclose(values, function(IMAGES[:count]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y * 2, flat(x)), "operation (scan|while)"),
        (lambda x: flat(x) + jnp.arange(len(x))[:, None], "numbers the images of a batch"),
        (lambda x: flat(x) * 2 if len(x) == 5 else -flat(x), "differently for other numbers"),
        (lambda x: jnp.cumsum(flat(x), -1), "operation cumsum"),
    ],
)
def test_a_function_that_onnx_cannot_hold_is_refused(function, message):
    graph = Graph(SHAPE)
    traces = trace(lambda images: function(images.astype(jnp.float32)), SHAPE)
    with pytest.raises(UserError, match=message):
        convert(graph, traces, OPERATIONS)
