"""Conversion of parameters to the names of the blog's network, and back."""

import sys

import jax
import numpy as np
import pytest

import twostage_jax as ts


def params():
    random = np.random.RandomState(0)

    def group(widths, inputs):
        layers = {}
        for number, width in enumerate(widths):
            kernel = random.normal(size=(inputs, width)).astype(np.float32)
            layers[f"dense_{number}"] = {"kernel": kernel, "bias": kernel[0].copy()}
            inputs = width
        return {"params": layers}

    return {"encoder": group((8, 5), 16), "decoder": group((8, 16), 5), "head": group((6, 3), 5)}


def test_names_and_layouts_match_the_network_of_the_blog():
    ours = params()
    state = ts.torch_state_dict(ours)
    assert {name: tuple(array.shape) for name, array in state.items()} == {
        "stage1.0.weight": (8, 16),
        "stage1.0.bias": (8,),
        "stage1.2.weight": (5, 8),
        "stage1.2.bias": (5,),
        "decoder.0.weight": (8, 5),
        "decoder.0.bias": (8,),
        "decoder.2.weight": (16, 8),
        "decoder.2.bias": (16,),
        "stage2.0.weight": (6, 5),
        "stage2.0.bias": (6,),
        "stage2.2.weight": (3, 6),
        "stage2.2.bias": (3,),
    }
    kernel = ours["encoder"]["params"]["dense_0"]["kernel"]
    np.testing.assert_array_equal(np.asarray(state["stage1.0.weight"]), kernel.T)


@pytest.mark.parametrize("groups", [("encoder", "decoder", "head"), ("encoder", "head"), ("head",)])
def test_conversion_there_and_back_is_bit_equal(groups):
    ours = {name: group for name, group in params().items() if name in groups}
    assert ts.digest(ts.from_torch_state_dict(ts.torch_state_dict(ours))) == ts.digest(ours)


def test_every_wrong_entry_is_listed():
    state = ts.torch_state_dict(params())
    state["stage3.0.weight"] = np.zeros(1)
    state["stage1.1.weight"] = np.zeros(1)
    del state["decoder.2.bias"]
    state["stage2.2.weight"] = np.zeros((3, 7))
    with pytest.raises(ts.UserError) as error:
        ts.from_torch_state_dict(state)
    for problem in (
        "stage3.0.weight is unknown",
        "stage1.1.weight is unknown",
        "decoder.2.bias is missing",
        "stage2.2.weight has shape [3, 7], expected [3, 6]",
    ):
        assert problem in str(error.value)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("stage1.0.bias", (9,), r"stage1.0.bias has shape \[9\], expected \[8\]"),
        ("stage1.0.weight", (8,), r"stage1.0.weight has shape \[8\], expected \[out, in\]"),
        ("stage2.0.weight", (6, 4), r"stage2.0.weight has shape \[6, 4\], expected \[6, 5\]"),
        ("decoder.2.weight", (15, 8), r"decoder.2.weight has shape \[15, 8\], expected \[16, 8\]"),
    ],
)
def test_a_wrong_shape_is_named(name, shape, message):
    state = ts.torch_state_dict(params()) | {name: np.zeros(shape)}
    with pytest.raises(ts.UserError, match=message) as error:
        ts.from_torch_state_dict(state)
    assert str(error.value).count("expected") == 1


def test_missing_layers_and_an_empty_state_are_rejected():
    state = ts.torch_state_dict({"encoder": params()["encoder"]})
    gap = {name.replace(".2.", ".4."): array for name, array in state.items()}
    with pytest.raises(ts.UserError) as error:
        ts.from_torch_state_dict(gap)
    assert "stage1.2.weight is missing; stage1.2.bias is missing" in str(error.value)
    with pytest.raises(ts.UserError, match="it is empty"):
        ts.from_torch_state_dict({})


def test_parameters_without_a_torch_name_are_listed():
    ours = params() | {"projector": {"params": {"dense_0": {"kernel": np.zeros((2, 2))}}}}
    with pytest.raises(ts.UserError, match="projector/params/dense_0/kernel"):
        ts.torch_state_dict(ours)


def test_both_directions_copy(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    ours = params()
    state = ts.torch_state_dict(ours)
    assert all(type(array) is np.ndarray for array in state.values())
    back = ts.from_torch_state_dict(state)
    digests = [ts.digest(ours), ts.digest(back)]
    for array in state.values():
        array += 1
    assert [ts.digest(ours), ts.digest(back)] == digests


def test_members_are_not_mistaken_for_one_network():
    members = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), params())
    with pytest.raises(ts.UserError, match=r"has shape \[2, 8\]: give .* of one member"):
        ts.torch_state_dict({"encoder": {"params": members["encoder"]["params"]}})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{name}": x for name, x in state.items()},
        lambda state: {f"model._orig_mod.{name}": x for name, x in state.items()},
        lambda state: {name.replace(".0.", "._orig_mod.0."): x for name, x in state.items()},
        lambda state: {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {}},
        lambda state: iter(state.items()),
        lambda state: {name: np.asarray(x).tolist() for name, x in state.items()},
        lambda state: {name: np.asarray(x).astype(np.float64) for name, x in state.items()},
    ],
)
def test_states_are_read_in_common_forms(wrap):
    ours = params()
    assert ts.digest(ts.from_torch_state_dict(wrap(ts.torch_state_dict(ours)))) == ts.digest(ours)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("model.pt", "'model.pt' is not the state of a PyTorch model: give model.state_dict"),
        ({"stage1.0.weight": np.ones((2, 2), int)}, "its values are int64 instead of floats"),
        ({"stage1.0.weight": "text"}, "stage1.0.weight cannot be read"),
        ({"module.stage1.0.bias": 0.0, "stage1.0.bias": 0.0}, "differ only in a prefix"),
        ({3: np.ones(2)}, "3 is unknown"),
    ],
)
def test_other_objects_are_refused_in_one_sentence(state, message):
    with pytest.raises(ts.UserError, match=message):
        ts.from_torch_state_dict(state)


def test_tensors_of_any_kind():
    torch = pytest.importorskip("torch")
    ours = params()
    state = ts.torch_state_dict(ours)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    for same in (
        {name: torch.nn.Parameter(x) for name, x in state.items()},
        {name: x.t().contiguous().t() for name, x in state.items()},
        {name: x.to_sparse() for name, x in state.items()},
    ):
        assert ts.digest(ts.from_torch_state_dict(same)) == ts.digest(ours)
    half = ts.from_torch_state_dict({name: x.bfloat16() for name, x in state.items()})
    for value, other in zip(*map(jax.tree.leaves, (half, ours)), strict=True):
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, other, rtol=1e-2)
    meta = {name: x.to("meta") for name, x in state.items()}
    with pytest.raises(ts.UserError, match="weight cannot be read: it is on the meta device"):
        ts.from_torch_state_dict(meta)
