"""One torch tensor in several leaves: layers whose outputs are shared out, and gates of cells."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adadelta_jax import adadelta, param_groups
from adadelta_jax.torch_interop import (
    LeafLayout,
    match_flax_params,
    optimizer_to_torch,
    params_to_torch,
)
from tests.refusals import assert_refused
from tests.torch_interop.moving import as_torch, assert_moves_exactly, random_array, stepped, torch


class Conv1D(torch.nn.Module):
    """A linear layer that is not transposed, as in the published layout of GPT-2."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(inputs, outputs) / inputs)
        self.bias = torch.nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
@pytest.mark.parametrize("by", ["module", "names and shapes"])
@pytest.mark.parametrize("sizes", [(6, 6, 6), (6, 2, 4), (3, 3, 6)])
def test_a_tuple_of_paths_shares_the_outputs_of_a_layer_out(kind, by, sizes):
    layer = torch.nn.Linear(6, sum(sizes)) if kind == "Linear" else Conv1D(sum(sizes), 6)
    module = torch.nn.ModuleDict({"c_attn": layer})
    params = {
        name: {"kernel": jnp.zeros((6, size)), "bias": jnp.zeros(size)}
        for name, size in zip("qkv", sizes, strict=True)
    }
    source = module if by == "module" else dict(module.named_parameters())
    mapping = match_flax_params(source, params, pairs={"c_attn": ("q", "k", "v")})
    x = random_array(4, 6)
    optimizer = stepped(module, lambda module: module["c_attn"](as_torch(x)).square().sum())
    moved = assert_moves_exactly(module, optimizer, params, mapping)
    outputs = [x @ moved[name]["kernel"] + moved[name]["bias"] for name in "qkv"]
    expected = module["c_attn"](as_torch(x)).detach()
    np.testing.assert_allclose(jnp.concatenate(outputs, -1), expected, atol=1e-5)


def test_a_tensor_shared_out_between_leaves_of_other_sizes_is_refused():
    params = {"q": {"kernel": jnp.zeros((6, 6))}, "k": {"kernel": jnp.zeros((6, 5))}}
    with pytest.raises(ValueError, match=r"c_attn.weight \(12, 6\) does not fit q/kernel \(6, 6\)"):
        match_flax_params({"c_attn.weight": (12, 6)}, params, pairs={"c_attn": ("q", "k")})


GATES = ("ii", "if", "ig", "io")


def test_gates_of_a_recurrent_cell_without_biases_are_shared_out_by_hand():
    module = torch.nn.LSTM(3, 4, bias=False, batch_first=True)
    params = {
        **{gate: {"kernel": jnp.zeros((3, 4))} for gate in GATES},
        **{f"h{gate[1]}": {"kernel": jnp.zeros((4, 4))} for gate in GATES},
    }

    def gates(first, inputs):
        return tuple(
            LeafLayout(
                f"{first}{gate[1]}/kernel",
                axes=(1, 0),
                torch_shape=(16, inputs),
                torch_part=((4 * index, 4 * index + 4),),
            )
            for index, gate in enumerate(GATES)
        )

    mapping = {"weight_ih_l0": gates("i", 3), "weight_hh_l0": gates("h", 4)}
    x = random_array(2, 5, 3)
    optimizer = stepped(module, lambda module: module(as_torch(x))[0].square().sum())
    moved = assert_moves_exactly(module, optimizer, params, mapping)
    moved = {
        **moved,
        **{name: moved[name] | {"bias": jnp.zeros(4)} for name in moved if name[0] == "h"},
    }
    outputs = nn.RNN(nn.LSTMCell(4)).apply({"params": {"cell": moved}}, x)
    np.testing.assert_allclose(outputs, module(as_torch(x))[0].detach(), atol=1e-5)


@pytest.mark.parametrize(
    ("torch_class", "flax_class"),
    [
        (torch.nn.LSTM, nnx.LSTMCell),
        (torch.nn.LSTM, nnx.OptimizedLSTMCell),
        (torch.nn.GRU, nnx.GRUCell),
    ],
)
def test_two_biases_of_torch_against_one_of_flax_are_refused_with_the_reason(
    torch_class, flax_class
):
    params = nnx.state(nnx.Dict(rnn=flax_class(3, 4, rngs=nnx.Rngs(0))), nnx.Param)
    module = torch.nn.ModuleDict({"rnn": torch_class(3, 4)})
    with pytest.raises(
        ValueError, match=r"bias_hh_l0 has two biases for each gate.* cannot be taken apart again"
    ):
        match_flax_params(module, params)


SHARED_OUT = {"q": {"kernel": jnp.ones((3, 2))}, "k": {"kernel": jnp.ones((3, 2))}}
SHARED_MAPPING = match_flax_params(
    {"qk.weight": (4, 3)}, SHARED_OUT, pairs={"qk.weight": ("q/kernel", "k/kernel")}
)


def test_leaves_of_one_tensor_must_have_one_dtype():
    params = {**SHARED_OUT, "k": {"kernel": jnp.ones((3, 2), jnp.bfloat16)}}
    assert_refused(
        lambda: params_to_torch(params, SHARED_MAPPING),
        TypeError,
        "qk.weight is made of q/kernel, which is float32, and of k/kernel, which is bfloat16",
    )


def test_leaves_of_one_tensor_must_be_in_one_group():
    optimizer = param_groups({"q": {}, "k": {}}, {"q": {"kernel": "q"}, "k": {"kernel": "k"}})
    state = optimizer.init(SHARED_OUT)
    assert_refused(
        lambda: optimizer_to_torch(state, SHARED_OUT, SHARED_MAPPING, [{"lr": 1.0}]),
        ValueError,
        "qk.weight is one tensor of one group in torch, but opt_state keeps q/kernel in another "
        "group than the rest of it",
    )


def test_leaves_of_one_tensor_in_one_group_go_back():
    state = adadelta().init(SHARED_OUT)
    _, state = adadelta().update(SHARED_OUT, state, SHARED_OUT)
    returned = optimizer_to_torch(state, SHARED_OUT, SHARED_MAPPING)
    assert returned["state"][0]["square_avg"].shape == (4, 3)
