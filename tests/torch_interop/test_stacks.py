"""Layers of torch in leaves that have a stack of layers, as scan and vmap make them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from adadelta_jax.torch_interop import (
    LeafLayout,
    match_flax_params,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
)
from tests.refusals import assert_refused
from tests.torch_interop.moving import as_torch, assert_moves_exactly, random_array, stepped, torch

EMBEDDING, HEADS, BATCH, LENGTH = 12, 3, 2, 5
LAYERS = 4


class TorchStack(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(
            [
                torch.nn.TransformerEncoderLayer(
                    EMBEDDING, HEADS, 16, dropout=0.0, batch_first=True
                )
                for _ in range(LAYERS)
            ]
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class LinenLayer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        norm = {"epsilon": 1e-5, "use_fast_variance": False}
        attention = nn.MultiHeadDotProductAttention(num_heads=HEADS, name="self_attn")
        x = nn.LayerNorm(name="norm1", **norm)(x + attention(x))
        hidden = nn.relu(nn.Dense(16, name="linear1")(x))
        return nn.LayerNorm(name="norm2", **norm)(
            x + nn.Dense(EMBEDDING, name="linear2")(hidden)
        ), None


class LinenStack(nn.Module):
    @nn.compact
    def __call__(self, x):
        scanned = nn.scan(
            LinenLayer, variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS
        )
        return scanned(name="layers")(x, None)[0]


class NNXLayer(nnx.Module):
    def __init__(self, rngs):
        norm = {"epsilon": 1e-5, "use_fast_variance": False, "rngs": rngs}
        self.self_attn = nnx.MultiHeadAttention(HEADS, EMBEDDING, decode=False, rngs=rngs)
        self.norm1, self.norm2 = nnx.LayerNorm(EMBEDDING, **norm), nnx.LayerNorm(EMBEDDING, **norm)
        self.linear1 = nnx.Linear(EMBEDDING, 16, rngs=rngs)
        self.linear2 = nnx.Linear(16, EMBEDDING, rngs=rngs)

    def __call__(self, x):
        x = self.norm1(x + self.self_attn(x))
        return self.norm2(x + self.linear2(nnx.relu(self.linear1(x))))


class NNXStack(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=LAYERS)
        @nnx.vmap
        def layer(rngs):
            return NNXLayer(rngs)

        self.layers = layer(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def through(layer, x):
            return layer(x)

        return through(self.layers, x)


def linen_stack(x):
    model = LinenStack()
    return model.init(jax.random.key(0), x)["params"], lambda params: model.apply(
        {"params": params}, x
    )


def nnx_stack(x):
    graph, params = nnx.split(NNXStack(nnx.Rngs(0)), nnx.Param)
    return params, lambda params: nnx.merge(graph, params)(x)


@pytest.mark.parametrize("stack", [linen_stack, nnx_stack])
def test_layers_stacked_by_scan_are_those_of_a_list_of_torch(stack):
    x = random_array(BATCH, LENGTH, EMBEDDING)
    module = TorchStack()
    params, outputs = stack(jnp.asarray(x))
    mapping = match_flax_params(module, params)
    query, key, value = mapping["layers.2.self_attn.in_proj_weight"]
    assert (query.path, query.leaf_part) == ("layers/self_attn/query/kernel", (2,))
    assert (key.torch_part, value.torch_part) == (((12, 24),), ((24, 36),))
    optimizer = stepped(module, lambda module: module(as_torch(x)).pow(3).sum())
    moved = assert_moves_exactly(module, optimizer, params, mapping)
    np.testing.assert_allclose(outputs(moved), module(as_torch(x)).detach(), atol=1e-4)


def test_a_stack_in_a_stack_has_two_axes_of_layers():
    params = {"stages": {"blocks": {"scale": jnp.zeros((2, 3, 5))}}}
    shapes = {f"stages.{i}.blocks.{j}.weight": (5,) for i in range(2) for j in range(3)}
    mapping = match_flax_params(shapes, params)
    layout = LeafLayout("stages/blocks/scale", leaf_part=(1, 2))
    assert mapping["stages.1.blocks.2.weight"] == layout


def test_a_stack_under_another_name_is_paired_by_its_module():
    params = {"blocks": {"kernel": jnp.zeros((2, 3, 4))}}
    shapes = {f"h.{layer}.weight": (4, 3) for layer in range(2)}
    mapping = match_flax_params(shapes, params, pairs={"h": "blocks"})
    assert mapping["h.1.weight"] == LeafLayout("blocks/kernel", (1, 0), leaf_part=(1,))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (1, r"layers/kernel \(2, 3, 4\) is paired only in part, with 1 of its layers"),
        (3, r"layers.2.weight \(4, 3\) does not fit layers/kernel \(2, 3, 4\)"),
    ],
)
def test_a_stack_of_other_length_is_refused(layers, message):
    shapes = {f"layers.{layer}.weight": (4, 3) for layer in range(layers)}
    with pytest.raises(ValueError, match=message):
        match_flax_params(shapes, {"layers": {"kernel": jnp.zeros((2, 3, 4))}})


STACK = {"layers": {"kernel": jnp.ones((2, 3, 4))}}
STACK_MAPPING = match_flax_params({f"layers.{i}.weight": (4, 3) for i in range(2)}, STACK)


def stack_optimizer(groups):
    arrays = {key: np.ones((4, 3), np.float32) for key in ("square_avg", "acc_delta")}
    settings = {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0}
    return {
        "state": {i: {"step": 3.0, **arrays} for group in groups for i in group},
        "param_groups": [settings | {"params": group} for group in groups],
    }


def test_a_stack_with_layers_in_several_groups_is_refused():
    assert_refused(
        lambda: optimizer_from_torch(stack_optimizer([[0], [1]]), STACK, STACK_MAPPING),
        ValueError,
        "layers/kernel is one leaf, which must be in one group as a whole or be frozen as a whole, "
        "but it is made of layers.0.weight (in group 0), layers.1.weight (in group 1)",
    )


def test_a_stack_with_a_frozen_layer_is_refused():
    state = stack_optimizer([[0, 1]])
    assert_refused(
        lambda: optimizer_from_torch(state, STACK, STACK_MAPPING, frozen=["layers.0.weight"]),
        ValueError,
        "layers/kernel is one leaf, which must be in one group as a whole or be frozen as a whole, "
        "but it is made of layers.0.weight (frozen), layers.1.weight (in group 0)",
    )


def test_a_layer_without_state_starts_from_zero_with_a_warning():
    state = stack_optimizer([[0, 1]])
    del state["state"][1]
    with pytest.warns(UserWarning, match="layers.1.weight: without state"):
        _, opt_state = optimizer_from_torch(state, STACK, STACK_MAPPING)
    (square_avg,) = jax.tree.leaves(optax.tree.get(opt_state, "square_avg"))
    np.testing.assert_array_equal(square_avg[0], np.ones((3, 4)))
    assert not square_avg[1].any()
    returned = optimizer_to_torch(opt_state, STACK, STACK_MAPPING)
    assert list(returned["state"]) == [0]


def test_nan_in_a_part_is_warned_of_by_its_torch_name():
    weights = {f"layers.{i}.weight": np.full((4, 3), np.nan if i else 0.0, "f") for i in range(2)}
    with pytest.warns(UserWarning, match=r"NaN inside: layers\.1\.weight$"):
        params_from_torch(weights, STACK, STACK_MAPPING)


def test_parts_of_one_leaf_must_have_one_dtype():
    weights = {f"layers.{i}.weight": np.ones((4, 3), "f" if i else "e") for i in range(2)}
    assert_refused(
        lambda: params_from_torch(weights, STACK, STACK_MAPPING),
        TypeError,
        "layers.1.weight is float32, but layers.0.weight, which is of the same layers/kernel, is "
        "float16",
    )
