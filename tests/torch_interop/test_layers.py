"""A layer with the weights of a torch layer gives its outputs."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

from adadelta_jax.torch_interop import (
    LeafLayout,
    match_flax_params,
    params_from_torch,
    params_to_torch,
)

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="compares with the outputs of its layers")

CONV = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
CONV_TRANSPOSE = {
    1: torch.nn.ConvTranspose1d,
    2: torch.nn.ConvTranspose2d,
    3: torch.nn.ConvTranspose3d,
}


def images(rank, channels):
    return np.random.default_rng(0).normal(size=(2, *range(5, 5 + rank), channels)).astype("f")


def outputs_of_torch(module, inputs):
    """The module's outputs for inputs with channels last, which torch has second."""
    outputs = module(torch.from_numpy(np.moveaxis(inputs, -1, 1)))
    return np.moveaxis(outputs.detach().numpy(), 1, -1)


def carried_to_linen(torch_module, module, inputs, **options):
    """The outputs of `module`, called "layer", with the weights of the torch module."""
    params = {"layer": module.init(jax.random.key(0), inputs)["params"]}
    model = torch.nn.ModuleDict({"layer": torch_module})
    mapping = match_flax_params(model, params, **options)
    params = params_from_torch(model.state_dict(), params, mapping)
    return module.apply({"params": params["layer"]}, inputs)


def carried_to_nnx(torch_module, module, inputs):
    model, torch_model = nnx.Dict(layer=module), torch.nn.ModuleDict({"layer": torch_module})
    params = nnx.state(model, nnx.Param)
    mapping = match_flax_params(torch_model, params)
    nnx.update(model, params_from_torch(torch_model.state_dict(), params, mapping))
    return model.layer(inputs)


def assert_same(outputs, expected):
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [(2, 3), (3, 3)])
@pytest.mark.parametrize("rank", CONV)
def test_a_convolution_gives_the_same_outputs(rank, channels):
    inputs, (fan_in, fan_out) = images(rank, channels[0]), channels
    torch_module = CONV[rank](fan_in, fan_out, 3, stride=2)
    expected = outputs_of_torch(torch_module, inputs)
    kinds = {"kernel_size": (3,) * rank, "strides": (2,) * rank, "padding": "VALID"}
    assert_same(carried_to_linen(torch_module, nn.Conv(fan_out, **kinds), inputs), expected)
    module = nnx.Conv(fan_in, fan_out, rngs=nnx.Rngs(0), **kinds)
    assert_same(carried_to_nnx(torch_module, module, inputs), expected)


def test_a_grouped_convolution_gives_the_same_outputs():
    inputs = images(2, 4)
    torch_module = torch.nn.Conv2d(4, 6, 3, groups=2)
    module = nn.Conv(6, (3, 3), padding="VALID", feature_group_count=2)
    expected = outputs_of_torch(torch_module, inputs)
    assert_same(carried_to_linen(torch_module, module, inputs), expected)


@pytest.mark.parametrize("rank", CONV_TRANSPOSE)
def test_a_transposed_convolution_gives_the_same_outputs(rank):
    inputs = images(rank, 2)
    torch_module = CONV_TRANSPOSE[rank](2, 3, 3, stride=2)
    expected = outputs_of_torch(torch_module, inputs)
    kinds = {"kernel_size": (3,) * rank, "strides": (2,) * rank, "padding": "VALID"}
    assert_same(carried_to_linen(torch_module, nn.ConvTranspose(3, **kinds), inputs), expected)
    module = nnx.ConvTranspose(2, 3, rngs=nnx.Rngs(0), **kinds)
    assert_same(carried_to_nnx(torch_module, module, inputs), expected)


@pytest.mark.parametrize("channels", [(2, 3), (3, 3)])
def test_a_transposed_convolution_is_settled_by_its_module_name(channels):
    inputs = images(2, channels[0])
    torch_module = torch.nn.ConvTranspose2d(*channels, 3)
    module = nn.ConvTranspose(channels[1], (3, 3), padding="VALID")
    outputs = carried_to_linen(torch_module, module, inputs, conv_transpose=["layer"])
    assert_same(outputs, outputs_of_torch(torch_module, inputs))


@pytest.mark.parametrize("channels", [(2, 3), (3, 3)])
def test_linens_transpose_kernel_has_the_layout_of_a_convolution(channels):
    inputs = images(2, channels[0])
    torch_module = torch.nn.ConvTranspose2d(*channels, 3)
    module = nn.ConvTranspose(channels[1], (3, 3), padding="VALID", transpose_kernel=True)
    outputs = carried_to_linen(torch_module, module, inputs, conv_transpose=[])
    assert_same(outputs, outputs_of_torch(torch_module, inputs))


@pytest.mark.parametrize(
    ("torch_module", "module"),
    [
        (torch.nn.Linear(4, 3), nn.Dense(3)),
        (torch.nn.Linear(4, 4, bias=False), nn.Dense(4, use_bias=False)),
        (torch.nn.LayerNorm(4), nn.LayerNorm(epsilon=1e-5)),
        (torch.nn.RMSNorm(4, eps=1e-5), nn.RMSNorm(epsilon=1e-5)),
    ],
    ids=["Linear", "square Linear", "LayerNorm", "RMSNorm"],
)
def test_a_layer_on_vectors_gives_the_same_outputs(torch_module, module):
    inputs = np.random.default_rng(0).normal(size=(5, 4)).astype("f")
    for parameter in torch_module.parameters():
        torch.nn.init.normal_(parameter)
    expected = torch_module(torch.from_numpy(inputs)).detach()
    assert_same(carried_to_linen(torch_module, module, inputs), expected)


def test_an_embedding_gives_the_same_outputs():
    tokens = np.array([[0, 3], [2, 1]])
    torch_module = torch.nn.Embedding(4, 4)
    expected = torch_module(torch.from_numpy(tokens)).detach()
    assert_same(carried_to_linen(torch_module, nn.Embed(4, 4), tokens), expected)
    assert_same(carried_to_nnx(torch_module, nnx.Embed(4, 4, rngs=nnx.Rngs(0)), tokens), expected)


def test_a_linear_layer_behind_a_flattened_image_gives_the_same_outputs_by_a_view():
    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = torch.nn.Conv2d(2, 3, 3), torch.nn.Linear(3 * 3 * 4, 5)

        def forward(self, x):
            return self.out(self.conv(x).flatten(1))

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(3, (3, 3), padding="VALID", name="conv")(x)
            return nn.Dense(5, name="out")(x.reshape(len(x), -1))

    inputs, model, module = images(2, 2), Torch(), Linen()
    params = module.init(jax.random.key(0), inputs)["params"]
    view = LeafLayout(
        "out/kernel", axes=(2, 3, 1, 0), torch_shape=(5, 3 * 3 * 4), view=(5, 3, 3, 4)
    )
    mapping = match_flax_params(model.named_parameters(), params, pairs={"out.weight": view})
    params = params_from_torch(model.state_dict(), params, mapping)
    expected = model(torch.from_numpy(np.moveaxis(inputs, -1, 1))).detach()
    assert_same(module.apply({"params": params}, inputs), expected)
    back = params_to_torch(params, mapping)
    for name, tensor in model.state_dict().items():
        assert torch.equal(back[name], tensor)
