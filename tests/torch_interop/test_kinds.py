"""Where shapes fit several layouts: what tells them apart, and what is refused or warned of."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from adadelta_jax.torch_interop import LeafLayout, match_flax_params, params_from_torch
from tests.torch_interop.test_names import tree

SQUARE = {"weight": (4, 4, 3, 3)}
IMAGES = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype("f")


def layout_of(name, shape, leaf_shape, **options):
    params = tree(**{f"{name}__kernel": leaf_shape})
    return match_flax_params({f"{name}.weight": shape}, params, **options)[f"{name}.weight"]


@pytest.mark.parametrize("name", ["up", "upconv1", "features_3", "head"])
def test_a_square_convolution_whose_name_does_not_say_what_it_is_is_refused(name):
    with pytest.raises(ValueError, match="as a convolution and as a transposed convolution"):
        layout_of(name, (4, 4, 3, 3), (3, 3, 4, 4))
    plain = layout_of(name, (4, 4, 3, 3), (3, 3, 4, 4), conv_transpose=[])
    assert plain == LeafLayout(f"{name}/kernel", (2, 3, 1, 0))
    transposed = layout_of(name, (4, 4, 3, 3), (3, 3, 4, 4), conv_transpose=[name])
    assert transposed == LeafLayout(f"{name}/kernel", (2, 3, 0, 1), (0, 1))


def test_a_square_convolution_is_known_by_conv_in_its_name():
    assert layout_of("conv2", (4, 4, 3, 3), (3, 3, 4, 4)).axes == (2, 3, 1, 0)


GPT2 = {
    "attn.c_attn": (8, 24),
    "attn.c_proj": (8, 8),
    "mlp.c_fc": (8, 32),
    "mlp.c_proj": (32, 8),
}


def names_of_gpt2(modules=GPT2):
    names = {}
    for module, (fan_in, fan_out) in modules.items():
        names |= {f"{module}.weight": (fan_in, fan_out), f"{module}.bias": (fan_out,)}
    return names


def params_of_gpt2(modules=GPT2):
    params = {}
    for module, (fan_in, fan_out) in modules.items():
        path = module.replace(".", "__")
        params |= {f"{path}__kernel": (fan_in, fan_out), f"{path}__bias": (fan_out,)}
    return tree(**params)


def test_weights_of_inputs_and_outputs_are_known_by_their_biases_and_square_ones_by_their_names():
    mapping = match_flax_params(names_of_gpt2(), params_of_gpt2())
    for module in GPT2:
        assert mapping[f"{module}.weight"].axes is None


def test_a_square_weight_beside_such_is_refused_where_nothing_tells():
    modules = GPT2 | {"pooler": (8, 8)}
    with pytest.raises(
        ValueError, match=r"pooler\.weight \(8, 8\) fits .* not transposed"
    ) as error:
        match_flax_params(names_of_gpt2(modules), params_of_gpt2(modules))
    assert "untransposed=[torch module name]" in str(error.value)
    mapping = match_flax_params(
        names_of_gpt2(modules), params_of_gpt2(modules), untransposed=list(GPT2)
    )
    assert mapping["pooler.weight"].axes == (1, 0)
    assert mapping["attn.c_proj.weight"].axes is None


def test_a_square_weight_beside_one_that_was_paired_untransposed_by_hand_is_refused():
    names = {"c_attn.weight": (4, 12), "c_proj.weight": (4, 4)}
    params = tree(c_attn__kernel=(4, 12), c_proj__kernel=(4, 4))
    pairs = {"c_attn.weight": LeafLayout("c_attn/kernel")}
    with pytest.raises(ValueError, match=r"c_proj\.weight .* not transposed"):
        match_flax_params(names, params, pairs=pairs)


def test_a_weight_of_inputs_and_outputs_without_a_bias_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        layout_of("fc", (2, 3), (2, 3))
    assert layout_of("fc", (2, 3), (2, 3), untransposed=["fc"]) == LeafLayout("fc/kernel")


@pytest.mark.torch
@pytest.mark.parametrize("transposed", [False, True])
def test_a_live_module_knows_a_square_transposed_convolution(transposed):
    import torch

    layer = (torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d)(4, 4, 3)
    module = (nn.ConvTranspose if transposed else nn.Conv)(4, (3, 3), padding="VALID")
    params = {"up": module.init(jax.random.key(0), IMAGES)["params"]}
    model = torch.nn.ModuleDict({"up": layer})
    params = params_from_torch(model.state_dict(), params, match_flax_params(model, params))
    expected = layer(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    outputs = module.apply({"params": params["up"]}, IMAGES)
    np.testing.assert_allclose(outputs, expected.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.torch
def test_a_class_of_the_users_is_of_the_kind_that_it_derives_from():
    import torch

    class ConvUp(torch.nn.ConvTranspose2d):
        pass

    model = torch.nn.ModuleDict({"up": ConvUp(4, 4, 3, bias=False)})
    mapping = match_flax_params(model, tree(up__kernel=(3, 3, 4, 4)))
    assert mapping["up.weight"] == LeafLayout("up/kernel", (2, 3, 0, 1), (0, 1))


@pytest.mark.torch
def test_a_live_module_knows_layers_that_are_not_transposed_by_the_name_of_their_class():
    import torch

    class Conv1D(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(4, 4))

    model = torch.nn.ModuleDict({"proj": Conv1D(), "out": torch.nn.Linear(4, 4, bias=False)})
    mapping = match_flax_params(model, tree(proj__kernel=(4, 4), out__kernel=(4, 4)))
    assert mapping["proj.weight"].axes is None
    assert mapping["out.weight"].axes == (1, 0)


@pytest.mark.torch
@pytest.mark.parametrize("transposed", [False, True])
def test_equinox_convolutions_give_the_outputs_of_torch(transposed):
    import torch

    layer = (torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d)(4, 4, 3, stride=2)
    kind = eqx.nn.ConvTranspose2d if transposed else eqx.nn.Conv2d
    module = kind(4, 4, 3, stride=2, key=jax.random.key(0))
    params, rest = eqx.partition({"layer": module}, eqx.is_inexact_array)
    model = torch.nn.ModuleDict({"layer": layer})
    params = params_from_torch(model.state_dict(), params, match_flax_params(model, params))
    image = np.moveaxis(IMAGES[0], -1, 0)
    outputs = eqx.combine(params, rest)["layer"](jnp.asarray(image))
    expected = layer(torch.from_numpy(image)[None])[0].detach()
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("transposed", [False, True])
def test_haiku_convolutions_and_norms_give_the_outputs_of_torch(transposed):
    import torch

    layer = (torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d)(4, 4, 3, stride=2)
    kind = hk.Conv2DTranspose if transposed else hk.Conv2D

    def forward(x):
        x = kind(4, 3, stride=2, padding="VALID", name="layer")(x)
        return hk.LayerNorm(-1, True, True, name="norm")(x)

    network = hk.without_apply_rng(hk.transform(forward))
    params = network.init(jax.random.key(0), IMAGES)
    model = torch.nn.ModuleDict({"layer": layer, "norm": torch.nn.LayerNorm(4)})
    torch.nn.init.normal_(model["norm"].bias)
    params = params_from_torch(model.state_dict(), params, match_flax_params(model, params))
    expected = layer(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    expected = model["norm"](expected).detach()
    np.testing.assert_allclose(network.apply(params, IMAGES), expected, rtol=1e-4, atol=1e-4)


def test_a_haiku_batch_norm_takes_vectors_in_its_shape():
    names = {"bn.weight": (3,), "bn.bias": (3,)}
    params = {"bn": tree(scale=(1, 1, 1, 3), offset=(1, 1, 1, 3))}
    weights = {"bn.weight": np.arange(3.0, dtype="f"), "bn.bias": np.ones(3, "f")}
    params = params_from_torch(weights, params, match_flax_params(names, params))
    assert params["bn"]["scale"].shape == (1, 1, 1, 3)
    np.testing.assert_array_equal(params["bn"]["scale"].ravel(), [0, 1, 2])


@pytest.mark.parametrize("name", ["t_conv1", "convt", "conv_t", "upconv", "conv_decoder.0"])
def test_a_square_convolution_whose_name_may_say_transposed_is_refused(name):
    with pytest.raises(ValueError, match="as a convolution and as a transposed convolution"):
        match_flax_params({f"{name}.weight": (8, 8, 3, 3)}, nested(name, np.zeros((3, 3, 8, 8))))


@pytest.mark.parametrize("name", ["conv", "conv1", "dw_conv", "conv_out", "convs.2"])
def test_a_square_convolution_whose_name_says_so_is_one(name):
    mapping = match_flax_params(
        {f"{name}.weight": (8, 8, 3, 3)}, nested(name, np.zeros((3, 3, 8, 8)))
    )
    assert mapping[f"{name}.weight"].axes == (2, 3, 1, 0)


def nested(name, kernel):
    params = {"kernel": kernel}
    for part in reversed(name.split(".")):
        params = {part: params}
    return params


def test_a_norm_over_an_image_of_equal_sides_is_refused_and_another_moves_its_channels():
    with pytest.raises(ValueError, match="channels first and as a norm with channels last"):
        match_flax_params({"ln.weight": (4, 4, 4)}, tree(ln__scale=(4, 4, 4)))
    mapping = match_flax_params({"ln.weight": (8, 4, 4)}, tree(ln__scale=(4, 4, 8)))
    assert mapping["ln.weight"] == LeafLayout("ln/scale", (1, 2, 0))


def test_a_list_of_layers_that_names_a_module_around_them_is_refused():
    shapes = {"block.up.weight": (8, 8, 3, 3)}
    with pytest.raises(ValueError, match=r"conv_transpose must list layers .* got block"):
        match_flax_params(
            shapes, nested("block.up", np.zeros((3, 3, 8, 8))), conv_transpose=["block"]
        )


def test_a_square_layer_beside_one_that_is_not_transposed_is_refused():
    shapes = {
        "a.proj.weight": (4, 4),
        "a.c.weight": (4, 12),
        "a.c.bias": (12,),
        "b.proj.weight": (9, 4),
    }
    params = {
        "a": {
            "proj": {"kernel": np.zeros((4, 4))},
            "c": {"kernel": np.zeros((4, 12)), "bias": np.zeros(12)},
        },
        "b": {"proj": {"kernel": np.zeros((4, 9))}},
    }
    with pytest.raises(ValueError, match=r"a\.proj\.weight \(4, 4\) fits"):
        match_flax_params(shapes, params)
