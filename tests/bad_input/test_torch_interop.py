"""Wrong arguments of `torch_interop`, and the words of their refusal.

What the tests in tests/torch_interop have is not here again.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from adadelta_jax import adadelta
from adadelta_jax.torch_interop import (
    LeafLayout,
    match_flax_params,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)
from tests.bad_input.refusals import (
    MAPPING,
    PARAMS,
    SCALE_STATE,
    STATE,
    WEIGHTS,
    assert_refused,
    optim_state_dict,
    with_kernel,
)

KEYS = jax.random.split(jax.random.key(0))


def layout(**fields):
    return lambda: params_to_torch(PARAMS, MAPPING | {"fc.weight": LeafLayout(**fields)})


def words_of(call):
    """What JAX says of a call, in the version at hand."""
    with pytest.raises(TypeError) as raised:
        call()
    return str(raised.value)


TABLE = {
    **{
        f"a tensor that is {name}": (
            lambda tensor=tensor: params_from_torch(WEIGHTS | {"fc.bias": tensor}, PARAMS, MAPPING),
            TypeError,
            message,
        )
        for name, tensor, message in (
            ("object", np.ones(2, object), "fc.bias is object, but dense/bias is float32"),
            ("text", np.full(2, "a"), "fc.bias is <U1, but dense/bias is float32"),
            ("a time", np.ones(2, "M8[s]"), "fc.bias is datetime64[s], but dense/bias is float32"),
            (
                "nowhere",
                torch.ones(2, device="meta"),
                "fc.bias of dtype torch.float32 cannot become an array: "
                "Cannot copy out of meta tensor; no data!",
            ),
            (
                "float8",
                torch.ones(2).to(torch.float8_e4m3fn),
                "fc.bias of dtype torch.float8_e4m3fn cannot become an array: "
                "Got unsupported ScalarType Float8_e4m3fn",
            ),
        )
    },
    "params=3": (
        lambda: params_to_torch(3, MAPPING),
        ValueError,
        "mapping and params do not match: params lacks dense/kernel, dense/bias; "
        "mapping lacks the parameter",
    ),
    "axes of text": (
        lambda: params_to_torch(
            PARAMS, MAPPING | {"fc.weight": LeafLayout("dense/kernel", ("a", "b"))}
        ),
        TypeError,
        "mapping['fc.weight']: axes must be None or a tuple of integers, got ('a', 'b')",
    ),
    "names with three parts": (
        lambda: match_flax_params([("a", (1,), 3)], PARAMS),
        TypeError,
        "torch_names_and_shapes must be a state_dict, named_parameters() or a dict from names to "
        "shapes, got list",
    ),
    "frozen=[3]": (
        lambda: optimizer_from_torch(
            {"state": {}, "param_groups": []}, PARAMS, MAPPING, frozen=[3]
        ),
        TypeError,
        "frozen must be a list of torch names, got [3]",
    ),
    "param_groups={}": (
        lambda: optimizer_to_torch(STATE, PARAMS, MAPPING, {}),
        TypeError,
        "param_groups must be a list of dicts, got {}",
    ),
    "opt_state is None": (
        lambda: optimizer_to_torch(None, PARAMS, MAPPING),
        ValueError,
        "opt_state holds no square_avg and acc_delta of these params",
    ),
    "pairs=3": (
        lambda: match_flax_params(WEIGHTS, PARAMS, pairs=3),
        TypeError,
        "pairs must be a dict from torch names to paths, got int",
    ),
    "conv_transpose, text": (
        lambda: match_flax_params(WEIGHTS, PARAMS, conv_transpose="fc"),
        TypeError,
        "conv_transpose must be a list of torch names, got 'fc'",
    ),
    "conv_transpose=3": (
        lambda: match_flax_params(WEIGHTS, PARAMS, conv_transpose=3),
        TypeError,
        "conv_transpose must be a list of torch names, got 3",
    ),
    "a name that is a number": (
        lambda: match_flax_params({3: (2,)}, PARAMS),
        TypeError,
        "torch_names_and_shapes: a torch name must be a string, got 3",
    ),
    "a shape of arrays": (
        lambda: match_flax_params({"dense.bias": [np.ones(2)]}, {"dense": {"bias": jnp.ones(2)}}),
        TypeError,
        "torch_names_and_shapes must be a state_dict, named_parameters() or a dict from names to "
        "shapes, got dict",
    ),
    "a name in mapping that is a number": (
        lambda: optimizer_from_torch(
            optim_state_dict(), PARAMS, {3: "dense/kernel", "b": "dense/bias"}
        ),
        TypeError,
        "mapping: a torch name must be a string, got 3",
    ),
    **{
        f"LeafLayout({', '.join(f'{key}={value!r}' for key, value in fields.items())})": (
            layout(**fields),
            TypeError,
            f"mapping['fc.weight']: {wrong} must be {expected}, got {fields[wrong]!r}",
        )
        for wrong, expected, fields in (
            ("path", "a string", {"path": 3}),
            ("axes", "None or a tuple of integers", {"path": "dense/kernel", "axes": 3}),
            ("axes", "None or a tuple of integers", {"path": "dense/kernel", "axes": (1.0, 0.0)}),
            ("flip", "a tuple of integers", {"path": "dense/kernel", "axes": (1, 0), "flip": 3}),
            ("view", "None or a tuple of integers", {"path": "dense/kernel", "view": 6}),
            (
                "torch_shape",
                "None or a tuple of integers",
                {"path": "dense/kernel", "view": (6,), "torch_shape": (2.0, 3.0)},
            ),
        )
    },
    "frozen, text": (
        lambda: optimizer_from_torch(optim_state_dict(), PARAMS, MAPPING, frozen="fc.bias"),
        TypeError,
        "frozen must be a list of torch names, got 'fc.bias'",
    ),
    "frozen=None": (
        lambda: optimizer_from_torch(optim_state_dict(), PARAMS, MAPPING, frozen=None),
        TypeError,
        "frozen must be a list of torch names, got None",
    ),
    "a tensor that JAX lacks": (
        lambda: params_from_torch(
            WEIGHTS | {"fc.bias": np.ones(2, np.longdouble)}, PARAMS, MAPPING
        ),
        TypeError,
        "fc.bias is float128, which JAX does not have",
    ),
    "a key for random numbers": (
        lambda: params_from_torch(WEIGHTS | {"fc.bias": KEYS}, PARAMS, MAPPING),
        TypeError,
        f"fc.bias of dtype key<fry> cannot become an array: {words_of(lambda: np.asarray(KEYS))}",
    ),
    "groups to return to, a number": (
        lambda: optimizer_to_torch(STATE, PARAMS, MAPPING, 3),
        TypeError,
        "param_groups must be a list of dicts, got 3",
    ),
    "groups to return to, of numbers": (
        lambda: optimizer_to_torch(STATE, PARAMS, MAPPING, [3]),
        TypeError,
        "param_groups must be a list of dicts, got [3]",
    ),
    "a state to return without a count": (
        lambda: optimizer_to_torch(SCALE_STATE._replace(count=None), PARAMS, MAPPING),
        ValueError,
        "the count of opt_state must be an integer scalar, got None",
    ),
    "a state to return without u": (
        lambda: optimizer_to_torch(SCALE_STATE._replace(acc_delta={}), PARAMS, MAPPING),
        ValueError,
        "opt_state holds square_avg of dense/bias, dense/kernel, but no acc_delta",
    ),
    "pairs with a name that is a number": (
        lambda: match_flax_params(WEIGHTS, PARAMS, pairs={3: None}),
        TypeError,
        "pairs: a torch name must be a string, got 3",
    ),
    "a name in the model that is a number": (
        lambda: params_from_torch(WEIGHTS | {3: WEIGHTS["fc.bias"]}, PARAMS, MAPPING),
        TypeError,
        "model_state_dict: a torch name must be a string, got 3",
    ),
    "a view of sizes below zero": (
        layout(path="dense/kernel", view=(-2, -3), torch_shape=(2, 3)),
        ValueError,
        "mapping['fc.weight'] does not fit a leaf of shape (3, 2): "
        f"{LeafLayout('dense/kernel', view=(-2, -3), torch_shape=(2, 3))}",
    ),
    "a shape that is text": (
        lambda: match_flax_params({"dense.bias": ""}, {"dense": {"bias": jnp.ones(())}}),
        TypeError,
        "torch_names_and_shapes must be a state_dict, named_parameters() or a dict from names to "
        "shapes, got dict",
    ),
    "params of torch": (
        lambda: params_to_torch({"dense": {"kernel": torch.ones(3, 2), "bias": 0.0}}, MAPPING),
        TypeError,
        "dense/kernel must be an array, got Tensor",
    ),
    "params of a dtype that JAX lacks": (
        lambda: params_to_torch(with_kernel(np.ones((3, 2), np.longdouble)), MAPPING),
        TypeError,
        "dense/kernel is float128, which JAX does not have",
    ),
    "a setting of the groups to return to that is no number": (
        lambda: optimizer_to_torch(STATE, PARAMS, MAPPING, [{"lr": "fast"}]),
        TypeError,
        "param_groups[0]: lr must be a number, got 'fast'",
    ),
    "a setting of the groups to return to that is out of range": (
        lambda: optimizer_to_torch(STATE, PARAMS, MAPPING, [{"rho": torch.tensor(1.5)}]),
        ValueError,
        "param_groups[0]: rho must lie in [0, 1], got 1.5",
    ),
    "a setting to return that is no number": (
        lambda: optimizer_to_torch(
            optax.inject_hyperparams(adadelta)(0.5)
            .init(PARAMS)
            ._replace(hyperparams={"learning_rate": jnp.ones(2)}),
            PARAMS,
            MAPPING,
        ),
        TypeError,
        "learning_rate of opt_state must be a number, got array([1., 1.], dtype=float32)",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), TABLE.values(), ids=TABLE)
def test_a_wrong_argument_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
