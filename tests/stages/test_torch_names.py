"""Conversion of parameters to the names of the blog's network, and back."""

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
    assert {name: array.shape for name, array in state.items()} == {
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
    np.testing.assert_array_equal(state["stage1.0.weight"], kernel.T)
    assert all(type(array) is np.ndarray for array in state.values())


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
