"""The tensors of an attention of torch in the leaves of Flax, Equinox and Haiku."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adadelta_jax.torch_interop import LeafLayout, match_flax_params, params_from_torch
from tests.torch_interop.moving import as_torch, assert_moves_exactly, random_array, stepped, torch

EMBEDDING, HEADS, BATCH, LENGTH = 12, 3, 2, 5


class LinenAttention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(num_heads=HEADS, name="attention")(x)


class EquinoxAttention(eqx.Module):
    attention: eqx.nn.MultiheadAttention

    def __init__(self):
        self.attention = eqx.nn.MultiheadAttention(
            HEADS,
            EMBEDDING,
            use_query_bias=True,
            use_key_bias=True,
            use_value_bias=True,
            use_output_bias=True,
            key=jax.random.key(0),
        )


def nnx_attention(x):
    attention = nnx.MultiHeadAttention(HEADS, EMBEDDING, decode=False, rngs=nnx.Rngs(0))
    graph, params = nnx.split(nnx.Dict(attention=attention), nnx.Param)
    return params, lambda params: nnx.merge(graph, params)["attention"](x)


def linen_attention(x):
    model = LinenAttention()
    params = model.init(jax.random.key(0), x)["params"]
    return params, lambda params: model.apply({"params": params}, x)


def equinox_attention(x):
    params, static = eqx.partition(EquinoxAttention(), eqx.is_inexact_array)

    def outputs(params):
        attention = eqx.combine(params, static).attention
        return jax.vmap(lambda sequence: attention(sequence, sequence, sequence))(x)

    return params, outputs


def haiku_attention(x):
    def forward(x):
        attention = hk.MultiHeadAttention(
            HEADS, EMBEDDING // HEADS, w_init=hk.initializers.Constant(0.1), name="attention"
        )
        return attention(x, x, x)

    model = hk.without_apply_rng(hk.transform(forward))
    return model.init(jax.random.key(0), x), lambda params: model.apply(params, x)


class TorchAttention(torch.nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(EMBEDDING, HEADS, batch_first=True, **settings)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.3)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("by", ["module", "names and shapes"])
@pytest.mark.parametrize(
    "attention", [nnx_attention, linen_attention, equinox_attention, haiku_attention]
)
def test_attention_of_torch_is_that_of_flax_equinox_and_haiku(attention, by):
    x = random_array(BATCH, LENGTH, EMBEDDING)
    module = TorchAttention()
    params, outputs = attention(jnp.asarray(x))
    source = module if by == "module" else module.state_dict()
    mapping = match_flax_params(source, params)
    assert len(mapping["attention.in_proj_weight"]) == 3
    optimizer = stepped(module, lambda module: module(as_torch(x)).square().sum())
    moved = assert_moves_exactly(module, optimizer, params, mapping)
    np.testing.assert_allclose(outputs(moved), module(as_torch(x)).detach(), atol=1e-5)


def test_attention_with_keys_of_another_size_has_a_tensor_each():
    module = torch.nn.MultiheadAttention(EMBEDDING, HEADS, kdim=8, vdim=7)
    params = {
        "query": {"kernel": jnp.zeros((EMBEDDING, HEADS, 4)), "bias": jnp.zeros((HEADS, 4))},
        "key": {"kernel": jnp.zeros((8, HEADS, 4)), "bias": jnp.zeros((HEADS, 4))},
        "value": {"kernel": jnp.zeros((7, HEADS, 4)), "bias": jnp.zeros((HEADS, 4))},
        "out": {"kernel": jnp.zeros((HEADS, 4, EMBEDDING)), "bias": jnp.zeros(EMBEDDING)},
    }
    mapping = match_flax_params(module, params)
    assert mapping["k_proj_weight"] == LeafLayout("key/kernel", (1, 0), torch_shape=(12, 8))
    moved = params_from_torch(module.state_dict(), params, mapping)
    key = module.k_proj_weight.detach().numpy()
    np.testing.assert_array_equal(moved["key"]["kernel"][:, 2, 1], key[2 * 4 + 1])


def test_biases_of_keys_that_flax_does_not_have_are_refused():
    module = TorchAttention(add_bias_kv=True)
    params, _ = nnx_attention(jnp.zeros((1, 1, EMBEDDING)))
    with pytest.raises(ValueError, match=r"attention\.bias_k \(1, 1, 12\) has no counterpart"):
        match_flax_params(module, params)


class SeparateTorch(torch.nn.Module):
    """Query, key and value in layers of their own, as in the published layout of BERT."""

    def __init__(self):
        super().__init__()
        for name in ("query", "key", "value", "out"):
            setattr(self, name, torch.nn.Linear(EMBEDDING, EMBEDDING))

    def forward(self, x):
        query, key, value = (
            layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("attention", [nnx_attention, linen_attention])
def test_heads_are_split_where_flax_splits_them(attention):
    x = random_array(BATCH, LENGTH, EMBEDDING)
    module = torch.nn.ModuleDict({"attention": SeparateTorch()})
    params, outputs = attention(jnp.asarray(x))
    mapping = match_flax_params(module.state_dict(), params)
    layout = LeafLayout("attention/out/kernel", (1, 0), torch_shape=(EMBEDDING, EMBEDDING))
    assert mapping["attention.out.weight"] == layout
    optimizer = stepped(
        module, lambda module: module["attention"](as_torch(x)).square().sum(), steps=1
    )
    moved = assert_moves_exactly(module, optimizer, params, mapping)
    expected = module["attention"](as_torch(x)).detach()
    np.testing.assert_allclose(outputs(moved), expected, atol=1e-5)


def test_heads_are_not_split_where_a_size_differs():
    params = {"query": {"kernel": jnp.zeros((12, 3, 4))}}
    assert match_flax_params({"query.weight": (12, 12)}, params)
    for shape in ((12, 11), (11, 12), (144,), (12, 12, 1)):
        with pytest.raises(ValueError, match=r"query\.weight"):
            match_flax_params({"query.weight": shape}, params)


def test_a_linear_layer_is_not_taken_for_a_convolution_of_one_axis():
    params = {"patches": {"kernel": jnp.zeros((4, 3, 5))}}  # (width, channels, outputs)
    with pytest.raises(ValueError, match=r"patches.weight \(5, 12\) does not fit patches/kernel"):
        match_flax_params({"patches.weight": (5, 12)}, params)
