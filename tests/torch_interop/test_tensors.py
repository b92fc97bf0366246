"""From torch and back, every tensor is what it was, bit for bit, and in memory of its own."""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from adadelta_jax.torch_interop import (
    LeafLayout,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)
from tests.refusals import assert_refused, each_refusal

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="tests how its tensors are read and written")

MAPPING = {"w": LeafLayout("dense/kernel", axes=(1, 0), flip=(1,)), "b": "bias"}
REAL = ["float16", "bfloat16", "float32", "float64"]
COMPLEX = {"complex64": "float32", "complex128": "float64"}  # and the dtype of their parts
DTYPES = [*REAL, *COMPLEX]


def with_x64(dtype):
    return jax.enable_x64(dtype in ("float64", "complex128"))


def template(dtype):
    kind = complex if dtype in COMPLEX else float
    return {"dense": {"kernel": jnp.zeros((4, 3), kind)}, "bias": jnp.zeros((), kind)}


def special_values(dtype):
    """Numbers of every kind except NaN, in a tensor whose axes are not in memory order."""
    if dtype in COMPLEX:
        parts = special_values(COMPLEX[dtype])
        return torch.complex(parts, parts.roll(1))
    info = torch.finfo(getattr(torch, dtype))
    values = [0.0, -0.0, 1 / 3, -1 / 3, torch.inf, -torch.inf, info.max, info.min, info.tiny]
    values += [info.smallest_normal / 2, -info.smallest_normal / 4, 1 + info.eps]
    return torch.tensor(values, dtype=getattr(torch, dtype)).reshape(4, 3).T


def mean_squares(dtype):
    """Numbers of every kind that an average of squares can be, except NaN, in such a tensor."""
    if dtype in COMPLEX:
        parts = mean_squares(COMPLEX[dtype])
        return torch.complex(parts, parts.roll(1))
    values = special_values(dtype)
    return torch.where(values < 0, -values, values)  # -0.0 stays


def checkpoint(dtype):
    """The state of a model and of its optimizer, made of special values."""
    small, zero = (torch.tensor(x, dtype=getattr(torch, dtype)) for x in (0.1, -0.0))
    averages = mean_squares(dtype)
    step = torch.tensor(5.0)
    state = {
        0: {"step": step, "square_avg": averages, "acc_delta": averages.roll(1)},
        1: {"step": step.clone(), "square_avg": small, "acc_delta": zero},
    }
    parameters = [torch.nn.Parameter(torch.zeros(3, 4)), torch.nn.Parameter(torch.zeros(()))]
    groups = torch.optim.Adadelta(parameters, lr=0.3).state_dict()["param_groups"]
    model_state = {"w": special_values(dtype), "b": zero.clone()}
    return model_state, {"state": state, "param_groups": groups}


def load(model_state, optim_state, dtype):
    params = params_from_torch(model_state, template(dtype), MAPPING)
    _, opt_state = optimizer_from_torch(optim_state, params, MAPPING)
    return params, opt_state


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_tensor_comes_back_bit_for_bit(dtype):
    model_state, optim_state = checkpoint(dtype)
    with with_x64(dtype):
        params, opt_state = load(model_state, optim_state, dtype)
        weights = params_to_torch(params, MAPPING)
        back = optimizer_to_torch(opt_state, params, MAPPING, optim_state["param_groups"])
    assert params["dense"]["kernel"].dtype == dtype
    assert weights.keys() == model_state.keys()
    for name, tensor in model_state.items():
        assert bits(weights[name]) == bits(tensor)
    assert back["param_groups"] == optim_state["param_groups"]
    assert back["state"].keys() == optim_state["state"].keys()
    for index, entry in optim_state["state"].items():
        assert back["state"][index].keys() == entry.keys()
        for key, tensor in entry.items():
            assert bits(back["state"][index][key]) == bits(tensor)


def test_a_tensor_that_is_not_yet_conjugated_or_negated_in_memory_is_read_as_it_will_be():
    lazy = torch.tensor([1 + 2j, 3 - 4j]).conj()
    params = params_from_torch({"w": lazy}, jnp.zeros(2, complex), {"w": "the parameter"})
    np.testing.assert_array_equal(params, np.array([1 - 2j, 3 + 4j], np.complex64))
    params = params_from_torch({"w": lazy.imag}, jnp.zeros(2), {"w": "the parameter"})
    np.testing.assert_array_equal(params, np.array([-2, 4], np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_shares_memory_with_torch_or_jax(dtype):
    model_state, optim_state = checkpoint(dtype)
    with with_x64(dtype):
        params, opt_state = load(model_state, optim_state, dtype)
        before = jax.tree.map(np.array, (params, opt_state))
        weights = params_to_torch(params, MAPPING)
        back = optimizer_to_torch(opt_state, params, MAPPING)
        read = [*model_state.values(), *optim_state["state"][0].values()]
        written = [*weights.values(), *(t for e in back["state"].values() for t in e.values())]
        for value, tensor in enumerate([*read, *written]):
            tensor.fill_(value)
        jax.tree.map(np.testing.assert_array_equal, (params, opt_state), before)
    for value, tensor in enumerate(written, start=len(read)):
        assert (tensor == value).all()
        assert tensor.is_contiguous()


@pytest.mark.parametrize("committed", [True, False])
def test_parameters_share_no_memory_with_a_tensor_aligned_as_jax_wants_it(committed):
    tensor = torch.zeros(1024)
    assert tensor.data_ptr() % 64 == 0
    template = {"w": jnp.zeros(1024)}
    if committed:
        template = jax.device_put(template, jax.devices()[0])
    params = params_from_torch({"w": tensor}, template, {"w": "w"})
    tensor.fill_(7.0)
    np.testing.assert_array_equal(params["w"], np.zeros(1024))


@pytest.mark.parametrize("dtype", ["int32", "bool", "float8_e4m3fn", "int4"])
def test_a_leaf_of_any_dtype_that_torch_has_becomes_a_tensor_of_it(dtype):
    leaf = jnp.array([0, 1, 1]).astype(dtype)
    tensor = params_to_torch(leaf, {"w": "the parameter"})["w"]
    assert tensor.dtype == getattr(torch, dtype)
    np.testing.assert_array_equal(tensor.view(torch.uint8), np.asarray(leaf).view(np.uint8))


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("loaded_as", ["tensors", "arrays"])
def test_weights_pass_through_safetensors_files(tmp_path, dtype, loaded_as):
    import safetensors.numpy
    import safetensors.torch  # not above, where torch may be missing

    path = tmp_path / "model.safetensors"
    model_state, _ = checkpoint(dtype)
    model_state = {name: tensor.contiguous() for name, tensor in model_state.items()}
    safetensors.torch.save_file(model_state, path)
    files = {"tensors": safetensors.torch.load_file, "arrays": safetensors.numpy.load_file}
    with with_x64(dtype):
        params = params_from_torch(files[loaded_as](path), template(dtype), MAPPING)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
        safetensors.torch.save_file(params_to_torch(params, MAPPING), path)
    for name, tensor in safetensors.torch.load_file(path).items():
        assert bits(tensor) == bits(model_state[name])


def read_as_leaf(tensor, leaf=None):
    leaf = jnp.zeros(2) if leaf is None else leaf
    return lambda: params_from_torch({"w": tensor}, {"leaf": leaf}, {"w": "leaf"})


REFUSALS = {
    **{
        f"a tensor {name}": (
            read_as_leaf(tensor),
            TypeError,
            re.compile(f"w of dtype {tensor.dtype} cannot become an array: .+"),
        )
        for name, tensor in (
            ("without data", torch.ones(2, device="meta")),
            ("of float8", torch.ones(2).to(torch.float8_e4m3fn)),
            ("that is sparse", torch.ones(2).to_sparse()),
        )
    },
    "a random key": (
        read_as_leaf(jax.random.split(jax.random.key(0))),
        TypeError,
        re.compile(r"w of dtype key<fry> cannot become an array: .+"),
    ),
    "a tensor of integers": (
        read_as_leaf(torch.ones(2, dtype=torch.int32)),
        TypeError,
        "w is int32, but leaf is float32",
    ),
    "params of torch": (
        lambda: params_to_torch({"leaf": torch.ones(2)}, {"w": "leaf"}),
        TypeError,
        "leaf must be an array, got Tensor",
    ),
    "a leaf of a dtype that torch lacks": (
        lambda: params_to_torch({"leaf": np.ones(2, ml_dtypes.float8_e3m4)}, {"w": "leaf"}),
        TypeError,
        "w is float8_e3m4, which torch does not have",
    ),
}


@each_refusal(REFUSALS)
def test_what_is_no_tensor_for_the_other_side_is_refused(call, error, message):
    assert_refused(call, error, message)
