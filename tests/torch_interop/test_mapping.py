"""A mapping written by hand leads to every leaf of any pytree, or is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adadelta_jax import adadelta
from adadelta_jax.torch_interop import (
    LeafLayout,
    match_flax_params,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)
from tests.refusals import (
    MAPPING,
    PARAMS,
    WEIGHTS,
    assert_refused,
    each_refusal,
    optim_state_dict,
    with_kernel,
)


@pytest.mark.parametrize("as_pure_dict", [True, False])
def test_a_mapping_serves_nnx_variables_and_their_values(as_pure_dict):
    params = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    params = nnx.to_pure_dict(params) if as_pure_dict else params
    weights = {"weight": np.ones((2, 3), np.float32), "bias": np.ones(2, np.float32)}
    by_hand = {"weight": LeafLayout("kernel/value", axes=(1, 0)), "bias": "bias/value"}
    for mapping in (match_flax_params(weights, params), by_hand):
        filled = params_from_torch(weights, params, mapping)
        assert jax.tree.structure(filled) == jax.tree.structure(params)


def test_a_bare_array_is_called_the_parameter():
    mapping = {"w": "the parameter"}
    params = params_from_torch({"w": np.ones(3, "f")}, jnp.zeros(3), mapping)
    np.testing.assert_array_equal(params, np.ones(3))
    assert optimizer_to_torch(adadelta().init(params), params, mapping)["state"] == {}


def test_none_leaves_a_tensor_out_of_the_model_and_of_the_optimizer():
    optim_state = optim_state_dict()
    optim_state["param_groups"][0]["params"] = [1]
    del optim_state["state"][0]
    mapping = {"fc.bias": "bias", "tied.bias": None}
    weights = {"fc.bias": WEIGHTS["fc.bias"], "tied.bias": WEIGHTS["fc.bias"]}
    params = params_from_torch(weights, {"bias": jnp.zeros(2)}, mapping)
    _, opt_state = optimizer_from_torch(optim_state, params, mapping)
    (entry,) = optimizer_to_torch(opt_state, params, mapping)["state"].values()
    np.testing.assert_array_equal(entry["square_avg"], optim_state["state"][1]["square_avg"])
    assert params_to_torch(params, mapping).keys() == {"fc.bias"}


def test_running_statistics_are_parameters_if_the_mapping_names_them():
    names = ["weight", "bias", "running_mean", "running_var"]
    mapping = {name: f"norm/{name}" for name in names}
    weights = {name: np.full(2, index, "f") for index, name in enumerate(names)}
    params = params_from_torch(weights, {"norm": dict.fromkeys(names, jnp.zeros(2))}, mapping)
    np.testing.assert_array_equal(params["norm"]["running_var"], weights["running_var"])
    entry = {"step": 1.0, "square_avg": np.ones(2, "f"), "acc_delta": np.ones(2, "f")}
    optim_state = optim_state_dict() | {"state": {1: entry}}
    frozen = ["weight", "running_mean", "running_var"]
    _, opt_state = optimizer_from_torch(optim_state, params, mapping, frozen=frozen)
    back = optimizer_to_torch(opt_state, params, mapping)
    assert back["param_groups"][0]["param_names"] == ["weight", "bias"]
    assert back["state"].keys() == {1}


def each_function(mapping, params=PARAMS):
    """A call of each function that takes a mapping."""
    return {
        "params_from_torch": lambda: params_from_torch(WEIGHTS, params, mapping),
        "params_to_torch": lambda: params_to_torch(params, mapping),
        "optimizer_from_torch": lambda: optimizer_from_torch(optim_state_dict(), params, mapping),
        "optimizer_to_torch": lambda: optimizer_to_torch((), params, mapping),
    }


REFUSALS = {
    f"{case}, {function}": (call, error, message)
    for case, calls, error, message in (
        (
            "names left over on either side",
            each_function({"w": "dense/kernel", "x": "nowhere"}),
            ValueError,
            "mapping and params do not match: params lacks nowhere; mapping lacks dense/bias",
        ),
        (
            "two names for a leaf",
            each_function(MAPPING | {"y": "dense/kernel"}),
            ValueError,
            "mapping and params do not match: mapping has more than once dense/kernel",
        ),
        (
            "a leaf of which a part is left",
            each_function(MAPPING | {"fc.bias": LeafLayout("dense/bias", leaf_part=((0, 1),))}),
            ValueError,
            "mapping and params do not match: mapping lacks a part of dense/bias",
        ),
        (
            "a tensor of which a part is left",
            each_function(
                MAPPING
                | {"fc.bias": LeafLayout("dense/bias", torch_shape=(3,), torch_part=((0, 2),))}
            ),
            ValueError,
            "mapping['fc.bias'] must have each number of a tensor of shape (3,) in one part, got "
            "((0, 2),)",
        ),
        (
            "layouts of two tensors",
            each_function(
                MAPPING
                | {
                    "fc.bias": [
                        LeafLayout("dense/bias", leaf_part=(0,)),
                        LeafLayout("dense/bias", leaf_part=((1, 2),)),
                    ]
                }
            ),
            ValueError,
            "mapping['fc.bias'] must have layouts of one tensor, got some of shapes () and (1,)",
        ),
        (
            "a part outside of the leaf",
            each_function(MAPPING | {"fc.bias": LeafLayout("dense/bias", leaf_part=(2,))}),
            ValueError,
            "mapping['fc.bias'] does not fit a leaf of shape (2,): "
            + str(LeafLayout("dense/bias", leaf_part=(2,))),
        ),
        (
            "no layout at all",
            each_function(MAPPING | {"fc.bias": ()}),
            TypeError,
            "mapping['fc.bias'] must be a path, a LeafLayout, several of them or None, got ()",
        ),
        (
            "an entry that is a pair",
            each_function(MAPPING | {"fc.bias": ("dense/bias", None)}),
            TypeError,
            "mapping['fc.bias'] must be a path, a LeafLayout, several of them or None, got "
            "('dense/bias', None)",
        ),
        (
            "a list",
            each_function([("w", "dense/kernel")]),
            TypeError,
            "mapping must be a dict from torch names to paths, as match_flax_params makes it, "
            "got list",
        ),
        (
            "a name that is a number",
            each_function({3: "dense/kernel", "b": "dense/bias"}),
            TypeError,
            "mapping: a torch name must be a string, got 3",
        ),
        (
            "a layout that does not fit",
            each_function(MAPPING | {"fc.bias": LeafLayout("dense/bias", axes=(1, 0))}),
            ValueError,
            "mapping['fc.bias'] does not fit a leaf of shape (2,): "
            f"{LeafLayout('dense/bias', axes=(1, 0))}",
        ),
        (
            "params, a number",
            each_function(MAPPING, params=3),
            ValueError,
            "mapping and params do not match: params lacks dense/kernel, dense/bias; "
            "mapping lacks the parameter",
        ),
        (
            "params with a string",
            each_function(MAPPING, params=with_kernel("ones")),
            TypeError,
            "dense/kernel must be an array, got str",
        ),
        (
            "params of a dtype that JAX lacks",
            each_function(MAPPING, params=with_kernel(np.ones((3, 2), np.longdouble))),
            TypeError,
            "dense/kernel is float128, which JAX does not have",
        ),
    )
    for function, call in calls.items()
}


@each_refusal(REFUSALS)
def test_a_mapping_that_does_not_lead_to_the_parameters_is_refused(call, error, message):
    assert_refused(call, error, message)
