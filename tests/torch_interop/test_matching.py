"""Torch names find their Flax paths, or every name that does not is listed."""

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx

from adadelta_jax.torch_interop import LeafLayout, match_flax_params, params_from_torch


def tree(**shapes):
    """Nested dicts of zeros, "__" standing for "/"."""
    params = {}
    for path, shape in shapes.items():
        *modules, leaf = path.split("__")
        node = params
        for module in modules:
            node = node.setdefault(module, {})
        node[leaf] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return params


def paths(mapping):
    return {name: layout and layout.path for name, layout in mapping.items()}


def test_nested_modules_and_lists_are_found_by_name():
    names = {
        "encoder.layers.0.attention.query.weight": (3, 2),
        "encoder.layers.10.norm.weight": (3,),
        "blocks.1.fc.bias": (3,),
        "position": (4, 2),
    }
    expected = {
        "encoder.layers.0.attention.query.weight": "encoder/layers_0/attention/query/kernel",
        "encoder.layers.10.norm.weight": "encoder/layers_10/norm/scale",
        "blocks.1.fc.bias": "blocks_1/fc/bias",
        "position": "position",
    }
    params = tree(
        encoder__layers_0__attention__query__kernel=(2, 3),
        encoder__layers_10__norm__scale=(3,),
        blocks_1__fc__bias=(3,),
        position=(4, 2),
    )
    assert paths(match_flax_params(names, params)) == expected


def test_a_sequential_of_torch_is_one_of_flax():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    module = nnx.Sequential(
        nnx.Linear(2, 3, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(3, 3, rngs=nnx.Rngs(1))
    )
    expected = {
        "0.weight": "layers/0/kernel",
        "0.bias": "layers/0/bias",
        "2.weight": "layers/2/kernel",
        "2.bias": "layers/2/bias",
    }
    params = nnx.state(module, nnx.Param)
    assert paths(match_flax_params(model.named_parameters(), params)) == expected
    linen = tree(
        layers_0__kernel=(2, 3), layers_0__bias=(3,), layers_2__kernel=(3, 3), layers_2__bias=(3,)
    )
    assert list(paths(match_flax_params(model.state_dict(), linen)).values()) == [
        path.replace("layers/", "layers_") for path in expected.values()
    ]


@pytest.mark.parametrize("as_pure_dict", [True, False])
def test_a_mapping_serves_nnx_variables_and_their_values(as_pure_dict):
    params = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    params = nnx.to_pure_dict(params) if as_pure_dict else params
    tensors = torch.nn.Linear(2, 3).state_dict()
    by_hand = {"weight": LeafLayout("kernel/value", axes=(1, 0)), "bias": "bias"}
    for mapping in (match_flax_params(tensors, params), by_hand):
        filled = params_from_torch(tensors, params, mapping)
        assert jax.tree.structure(filled) == jax.tree.structure(params)


@pytest.mark.parametrize(
    "give", [dict.items, dict, lambda names: {n: list(s) for n, s in names.items()}]
)
def test_names_and_shapes_come_as_pairs_or_as_a_dict(give):
    names = {"fc.weight": torch.Size([3, 2])}
    params = {"fc": {"kernel": jnp.zeros((2, 3))}}
    assert match_flax_params(give(names), params)["fc.weight"].axes == (1, 0)


def test_running_statistics_are_left_out_and_say_so():
    names = {name: tensor.shape for name, tensor in torch.nn.BatchNorm1d(3).state_dict().items()}
    assert paths(match_flax_params(names, tree(scale=(3,), bias=(3,)))) == {
        "weight": "scale",
        "bias": "bias",
        "running_mean": None,
        "running_var": None,
        "num_batches_tracked": None,
    }


def test_pairs_given_by_hand_go_first():
    names = {"fc1.weight": (3, 2), "fc1.bias": (3,), "head.weight": (3, 3), "tied.weight": (9, 2)}
    params = tree(Dense_0__kernel=(2, 3), Dense_0__bias=(3,), out__w=(3, 3))
    layout = LeafLayout("out/w", axes=(1, 0))
    pairs = {"fc1": "Dense_0", "head.weight": layout, "tied": None}
    mapping = match_flax_params(names, params, pairs=pairs)
    assert mapping == {
        "fc1.weight": LeafLayout("Dense_0/kernel", axes=(1, 0)),
        "fc1.bias": LeafLayout("Dense_0/bias"),
        "head.weight": layout,
        "tied.weight": None,
    }
    pairs = {"fc1.weight": "Dense_0/kernel", "fc1.bias": "Dense_0/bias", "tied": None}
    assert match_flax_params(names, params, pairs=pairs | {"head.weight": layout}) == mapping


def message(error):
    """The lines of an error that list the names."""
    first, *lines, last = str(error.value).split("\n  ")
    assert first == "the torch names and the parameters do not pair up:"
    final, advice = last.split("\n")
    assert advice == (
        "Pair by hand with pairs={torch name: path}, or tell convolutions apart with "
        "conv_transpose=[torch module name]"
    )
    return [*lines, final]


def test_every_name_left_over_on_either_side_is_listed():
    names = {"fc.weight": (3, 2), "fc.bias": (3,), "torch_only.weight": (2,), "other": (1,)}
    params = tree(fc__kernel=(2, 3), fc__scale2=(3,), here__kernel=(2, 2), there=(7,))
    with pytest.raises(ValueError, match="do not pair up") as error:
        match_flax_params(names, params)
    assert message(error) == [
        "fc.bias (3,) has no counterpart",
        "torch_only.weight (2,) has no counterpart",
        "other (1,) has no counterpart",
        "fc/scale2 (3,) has no counterpart",
        "here/kernel (2, 2) has no counterpart",
        "there (7,) has no counterpart",
    ]


def test_a_shape_that_does_not_fit_is_refused():
    names = {"fc.weight": (3, 2), "fc.bias": (3,), "conv.weight": (4, 2, 3, 3)}
    params = tree(fc__kernel=(3, 2), fc__bias=(4,), conv__kernel=(3, 3, 4, 4))
    with pytest.raises(ValueError, match="do not pair up") as error:
        match_flax_params(names, params)
    assert message(error) == [
        "fc.weight (3, 2) does not fit fc/kernel (3, 2)",
        "fc.bias (3,) does not fit fc/bias (4,)",
        "conv.weight (4, 2, 3, 3) does not fit conv/kernel (3, 3, 4, 4)",
    ]


def test_a_name_that_fits_several_parameters_is_refused():
    names = {"fc.weight": (3,), "layers.0.bias": (2,)}
    params = tree(fc__scale=(3,), fc__embedding=(3,), layers_0__bias=(2,), layers__0__bias=(2,))
    with pytest.raises(ValueError, match="do not pair up") as error:
        match_flax_params(names, params)
    assert message(error)[:2] == [
        "fc.weight (3,) fits each of fc/embedding (3,), fc/scale (3,)",
        "layers.0.bias (2,) fits each of layers/0/bias (2,), layers_0/bias (2,)",
    ]


def test_a_parameter_that_two_names_fit_is_refused():
    names = {"layers.0.bias": (2,), "layers_0.bias": (2,)}
    with pytest.raises(ValueError, match="do not pair up") as error:
        match_flax_params(names, tree(layers_0__bias=(2,)))
    assert message(error) == ["layers_0/bias (2,) is paired more than once"]


def test_a_square_convolution_beside_a_transposed_one_is_refused_until_settled():
    names = {"up.weight": (4, 2, 3, 3), "conv.weight": (4, 4, 3, 3)}
    params = tree(up__kernel=(3, 3, 4, 2), conv__kernel=(3, 3, 4, 4))
    with pytest.raises(ValueError, match="do not pair up") as error:
        match_flax_params(names, params)
    assert message(error) == [
        "conv.weight (4, 4, 3, 3) fits conv/kernel (3, 3, 4, 4) as a convolution and as a "
        "transposed one"
    ]
    mapping = match_flax_params(names, params, conv_transpose=["up"])
    assert mapping["conv.weight"] == LeafLayout("conv/kernel", (2, 3, 1, 0))
    assert mapping["up.weight"] == LeafLayout("up/kernel", (2, 3, 0, 1), (0, 1))
    mapping = match_flax_params(names, params, conv_transpose=["up", "conv"])
    assert mapping["conv.weight"] == LeafLayout("conv/kernel", (2, 3, 0, 1), (0, 1))
    with pytest.raises(ValueError, match=r"up.weight \(4, 2, 3, 3\) does not fit up/kernel"):
        match_flax_params(names, params, conv_transpose=[])


@pytest.mark.parametrize("name", ["deconv1", "ConvTranspose_0"])
def test_a_square_transposed_convolution_is_known_by_its_name(name):
    names = {f"{name}.weight": (4, 4, 3, 3)}
    mapping = match_flax_params(names, {name: tree(kernel=(3, 3, 4, 4))})
    assert mapping[f"{name}.weight"] == LeafLayout(f"{name}/kernel", (2, 3, 0, 1), (0, 1))


def test_hand_given_names_that_do_not_exist_are_refused():
    names, params = {"fc.weight": (3, 2)}, tree(fc__kernel=(2, 3))
    with pytest.raises(ValueError, match=r"^pairs names fc1, which torch_names_and_shapes lacks$"):
        match_flax_params(names, params, pairs={"fc1": "fc"})
    with pytest.raises(ValueError, match=r"^conv_transpose names up, which torch_names_and_shapes"):
        match_flax_params(names, params, conv_transpose=["up"])
    with pytest.raises(ValueError, match=r"fc.weight \(3, 2\) has no counterpart"):
        match_flax_params(names, params, pairs={"fc": "Dense_0"})


def test_a_layout_given_by_hand_that_does_not_fit_is_refused():
    names, params = {"fc.weight": (3, 2), "out.weight": (3,)}, tree(fc__kernel=(2, 3), w=(3,))
    pairs = {"fc.weight": LeafLayout("fc/kernel"), "out.weight": "nowhere"}
    with pytest.raises(ValueError, match="do not pair up") as error:
        match_flax_params(names, params, pairs=pairs)
    assert message(error) == [
        "fc.weight (3, 2) does not fit fc/kernel (2, 3)",
        "out.weight (3,) does not fit nowhere (missing)",
        "w (3,) has no counterpart",
    ]
    with pytest.raises(TypeError) as error:
        match_flax_params(names, params, pairs={"fc": 1})
    assert str(error.value) == "pairs['fc'] must be a path, a LeafLayout or None, got 1"


@pytest.mark.parametrize("names", [torch.nn.Linear(2, 3), ["fc.weight"], {"fc.weight": 3}, None])
def test_names_without_shapes_are_refused(names):
    with pytest.raises(TypeError, match=r"^torch_names_and_shapes must be a state_dict"):
        match_flax_params(names, tree(fc__kernel=(2, 3)))
