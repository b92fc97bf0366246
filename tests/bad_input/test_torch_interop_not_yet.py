"""Wrong arguments of `torch_interop` that are not refused in words of this package yet.

Each is here with the words to come. One that is refused in them fails its mark: it then moves to
test_torch_interop.py, and what it raised before goes from tests/fuzz/clear_errors.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

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
    load_after,
    optim_state_dict,
)


def layout(**fields):
    return lambda: params_to_torch(PARAMS, MAPPING | {"fc.weight": LeafLayout(**fields)})


TORCH = {
    "pairs=3": (
        lambda: match_flax_params(WEIGHTS, PARAMS, pairs=3),
        TypeError,
        "pairs must be a dict from torch names to paths, got int",
    ),
    "conv_transpose, text": (
        lambda: match_flax_params(WEIGHTS, PARAMS, conv_transpose="fc"),
        TypeError,
        "conv_transpose must be a list of names, got 'fc'",
    ),
    "conv_transpose=3": (
        lambda: match_flax_params(WEIGHTS, PARAMS, conv_transpose=3),
        TypeError,
        "conv_transpose must be a list of names, got 3",
    ),
    "a name that is a number": (
        lambda: match_flax_params({3: (2,)}, PARAMS),
        TypeError,
        "torch_names_and_shapes: a name must be a string, got 3",
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
            ("axes", "None or integers", {"path": "dense/kernel", "axes": 3}),
            ("axes", "None or integers", {"path": "dense/kernel", "axes": (1.0, 0.0)}),
            ("flip", "integers", {"path": "dense/kernel", "axes": (1, 0), "flip": 3}),
            (
                "view",
                "None or sizes",
                {"path": "dense/kernel", "view": (-2, -3), "torch_shape": (2, 3)},
            ),
            (
                "torch_shape",
                "None or sizes",
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
        lambda: params_from_torch(
            WEIGHTS | {"fc.bias": jax.random.split(jax.random.key(0))}, PARAMS, MAPPING
        ),
        TypeError,
        "fc.bias is key<fry>, but dense/bias is float32",
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
        "opt_state holds square_avg of fc.weight, fc.bias, but no acc_delta",
    ),
}
LOADED = {
    name: (load_after(damage), error, message)
    for name, damage, error, message in (
        (
            "state=None",
            lambda state_dict, *_: state_dict.update(state=None),
            TypeError,
            "state must be a dict of dicts, got None",
        ),
        (
            "an entry that is a number",
            lambda state_dict, *_: state_dict["state"].update({0: 3}),
            TypeError,
            "the state of fc.weight must be a dict, got int",
        ),
        (
            "an entry that is a tensor",
            lambda state_dict, *_: state_dict["state"].update({0: np.ones(3)}),
            TypeError,
            "the state of fc.weight must be a dict, got ndarray",
        ),
        (
            "param_groups=3",
            lambda state_dict, *_: state_dict.update(param_groups=3),
            TypeError,
            "param_groups must be a list of dicts, got 3",
        ),
        (
            "params=3",
            lambda _, group, __: group.update(params=3),
            TypeError,
            "params of param_groups[0] must be a list, got 3",
        ),
        (
            "params, a tensor",
            lambda _, group, __: group.update(params=torch.arange(2)),
            TypeError,
            f"params of param_groups[0] must be a list, got {torch.arange(2)!r}",
        ),
        (
            "param_names=None",
            lambda _, group, __: group.update(param_names=None),
            TypeError,
            "param_names of param_groups[0] must be a list of names, got None",
        ),
        (
            "param_names, of lists",
            lambda _, group, __: group.update(param_names=[["a"], ["b"]]),
            TypeError,
            "param_names of param_groups[0] must be a list of names, got [['a'], ['b']]",
        ),
        (
            "lr=None",
            lambda _, group, __: group.update(lr=None),
            TypeError,
            "param_groups[0]: lr must be a number, got None",
        ),
        (
            "weight_decay, a function",
            lambda _, group, __: group.update(weight_decay=abs),
            TypeError,
            f"param_groups[0]: weight_decay must be a number, got {abs!r}",
        ),
        (
            "maximize, text",
            lambda _, group, __: group.update(maximize="no"),
            TypeError,
            "param_groups[0]: maximize must be True or False, got 'no'",
        ),
        (
            "maximize, two",
            lambda _, group, __: group.update(maximize=torch.ones(2)),
            TypeError,
            f"param_groups[0]: maximize must be True or False, got {np.ones(2, 'f')!r}",
        ),
        (
            "step, past all floats",
            lambda _, __, entry: entry.update(step=10**400),
            TypeError,
            f"step of fc.weight must be a number, got {10**400}",
        ),
        (
            "step, text",
            lambda _, __, entry: entry.update(step="7"),
            TypeError,
            "step of fc.weight must be a number, got '7'",
        ),
        (
            "square_avg, a dtype that JAX lacks",
            lambda _, __, entry: entry.update(square_avg=np.ones((2, 3), np.longdouble)),
            TypeError,
            "square_avg of fc.weight is float128, which JAX does not have",
        ),
        (
            "square_avg, below zero",
            lambda _, __, entry: entry.update(square_avg=np.full((2, 3), -1.0, np.float32)),
            ValueError,
            "square_avg of fc.weight must be at least 0, got -1",
        ),
    )
}
TABLE = {**TORCH, **{f"loading, {name}": row for name, row in LOADED.items()}}


@pytest.mark.xfail(
    reason="it fails in the words of Python or JAX, or is accepted: these words would help more"
)
@pytest.mark.parametrize(("call", "error", "message"), TABLE.values(), ids=TABLE)
def test_a_wrong_argument_will_be_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
