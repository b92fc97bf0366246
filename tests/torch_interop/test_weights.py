"""The weights of a torch module fill a pytree, or are refused; here as NumPy arrays."""

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adadelta_jax.torch_interop import optimizer_from_torch, params_from_torch, params_to_torch
from tests.refusals import (
    MAPPING,
    PARAMS,
    WEIGHTS,
    assert_refused,
    each_refusal,
    optim_state_dict,
)


def test_shapes_alone_are_enough_to_be_filled():
    shapes = jax.eval_shape(lambda: PARAMS)
    params = params_from_torch(WEIGHTS, shapes, MAPPING)
    chex.assert_trees_all_equal(params, PARAMS)


def test_arrays_of_bfloat16_are_taken():
    array = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(3, 2).T
    params = params_from_torch(WEIGHTS | {"fc.weight": array}, PARAMS, MAPPING)
    chex.assert_trees_all_equal(params["dense"]["kernel"], jnp.asarray(array.T))


def test_running_statistics_that_the_mapping_does_not_name_are_passed_over():
    weights = WEIGHTS | {"bn.running_mean": np.ones(2), "bn.num_batches_tracked": np.array(3)}
    chex.assert_trees_all_equal(params_from_torch(weights, PARAMS, MAPPING), PARAMS)


def test_parameters_and_accumulators_are_sharded_as_the_pytree_that_they_fill():
    sharding = NamedSharding(Mesh(jax.devices()[:1], "data"), PartitionSpec())
    params = params_from_torch(WEIGHTS, jax.device_put(PARAMS, sharding), MAPPING)
    _, opt_state = optimizer_from_torch(optim_state_dict(), params, MAPPING)
    accumulators = optax.tree.get(opt_state, "square_avg")
    assert {leaf.sharding for leaf in jax.tree.leaves((params, accumulators))} == {sharding}
    params = params_from_torch(WEIGHTS, PARAMS, MAPPING)
    assert not any(leaf.committed for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("committed", [True, False])
def test_parameters_share_no_memory_with_what_they_are_read_from(committed):
    memory = np.zeros(4096 + 64, np.uint8)
    start = -memory.ctypes.data % 64  # only memory aligned like this can become a JAX array's
    array = memory[start : start + 4096].view(np.float32)
    template = {"w": jnp.zeros(1024)}
    if committed:
        template = jax.device_put(template, jax.devices()[0])
    params = params_from_torch({"w": array}, template, {"w": "w"})
    array.fill(7.0)
    chex.assert_trees_all_equal(params, template)


def test_nan_is_carried_over_with_a_warning_that_names_the_tensor():
    weights = WEIGHTS | {"fc.bias": np.array([1.0, np.nan], np.float32)}
    optim_state = optim_state_dict()
    optim_state["state"][0]["acc_delta"][0, 1] = np.nan
    with pytest.warns(UserWarning, match=r"^loaded with NaN inside: fc.bias$") as warned:
        params = params_from_torch(weights, PARAMS, MAPPING)
    assert warned[0].filename == __file__
    with pytest.warns(UserWarning, match=r"^loaded with NaN inside: acc_delta of fc.weight$"):
        _, opt_state = optimizer_from_torch(optim_state, params, MAPPING)
    np.testing.assert_array_equal(params["dense"]["bias"], weights["fc.bias"])
    acc_delta = optax.tree.get(opt_state, "acc_delta")["dense"]["kernel"]
    np.testing.assert_array_equal(acc_delta.T, optim_state["state"][0]["acc_delta"])


UNMATCHED = "the model's state_dict and mapping do not match:"


def load(weights):
    return lambda: params_from_torch(weights, PARAMS, MAPPING)


def load_bias(bias):
    return load(WEIGHTS | {"fc.bias": bias})


REFUSALS = {
    "a model": (
        load(...),
        TypeError,
        "model_state_dict must be a dict, as model.state_dict() gives, got ellipsis",
    ),
    "a name that is a number": (
        load(WEIGHTS | {3: WEIGHTS["fc.bias"]}),
        TypeError,
        "model_state_dict: a torch name must be a string, got 3",
    ),
    "a tensor too few": (
        load({"fc.weight": WEIGHTS["fc.weight"]}),
        ValueError,
        f"{UNMATCHED} the state_dict lacks fc.bias",
    ),
    "tensors too many": (
        load(WEIGHTS | {"head.weight": np.ones(1), "head.bias": np.ones(1)}),
        ValueError,
        f"{UNMATCHED} mapping lacks head.weight, head.bias. "
        "Map a tensor to None if it is a buffer, or has another name too",
    ),
    "the layout of Flax": (
        load(WEIGHTS | {"fc.weight": np.ones((3, 2), "f")}),
        ValueError,
        "fc.weight has shape (3, 2), but dense/kernel of shape (3, 2) needs (2, 3)",
    ),
    "a tensor of fewer axes": (
        load(WEIGHTS | {"fc.weight": np.ones(3, "f")}),
        ValueError,
        "fc.weight has shape (3,), but dense/kernel of shape (3, 2) needs (2, 3)",
    ),
    **{
        f"a tensor of {dtype}": (
            load_bias(np.ones(2).astype(dtype)),
            TypeError,
            f"fc.bias is {shown}, but dense/bias is float32",
        )
        for dtype, shown in (
            ("int32", "int32"),
            ("complex64", "complex64"),
            ("O", "object"),
            ("U1", "<U1"),
            ("M8[s]", "datetime64[s]"),
        )
    },
    "a tensor of float64": (
        load_bias(np.ones(2)),
        ValueError,
        "fc.bias is float64, which JAX keeps only after jax.config.update('jax_enable_x64', True)",
    ),
    "a tensor of a dtype that JAX lacks": (
        load_bias(np.ones(2, np.longdouble)),
        TypeError,
        "fc.bias is float128, which JAX does not have",
    ),
    **{
        f"a tensor that is {name}": (
            load_bias(value),
            TypeError,
            f"fc.bias must be a tensor or an array, got {type(value).__name__}",
        )
        for name, value in (
            ("a list", [1.0, 2.0]),
            ("a dtype", np.float32),
            ("a shape", jax.ShapeDtypeStruct((2,), "float32")),
        )
    },
}


@each_refusal(REFUSALS)
def test_wrong_weights_are_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)


def test_what_refused_weights_were_to_fill_is_as_it_was():
    params = jax.tree.map(jnp.array, PARAMS)
    with pytest.raises(ValueError, match=r"fc\.bias has shape"):
        params_from_torch(WEIGHTS | {"fc.bias": np.ones(3, "f")}, params, MAPPING)
    chex.assert_trees_all_equal(params, PARAMS)


def test_weights_come_back_as_they_were():
    weights = {
        name: np.random.default_rng(0).normal(size=array.shape).astype("f")
        for name, array in WEIGHTS.items()
    }
    back = params_to_torch(params_from_torch(weights, PARAMS, MAPPING), MAPPING)
    assert back.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(back[name], array)
