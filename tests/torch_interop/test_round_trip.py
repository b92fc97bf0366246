"""From torch and back to torch, every tensor is what it was, bit for bit."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from adadelta_jax import adadelta
from adadelta_jax.torch_interop import (
    LeafLayout,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)

MAPPING = {"w": LeafLayout("dense/kernel", axes=(1, 0), flip=(1,)), "b": "bias"}
TEMPLATE = {"dense": {"kernel": jnp.zeros((4, 3))}, "bias": jnp.zeros(())}
DTYPES = ["float32", "float64", "float16", "bfloat16"]


def special_values(dtype, shape=(3, 4)):
    """Numbers of every kind save NaN, in a tensor whose axes are not in memory order."""
    info = torch.finfo(dtype)
    values = [0.0, -0.0, 1 / 3, -1 / 3, torch.inf, -torch.inf, info.max, info.min, info.tiny]
    values += [info.smallest_normal / 2, -info.smallest_normal / 4, 1 + info.eps]
    return torch.tensor(values, dtype=dtype).reshape(shape[::-1]).T


def mean_squares(dtype):
    """Numbers of every kind that an average of squares can be, save NaN, in such a tensor."""
    values = special_values(dtype)
    return torch.where(values < 0, -values, values)  # -0.0 stays


def checkpoint(dtype):
    """The state of a model and of its optimizer, made of special values."""
    entry = {"step": torch.tensor(5.0), "square_avg": mean_squares(dtype)}
    state = {
        0: entry | {"acc_delta": mean_squares(dtype).roll(1)},
        1: {
            "step": torch.tensor(5.0),
            "square_avg": torch.tensor(0.1, dtype=dtype),
            "acc_delta": torch.tensor(-0.0, dtype=dtype),
        },
    }
    parameters = [torch.nn.Parameter(torch.zeros(3, 4)), torch.nn.Parameter(torch.zeros(()))]
    groups = torch.optim.Adadelta(parameters, lr=0.3).state_dict()["param_groups"]
    model_state = {"w": special_values(dtype), "b": torch.tensor(-0.0, dtype=dtype)}
    return model_state, {"state": state, "param_groups": groups}


def bits(tensor):
    array = tensor.contiguous().view(torch.uint8) if tensor.ndim else tensor.reshape(1)
    return tensor.dtype, tensor.shape, array.view(torch.uint8).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_tensor_comes_back_bit_for_bit(dtype):
    torch_dtype = getattr(torch, dtype)
    model_state, optim_state = checkpoint(torch_dtype)
    with jax.enable_x64(dtype == "float64"):
        params = params_from_torch(model_state, TEMPLATE, MAPPING)
        _, opt_state = optimizer_from_torch(optim_state, params, MAPPING)
        weights = params_to_torch(params, MAPPING)
        back = optimizer_to_torch(opt_state, params, MAPPING, optim_state["param_groups"])
    assert params["dense"]["kernel"].dtype == dtype
    for name, array in weights.items():
        if dtype == "bfloat16":
            tensor = torch.from_numpy(array.view("int16")).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(array)
        assert bits(tensor) == bits(model_state[name])
    assert back["param_groups"] == optim_state["param_groups"]
    assert back["state"].keys() == optim_state["state"].keys()
    for index, entry in optim_state["state"].items():
        assert back["state"][index].keys() == entry.keys()
        for key, tensor in entry.items():
            assert bits(back["state"][index][key]) == bits(tensor)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_torch_optimizer_that_takes_its_state_back_has_it_bit_for_bit(dtype):
    torch_dtype = getattr(torch, dtype)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 4).to(torch_dtype)
    optimizer = torch.optim.Adadelta(model.parameters(), lr=0.3)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 3, dtype=torch_dtype)).square().sum().backward()
        optimizer.step()
    mapping = {"weight": LeafLayout("w", axes=(1, 0)), "bias": "b"}
    template = {"w": jnp.zeros((3, 4)), "b": jnp.zeros(4)}
    with jax.enable_x64(dtype == "float64"):
        params = params_from_torch(model.state_dict(), template, mapping)
        _, opt_state = optimizer_from_torch(optimizer.state_dict(), params, mapping)
        back = optimizer_to_torch(opt_state, params, mapping, optimizer.param_groups)
    other = torch.optim.Adadelta(model.parameters())
    other.load_state_dict(back)
    assert other.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    for parameter in model.parameters():
        for key, tensor in optimizer.state[parameter].items():
            assert bits(other.state[parameter][key]) == bits(tensor)


def test_a_complex_model_comes_back_bit_for_bit_and_goes_on_alike():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(3, dtype=torch.complex128))
    optimizer = torch.optim.Adadelta([parameter], weight_decay=0.1)
    grads = torch.randn(5, 3, dtype=torch.complex128)

    def steps(grads):
        for grad in grads:
            parameter.grad = grad.conj()  # not yet conjugated in memory
            optimizer.step()

    steps(grads[:2])
    with jax.enable_x64(True):
        params = params_from_torch({"w": parameter}, {"w": jnp.zeros(3, complex)}, {"w": "w"})
        here, opt_state = optimizer_from_torch(optimizer.state_dict(), params, {"w": "w"})
        back = optimizer_to_torch(opt_state, params, {"w": "w"})
        for key, tensor in optimizer.state[parameter].items():
            assert bits(back["state"][0][key]) == bits(tensor)
        for grad in grads[2:]:
            grad = {"w": params_from_torch({"g": grad.conj()}, params["w"], {"g": "the parameter"})}
            updates, opt_state = here.update(grad, opt_state, params)
            params = optax.apply_updates(params, updates)
        steps(grads[2:])
        np.testing.assert_allclose(params["w"], parameter.detach(), rtol=1e-12)


def test_nan_is_carried_over_with_a_warning_that_names_the_tensor():
    model_state, optim_state = checkpoint(torch.float32)
    model_state["w"][0, 0] = torch.nan
    optim_state["state"][0]["acc_delta"][0, 1] = torch.nan
    with pytest.warns(UserWarning, match=r"^loaded with NaN inside: w$"):
        params = params_from_torch(model_state, TEMPLATE, MAPPING)
    with pytest.warns(UserWarning, match=r"^loaded with NaN inside: acc_delta of w$"):
        _, opt_state = optimizer_from_torch(optim_state, params, MAPPING)
    weights = params_to_torch(params, MAPPING)
    back = optimizer_to_torch(opt_state, params, MAPPING)
    np.testing.assert_array_equal(weights["w"], model_state["w"])
    np.testing.assert_array_equal(
        back["state"][0]["acc_delta"], optim_state["state"][0]["acc_delta"]
    )


def test_nothing_shares_memory_with_torch_or_jax():
    model_state, optim_state = checkpoint(torch.float32)
    params = params_from_torch(model_state, TEMPLATE, MAPPING)
    _, opt_state = optimizer_from_torch(optim_state, params, MAPPING)
    before = jax.tree.map(np.array, (params, opt_state))
    weights = params_to_torch(params, MAPPING)
    back = optimizer_to_torch(opt_state, params, MAPPING)
    with torch.no_grad():
        for tensor in (*model_state.values(), *optim_state["state"][0].values()):
            tensor.fill_(7.0)
        for tensor in (*map(torch.from_numpy, weights.values()), *back["state"][0].values()):
            tensor.fill_(8.0)
    jax.tree.map(np.testing.assert_array_equal, (params, opt_state), before)


def test_parameters_that_were_placed_share_no_memory_with_torch_either():
    mesh = jax.sharding.Mesh(jax.devices()[:1], "data")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    tensor = torch.zeros(1024)  # aligned as JAX wants it, in the layout of its leaf
    template = jax.device_put({"w": jnp.zeros(1024)}, sharding)
    params = params_from_torch({"w": tensor}, template, {"w": "w"})
    tensor.fill_(7.0)
    np.testing.assert_array_equal(params["w"], np.zeros(1024))


def test_state_too_large_for_half_precision_saturates():
    params = {"w": jnp.zeros(2, jnp.float16)}
    state = adadelta().init(params)
    found = optax.tree_utils.tree_set(state, square_avg={"w": jnp.array([1e6, jnp.inf])})
    back = optimizer_to_torch(found, params, {"w": "w"})
    expected = torch.tensor([65504.0, torch.inf], dtype=torch.float16)
    assert torch.equal(back["state"][0]["square_avg"], expected)


@pytest.mark.parametrize("loaded_as", ["tensors", "arrays"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_pass_through_safetensors_files(tmp_path, dtype, loaded_as):
    path = tmp_path / "model.safetensors"
    model_state, _ = checkpoint(getattr(torch, dtype))
    model_state = {name: tensor.contiguous() for name, tensor in model_state.items()}
    safetensors.torch.save_file(model_state, path)
    load = {"tensors": safetensors.torch.load_file, "arrays": safetensors.numpy.load_file}
    with jax.enable_x64(dtype == "float64"):
        params = params_from_torch(load[loaded_as](path), TEMPLATE, MAPPING)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    safetensors.numpy.save_file(params_to_torch(params, MAPPING), path)
    for name, tensor in safetensors.torch.load_file(path).items():
        assert bits(tensor) == bits(model_state[name])


def test_arrays_of_numpy_are_taken_as_tensors_are():
    array = np.arange(12, dtype=ml_dtypes.bfloat16).reshape(4, 3).T
    params = params_from_torch({"w": array, "b": np.float32(1)}, TEMPLATE, MAPPING)
    assert params["dense"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(params_to_torch(params, MAPPING)["w"], array)


def test_arrays_are_sharded_as_the_parameters_are():
    mesh = jax.sharding.Mesh(jax.devices()[:1], "data")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    model_state, optim_state = checkpoint(torch.float32)
    params = params_from_torch(model_state, jax.device_put(TEMPLATE, sharding), MAPPING)
    _, opt_state = optimizer_from_torch(optim_state, params, MAPPING)
    averages = optax.tree_utils.tree_get(opt_state, "square_avg")
    assert {leaf.sharding for leaf in jax.tree.leaves((params, averages))} == {sharding}
    params = params_from_torch(model_state, TEMPLATE, MAPPING)
    assert not any(leaf.committed for leaf in jax.tree.leaves(params))


def test_shapes_alone_are_enough_to_be_filled():
    model_state, _ = checkpoint(torch.float32)
    shapes = jax.eval_shape(lambda: TEMPLATE)
    params = params_from_torch(model_state, shapes, MAPPING)
    np.testing.assert_array_equal(params_to_torch(params, MAPPING)["w"], model_state["w"])
